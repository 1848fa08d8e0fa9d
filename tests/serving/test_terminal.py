"""`gristmill serve` and `gristmill chat`, as a person types them."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gristmill.cli.chat import Settings
from tests.shared import HANG, wait_for

ROOT = Path(__file__).parents[2]
GRISTMILL = [sys.executable, "-c", "from gristmill.cli import main; main()"]


def gristmill(*arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> Any:
    return subprocess.run([*GRISTMILL, *arguments], input=stdin, text=True, capture_output=True, timeout=HANG, cwd=ROOT,
                          check=False, env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}))


@pytest.fixture(scope="module")
def answer(tiny_model: Path) -> str:
    from gristmill.generation import LanguageModel

    model = LanguageModel.open(tiny_model, device="cpu")
    return model.chat([{"role": "user", "content": "What does it do?"}], greedy=True, max_tokens=12).text


def test_once_answers_one_question_as_the_library_does(tiny_model: Path, answer: str) -> None:
    done = gristmill("chat", str(tiny_model), "--once", "What does it do?", "--temperature", "0", "--max-tokens", "12")
    assert (done.returncode, done.stdout) == (0, answer + "\n"), done.stderr


def test_a_script_can_be_piped_in(tiny_model: Path, answer: str) -> None:
    script = ("/set temperature=0\n/set max_tokens=12\nWhat does it do?\n/again\n/set temperature=9\n/set bogus=1\n"
              "/bogus\n/reset\nWhat does it do?\n/help\n/quit\nnever asked\n")
    done = gristmill("chat", str(tiny_model), stdin=script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(answer + "\n") >= 3
    assert "/system TEXT" in done.stdout
    for complaint in ("does not lie between", "write /set NAME=VALUE", "There is no /bogus"):
        assert complaint in done.stderr


def test_ctrl_c_stops_the_answer_and_not_the_program(tiny_model: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*GRISTMILL, "chat", str(tiny_model), "--max-tokens", "100", "--temperature", "0"], stdin=follower,
        stdout=follower, stderr=follower, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"},
        start_new_session=True)
    os.close(follower)
    seen = b""

    def read_until(text: bytes, interrupting: bool = False) -> None:
        """Read until `text`. A signal that meets readline just before it waits is only seen with the next one, so that
        an impatient user presses again, and so do we."""
        nonlocal seen
        until = time.monotonic() + HANG
        while text not in seen:
            assert time.monotonic() < until, seen
            if interrupting and not select.select([leader], [], [], 1.0)[0]:
                process.send_signal(signal.SIGINT)
            else:
                seen += os.read(leader, 4096)
        seen = seen.split(text, 1)[1]

    try:
        read_until(b"you > ")
        process.send_signal(signal.SIGINT)
        read_until(b"/quit leaves", interrupting=True)
        read_until(b"you > ")
        os.write(leader, b"Hello\n")
        read_until(b"bot > ")
        process.send_signal(signal.SIGINT)
        read_until(b"you > ", interrupting=True)
        asked = [0.0]

        def left() -> bool:  # a late signal takes the line that was being typed with it
            if process.poll() is None and time.monotonic() - asked[0] > 5:
                asked[0] = time.monotonic()
                os.write(leader, b"/quit\n")
            return process.poll() is not None

        wait_for(left)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_serve_prints_where_it_is_and_a_command_that_works(tiny_model: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*GRISTMILL, "serve", str(tiny_model), "--port", "0", "--no-page", "--json", "--runs-dir", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        assert process.stdout
        told = json.loads(process.stdout.readline())
        wait_for(lambda: httpx.get(f"{told['url']}/health", trust_env=False, timeout=HANG).json()["status"] == "ready",
                 lambda: process.poll() is None)
        made = httpx.post(f"{told['api']}/chat/completions", trust_env=False, timeout=HANG,
                          json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3})
        assert made.json()["usage"]["completion_tokens"] <= 3
        assert (told["page"], told["keys"]) == (None, False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG) == 0
        assert list((tmp_path / "serving").glob("deployment-*.json"))
    finally:
        process.kill()
        process.wait()


def test_serve_refuses_the_open_network_without_a_key_and_a_taken_port(tiny_model: Path) -> None:
    from gristmill.serving.server import bind

    refused = gristmill("serve", str(tiny_model), "--host", "0.0.0.0", environment={"GRISTMILL_API_KEYS": ""})
    assert refused.returncode == 2
    assert "--api-key" in refused.stderr
    with bind("127.0.0.1", 0) as taken:
        refused = gristmill("serve", str(tiny_model), "--port", str(taken.getsockname()[1]))
    assert refused.returncode == 3
    assert "in use" in refused.stderr


def test_settings_change_by_name_within_their_range() -> None:
    changed = Settings().changed("temperature=0.1").changed("seed = 7")
    assert (changed.temperature, changed.seed) == (0.1, 7)
    assert changed.changed("seed=none").seed is None
    for wrong in ("temperature=nan", "temperature=-1", "top_p=2", "max_tokens=0", "max_tokens=1.5", "seed", "x=1"):
        with pytest.raises(ValueError):
            Settings().changed(wrong)
