"""Progress of long work: a live bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    """One piece of long work under way."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """`amount` more is done; `note` replaces the text at the end of the line."""


class Progress(Protocol):
    """Where a stage reports what it is doing."""

    def bar(self, label: str, total: float | None, unit: str = "items", before: float = 0):  # -> ContextManager[Bar]
        """A context manager that gives a Bar. before: what was done earlier; it counts, but not for the rate."""

    def say(self, text: str) -> None:
        """Print one line above the bars."""


def _duration(seconds: float) -> str:
    seconds = int(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if seconds >= 3600 else (
        f"{seconds // 60}:{seconds % 60:02d}")


def _quantity(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.1f}{letter}"
    return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"


def _rate(each_second: float, unit: str) -> str:
    """`1.4/s`, or of slower work the time that one takes: `12.5 s each`; of MB, which are no things, `19 kB/s`."""
    if each_second >= 1 or not each_second:
        return f"{_quantity(each_second)}/s"
    if unit == "MB":
        return f"{each_second * 1e3:.0f} kB/s"
    takes = 1 / each_second
    return f"{takes:.1f} s each" if takes < 60 else f"{_duration(takes)} each"


def _left(done: float, total: float | None, each_second: float) -> str:
    return _duration(max(0.0, total - done) / each_second) if total and each_second > 0 else ""


class Silent:
    """Reports nothing."""

    @contextmanager
    def bar(self, label: str, total: float | None, unit: str = "items", before: float = 0) -> Iterator[Bar]:
        yield _Nothing()

    def say(self, text: str) -> None:
        pass


class _Nothing:
    def advance(self, amount: float = 1, note: str = "") -> None:
        pass


class Lines:
    """A line at the start, one every `every` seconds, and one at the end: for logs and pipes."""

    def __init__(self, every: float = 10.0, stream=None) -> None:
        self.every, self.stream = every, stream or sys.stderr

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    @contextmanager
    def bar(self, label: str, total: float | None, unit: str = "items", before: float = 0) -> Iterator[Bar]:
        bar = _LineBar(self, label, total, unit, before)
        yield bar
        bar.finish()


class _LineBar:
    def __init__(self, owner: Lines, label: str, total: float | None, unit: str, before: float) -> None:
        self.owner, self.label, self.total, self.unit = owner, label, total, unit
        self.before = self.done = float(before)
        self.note, self.start = "", time.monotonic()
        self.last = self.start

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last >= self.owner.every:
            self.last = now
            self.owner.say(self.line(now))

    def line(self, now: float) -> str:
        rate = (self.done - self.before) / max(now - self.start, 1e-9)
        of = f"/{_quantity(self.total)}" if self.total else ""
        left = _left(self.done, self.total, rate)
        note = f" | {self.note}" if self.note else ""
        count = f"{_quantity(self.done)}{of} {self.unit}, {_rate(rate, self.unit)}"
        return f"  {self.label}: {count}{left and f', {left} left'}{note}"

    def finish(self) -> None:
        now = time.monotonic()
        note = f" | {self.note}" if self.note else ""
        made = _quantity(self.done - self.before)
        self.owner.say(f"  {self.label}: {made} {self.unit} in {_duration(now - self.start)}{note}")


class Terminal:
    """Live bars (rich) with rate, elapsed time and time left."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    @contextmanager
    def bar(self, label: str, total: float | None, unit: str = "items", before: float = 0) -> Iterator[Bar]:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"), TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
        )
        with RichProgress(*columns, console=self.console, refresh_per_second=4) as rich:
            task = rich.add_task(f"  {label}", total=total, note="", count="", left="")
            rich.update(task, completed=before)
            yield _RichBar(rich, task, total, unit, before)


class _RichBar:
    def __init__(self, rich, task, total: float | None, unit: str, before: float) -> None:
        self.rich, self.task, self.total, self.unit = rich, task, total, unit
        self.before = self.done = float(before)
        self.start = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        rate = (self.done - self.before) / max(time.monotonic() - self.start, 1e-9)
        of = f"/{_quantity(self.total)}" if self.total else ""
        # Not rich's own column: it forgets what is older than half a minute, and so knows nothing of slower work.
        left = _left(self.done, self.total, rate)
        count = f"{_quantity(self.done)}{of} {self.unit} {_rate(rate, self.unit)}"
        fields = {"count": count, "left": left and f"left {left}"}
        if note:
            fields["note"] = f"| {note}"
        self.rich.update(self.task, completed=self.done, **fields)


def for_stream() -> Progress:
    """Live bars on a terminal, plain lines elsewhere."""
    return Terminal() if sys.stderr.isatty() else Lines()
