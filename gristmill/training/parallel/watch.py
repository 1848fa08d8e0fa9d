"""Noticing that a training on many processes hangs, and saying which process the others wait for.

The loop says at every step what it is doing (`watch("data", step)`), which costs a few assignments. A thread writes
that into a small file of this process, `telemetry/ranks/rank-N.json`, and looks whether it changes. A process that
does nothing new for `limit` seconds writes down where its main thread stands; then the files of all are read, and the
report names those that are behind. All processes end with exit code 3, so that torchrun begins them again.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gristmill.core.errors import MachineError
from gristmill.core.files import write_atomic, write_json

PHASES = ("data", "collective", "forward", "backward", "optimizer", "report", "evaluation", "checkpoint")
"""What a step consists of, in its order. `collective` is the agreement on counts after reading, where processes that
are early wait for those that are late; `report` the one at the end of the step."""
SLOW = 4
"""So many times as long may the first step (it compiles), an evaluation and a checkpoint take without a sign."""
GATHER = 5.0
"""Seconds in which the stacks of all processes are collected."""
EXIT = 3
_SIZE = 320


@dataclass(frozen=True)
class Sign:
    """What is known of a process."""

    rank: int
    step: int = -1
    phase: str = "not started"
    idle: float = 0.0
    """Seconds in this phase, without a beat."""
    beats: int = 0
    looks: int = -1
    """Grows as long as the process lives, even if its main thread is stuck."""
    start: str = ""
    """Which start of all processes it belongs to: a file of an earlier one says nothing."""
    first: bool = True
    """Whether no step has been finished yet."""
    lost: bool = False
    """No sign of life while we looked."""


class Watch:
    """What this process does, its signs, and the thread that looks at them. A context manager; one process alone only
    adds up its time."""

    def __init__(self, folder: Path, rank: int = 0, size: int = 1, *, limit: float = 900.0, every: float = 2.0,
                 start: str = "", leave: Callable[[int], Any] = os._exit) -> None:
        """folder: of all processes' signs, on a file system that they share. limit: seconds; 0 watches nothing.
        start: a name of this start, the same on all processes; torchrun's count of restarts is not, where nodes join.
        """
        self.folder, self.rank, self.size, self.limit, self.leave = folder, rank, size, limit, leave
        self.every = min(every, limit / 10) if limit else every
        self.step, self.phase, self.since, self.beats, self.first = -1, "start", time.monotonic(), 0, True
        self.spent: dict[str, float] = {}
        self.main = threading.main_thread().ident
        self.start_name = start
        self._looks, self._stopped = 0, threading.Event()
        self._thread: threading.Thread | None = None

    # -- the loop's side -------------------------------------------------------------------------------------------

    def __call__(self, phase: str, step: int | None = None) -> None:
        """From now on this process does `phase` (of update `step`)."""
        now = time.monotonic()
        self.spent[self.phase] = self.spent.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now
        self.beats += 1
        if step is not None and step != self.step:
            self.first = self.step < 0
            self.step = step

    def beat(self) -> None:
        """Still at it: for long phases, e.g. after each batch of an evaluation."""
        self.beats += 1

    def take(self) -> dict[str, float]:
        """Seconds in each phase since the last call."""
        self(self.phase)
        taken, self.spent = self.spent, {}
        return taken

    def __enter__(self) -> Watch:
        if self.size > 1 and self.limit:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._stack_path(self.rank).unlink(missing_ok=True)
            self._stuck = (self.folder / f"rank-{self.rank}.stuck").open("w")
            self._file = os.open(self.folder / f"rank-{self.rank}.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 place: TracebackType | None) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(5)
            faulthandler.cancel_dump_traceback_later()
            self._thread = None
            os.close(self._file)
            self._stuck.close()

    # -- the thread's side -----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        seen, changed, told = -1, time.monotonic(), False
        while not self._stopped.wait(self.every):
            now = time.monotonic()
            if self.beats != seen:
                seen, changed = self.beats, now
            try:
                self._write(now - changed)
            except OSError as error:  # a full disk is the loop's affair, not that of the one who looks on
                if not told:
                    print(f"process {self.rank}: the watch cannot write: {error}", file=sys.stderr, flush=True)
                told = True
            if now - changed > self.limit and self._is_hanging(now - changed):
                try:
                    self._report(changed)
                except (OSError, MachineError) as error:
                    print(f"error: process {self.rank} makes no progress, and ends; there is no report: {error}",
                          file=sys.stderr, flush=True)
                    self.leave(EXIT)
                return

    def _write(self, idle: float) -> None:
        self._looks += 1
        # Where even this thread comes no further (something holds the interpreter), its timer ends the process.
        faulthandler.dump_traceback_later(SLOW * self.limit + 60, exit=True, file=self._stuck)
        sign = Sign(self.rank, self.step, self.phase, round(idle, 1), self.beats, self._looks, self.start_name,
                    self.first)
        os.pwrite(self._file, json.dumps(asdict(sign)).encode().ljust(_SIZE - 1)[:_SIZE - 1] + b"\n", 0)

    def _signs(self) -> list[Sign]:
        return [self._read(rank) for rank in range(self.size)]

    def _read(self, rank: int) -> Sign:
        for _ in range(3):
            try:
                sign = Sign(**json.loads((self.folder / f"rank-{rank}.json").read_text(encoding="utf-8")))
                return sign if sign.start == self.start_name else Sign(rank)
            except FileNotFoundError:
                return Sign(rank)
            except (ValueError, TypeError):  # half written
                time.sleep(0.05)
        return Sign(rank)

    def _is_hanging(self, idle: float) -> bool:
        """Whether nobody may still take his time: he whom the others wait for decides how long is too long. One that
        has given up already is joined, so that the report has the stacks of both."""
        if idle > SLOW * self.limit or any(self._stack(rank) for rank in range(self.size)):
            return True
        return all(sign.idle > self.limit * (SLOW if sign.first or sign.phase in ("evaluation", "checkpoint") else 1)
                   for sign in behind(self._signs()) if sign.rank != self.rank and sign.step >= 0)

    def _stack_path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.stack"

    def _stack(self, rank: int) -> str | None:
        try:
            start, _, text = self._stack_path(rank).read_text(encoding="utf-8").partition("\n")
        except OSError:
            return None
        return text if start == self.start_name else None

    def _report(self, changed: float) -> None:
        frame = sys._current_frames().get(self.main or 0)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "  (gone)\n"
        write_atomic(self._stack_path(self.rank), f"{self.start_name}\n{stack}")
        before, deadline = self._signs(), time.monotonic() + max(min(GATHER, self.limit), 3 * self.every)
        while time.monotonic() < deadline:
            self._write(time.monotonic() - changed)
            if self._stopped.wait(min(self.every, 0.5)):
                return
        after = [mark_lost(old, new, self.rank) for old, new in zip(before, self._signs(), strict=True)]
        stacks = {rank: text for rank in range(self.size) if (text := self._stack(rank)) is not None}
        path = self.folder / "hang.txt"
        if self.rank == min(stacks):
            text = describe(after, stacks, self.limit)
            write_json(self.folder / "hang.json", {
                "start": self.start_name, "limit": self.limit, "signs": [asdict(sign) for sign in after],
                "behind": [sign.rank for sign in behind(after, stacks)], "stacks": stacks})
            write_atomic(path, text)
            print(f"error: {text}(also in {path})", file=sys.stderr, flush=True)
        else:
            print(f"error: process {self.rank} makes no progress, and ends; the report is in {path}", file=sys.stderr,
                  flush=True)
            time.sleep(1.0)  # torchrun ends all when one has ended: the report first
        self.leave(EXIT)


def mark_lost(before: Sign, after: Sign, own: int) -> Sign:
    """A process whose thread has not looked in between is lost: killed, cut off, or stuck as a whole."""
    return Sign(**{**asdict(after), "lost": after.rank != own and after.looks == before.looks})


def behind(signs: Sequence[Sign], stacks: Mapping[int, str] | None = None) -> list[Sign]:
    """Those whom the others wait for: lost ones, else those at the earliest place of the earliest step. Where all are
    at the same place, those whose main thread is not inside torch.distributed; none, if nothing tells them apart."""
    if lost := [sign for sign in signs if sign.lost]:
        return lost
    places = [(sign.step, PHASES.index(sign.phase) if sign.phase in PHASES else -1) for sign in signs]
    found = [sign for sign, at in zip(signs, places, strict=True) if at == min(places)]
    if len(found) == len(signs) and stacks:
        waiting = {rank for rank, text in stacks.items() if "torch/distributed/" in text}
        found = [sign for sign in found if sign.rank not in waiting]
    return found if len(found) < len(signs) else []


def describe(signs: Sequence[Sign], stacks: Mapping[int, str], limit: float) -> str:
    """The report as text."""
    blamed = behind(signs, stacks)
    lines = [f"the training makes no progress: nothing new for {limit:g} s"]
    for sign in blamed[:8]:
        lines.append(f"  the others wait for process {sign.rank}: {_told(sign)}")
    if not blamed:
        lines.append("  no process is behind the others: a collective itself does not come back, or the processes "
                     "disagree about which one is next")
    lines += ["", f"  {'process':>7} {'step':>7}  {'phase':<12} {'for':>8}"]
    lines += [f"  {sign.rank:>7} {sign.step:>7}  {sign.phase:<12} {sign.idle:>6.0f} s"
              f"{'  no sign of life' if sign.lost else ''}" for sign in signs[:64]]
    shown = [sign.rank for sign in blamed] + [sign.rank for sign in signs]
    for rank in list(dict.fromkeys(rank for rank in shown if rank in stacks))[:3]:
        lines += ["", f"  process {rank}, main thread:", *("  " + line for line in stacks[rank].rstrip().splitlines())]
    return "\n".join(lines) + "\n"


def _told(sign: Sign) -> str:
    if sign.lost:
        return f"no sign of life; it was at step {sign.step} in {sign.phase}"
    if sign.step < 0:
        return "it has not begun to train"
    return f"at step {sign.step}, in {sign.phase} for {sign.idle:.0f} s"
