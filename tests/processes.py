"""Processes for tests, forked from one that has imported already what takes long to import.

`run_command("status", folder)` is what `gristmill status folder` is, without the seconds of importing torch; one that
starts Python anew is in tests/cli. `start(function, ...)` is for those that are killed or told to stop.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

from tests.shared import HANG

IMPORTED = ["torch", "torch._dynamo", "torch.distributed.tensor.parallel", "torch.distributed.fsdp", "pyarrow.parquet",
            "transformers", "nicegui", "gristmill.pipeline.runner", "gristmill.data.stage",
            "gristmill.training.pretrain", "gristmill.evaluation.stage", "gristmill.finetuning.stage",
            "gristmill.alignment.stage", "gristmill.export.stage", "gristmill.serving.server"]
ALONE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""Of all processes that are started here: tests share their cores, and nothing comes from a network."""


def forkserver() -> ForkServerContext:
    """The one server of this test process; the first use decides what it imports, so all use this."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    before = dict(os.environ)
    os.environ.update(ALONE)
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before
    return context


class Started:
    """A process, and what it says. Its end is awaited without a limit but `HANG`."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], environment: Mapping[str, str] | None,
                 session: bool) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="process")
        given = dict(os.environ if environment is None else environment) | ALONE
        self._process = forkserver().Process(
            target=_begin, args=(self.folder.name, function, arguments, given, session))
        self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def out(self) -> str:
        return _text(Path(self.folder.name) / "out")

    @property
    def err(self) -> str:
        return _text(Path(self.folder.name) / "err")

    def alive(self) -> bool:
        return self._process.is_alive()

    def tell(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may end just now
            if self.alive():
                os.kill(self.pid, number)

    def kill_session(self) -> bool:
        """SIGKILL to it and to what it started in turn. False where it had ended. (It makes its process group itself,
        a moment after it has begun.)"""
        while self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
                return True
            time.sleep(0.001)
        return False

    def ended(self) -> int:
        """Its exit code, negative for a signal. A hang is killed and fails."""
        self._process.join(HANG)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError(f"it did not end within {HANG:g} s; it said:\n{self.out[-2000:]}{self.err[-4000:]}")
        return self._process.exitcode

    def kill(self) -> int:
        self._process.kill()
        self._process.join()
        return int(self._process.exitcode or 0)


def start(function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None,
          session: bool = False) -> Started:
    """`function(*arguments)` in a process of its own. environment: in place of this one. session: with what it starts
    in turn it is a process group, for `Started.kill_session`."""
    return Started(function, arguments, environment, session)


def run_command(*words: object, environment: Mapping[str, str] | None = None,
                check: bool = True) -> subprocess.CompletedProcess[str]:
    """`gristmill WORDS`, to its end."""
    process = start(command, *map(str, words), environment=environment)
    code = process.ended()
    assert not check or code == 0, process.out + process.err
    return subprocess.CompletedProcess(["gristmill", *map(str, words)], code, process.out, process.err)


def command(*words: str) -> None:
    """The command line in this process."""
    from gristmill.cli import main

    sys.argv = ["gristmill", *words]
    main()


def _begin(folder: str, function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str],
           session: bool) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
    if session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
