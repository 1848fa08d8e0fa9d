"""A tiny tokenizer and model, and server processes that are always ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # for scripted.py, which is a program and no test
START_SECONDS = 150
"""A busy machine may need long to import torch."""
TEXTS = ["def read_text(path, encoding=None):\n    return path.read_text(encoding)\n", "Return the text of the file.",
         "héllo wörld, 日本語 🎉", "What does this function do?", "0123456789 <img src=x onerror=alert(1)> ```python\n"]


@dataclass
class Running:
    """A server process: its URL, and a client for it."""

    process: subprocess.Popen[str]
    url: str
    state_dir: Path
    errors: list[str] = field(default_factory=list)

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def openai(self, key: str = "no key needed") -> Any:
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30,
                      http_client=httpx.Client(trust_env=False))

    def health(self) -> str:
        return str(httpx.get(f"{self.url}/health", timeout=5, trust_env=False).json()["status"])

    def is_ready(self) -> bool:
        try:
            return self.health() == "ready"
        except httpx.TransportError:
            return False

    def metric(self, name: str) -> float:
        with self.client() as client:
            line = next(row for row in client.get("/metrics").text.splitlines() if row.startswith(f"gristmill_{name} "))
        return float(line.split()[-1])

    def wait_until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while not condition():
            said = "".join(self.errors)[-2000:]
            assert time.monotonic() < until, f"did not happen within {seconds} s; stderr: {said}"
            assert self.process.poll() is None, f"the server ended: {said}"
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start(told: dict[str, Any], wait: bool = True) -> Running:
    """A server process with these settings, see scripted.py."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("GRISTMILL_API_KEYS", None)
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("scripted.py")), json.dumps(told)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout
    assert process.stderr
    running = Running(process, "", Path(told["state_dir"]))
    threading.Thread(target=lambda: running.errors.extend(process.stderr), daemon=True).start()
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        running.url = process.stdout.readline().strip()
        assert running.url, f"no URL: {''.join(running.errors)[-3000:]}"
        if wait:
            running.wait_until(running.is_ready, START_SECONDS)
    except BaseException:
        process.kill()
        raise
    finally:
        timer.cancel()
    return running


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gristmill.tokenizer.train import train_bpe

    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe([TEXTS], vocab_size=290).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random little decoder with a real tokenizer, saved as a public folder; logits wide enough to argue about."""
    import torch

    from gristmill.models import Decoder, DecoderConfig
    from gristmill.models.saving import save_model
    from gristmill.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = Tokenizer.load(tokenizer_folder)
    model = Decoder(DecoderConfig(vocab_size=tokenizer.vocab_size, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8,
                                  mlp_dim=64, context=128))
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 0.35, generator=generator)
    save_model(model, folder, tokenizer=tokenizer)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The tiny model behind the API, shared by the tests of a module."""
    running = start({"folder": str(tiny_model), "state_dir": str(tmp_path_factory.mktemp("state"))})
    yield running
    running.stop()


@pytest.fixture
def scripted(tokenizer_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts servers whose engine is scripted; all are ended after the test."""
    started: list[Running] = []

    def begin(answer: str = "Return the text of the file. " * 20, wait: bool = True, **told: Any) -> Running:
        told = {"folder": str(tokenizer_folder), "state_dir": str(tmp_path / "state"), "answer": answer} | told
        started.append(start(told, wait))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
        running.process.wait(10)
