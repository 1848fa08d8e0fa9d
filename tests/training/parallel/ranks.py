"""Several processes for one test: started once per world size, joined by gloo, given one function after another.

`run_ranks(function, 2, ...)` calls `function(rank, ...)` in both and returns what they return. Functions are defined at
the top of a module, arguments and results are pickled. A rank that raises fails the test with its traceback; ranks that
do not answer in time are killed, so that a deadlock is a failure too.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import pickle
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from gristmill.training.parallel import Layout, World
from tests.processes import forkserver
from tests.shared import HANG, as_started

START_SECONDS = HANG


class RanksFailed(AssertionError):
    """A rank raised, died or did not answer; the message has what is known of each."""


class Ranks:
    """`size` processes that wait for functions to run."""

    def __init__(self, size: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="ranks")
        context = forkserver()
        store = str(Path(self.folder.name) / "store")
        self.connections: list[Connection] = []
        self.processes = []
        self.before: list[str] = []  # what they were given, for when one dies of what an earlier one did to its memory
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, size, store, theirs), daemon=True)
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], args: tuple, timeout: float) -> list[Any]:
        """Results by rank. Raises RanksFailed; the processes are dead then."""
        job = pickle.dumps((function, args))
        for connection in self.connections:
            connection.send_bytes(job)
        answers: dict[int, tuple[bool, Any]] = {}
        left = timeout
        while len(answers) < len(self.connections) and left > 0:
            waiting = [c for rank, c in enumerate(self.connections) if rank not in answers]
            began = time.monotonic()
            found = wait(waiting, timeout=min(left, 1))
            left -= min(time.monotonic() - began, 2)  # a machine that stood still waited no longer than that
            for ready in found:
                rank = self.connections.index(ready)  # type: ignore[arg-type]
                try:
                    answers[rank] = pickle.loads(ready.recv_bytes())  # type: ignore[union-attr]
                except (EOFError, OSError):
                    self.processes[rank].join(10)
                    code, before = self.processes[rank].exitcode, self.before
                    answers[rank] = (False, f"the process died ({code}) after {len(before)} others: {before[-10:]}")
                if not answers[rank][0]:  # the others may wait for it for ever; they get time to fail by themselves
                    left = min(left, 2)
        if len(answers) == len(self.connections) and all(fine for fine, _ in answers.values()):
            self.before.append(getattr(function, "__name__", str(function)))
            return [answers[rank][1] for rank in range(len(answers))]
        self.kill()
        told = [f"rank {rank}: " + ("fine" if answers[rank][0] else answers[rank][1]) if rank in answers
                else f"rank {rank}: no answer within {timeout:g} s" for rank in range(len(self.connections))]
        raise RanksFailed("\n" + "\n".join(told))

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(Exception):
                process.kill()
        for process in self.processes:
            process.join()
        for connection in self.connections:
            connection.close()
        self.folder.cleanup()


_kept: dict[int, Ranks] = {}


def run_ranks(function: Callable[..., Any], size: int, *args: Any, timeout: float = HANG, fresh: bool = False) -> list:
    """`function(rank, *args)` on `size` processes -> results by rank.

    fresh: new processes that end afterwards, for what closes the process group or dies on purpose.
    """
    if fresh:
        ranks = Ranks(size)
        try:
            ranks.run(_nothing, (), START_SECONDS)
            return ranks.run(function, args, timeout)
        finally:
            ranks.kill()
    if size not in _kept:
        started = Ranks(size)
        started.run(_nothing, (), START_SECONDS)
        _kept[size] = started
    try:
        return _kept[size].run(function, args, timeout)
    except RanksFailed:
        _kept.pop(size)
        raise


@atexit.register
def _end() -> None:
    for ranks in _kept.values():
        ranks.kill()


def _nothing(rank: int) -> None:
    pass


def _serve(rank: int, size: int, store: str, connection: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    faulthandler.enable()  # a crash says in which line of Python
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size, store=dist.FileStore(store, size))
    while True:
        try:
            job = connection.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        torch.manual_seed(0)
        as_started()
        try:
            function, args = pickle.loads(job)
            answer: tuple[bool, Any] = (True, function(rank, *args))
        except BaseException:
            answer = (False, traceback.format_exc())
        connection.send_bytes(pickle.dumps(answer))


class Collectives(TorchDispatchMode):
    """Counts what is sent between processes, by operation; backward passes and DTensors included. (CommDebugMode also
    follows modules, and loses its way where an update has several passes.)"""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if any(kind is DTensor for kind in types):
            return NotImplemented  # asked again with what lies on this process
        if operation.namespace in ("c10d", "_c10d_functional") and operation.__name__.split(".")[0] not in WAITING:
            self.counts[operation.__name__.split(".")[0].strip("_")] += 1
        return operation(*args, **(kwargs or {}))


WAITING = ("wait_tensor", "monitored_barrier_", "_wrap_tensor_autograd")


@lru_cache
def world_of(layout: Layout) -> World:
    """The world of a layout in this rank."""
    return World.join(layout, torch.device("cpu"))
