"""What the data stage will read, listed and cut into units of work before anything is read.

A unit is a few ranges of the inputs of one source. What it yields is a pure function of its name, so units are read by
any worker in any order, and a finished one is never read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from gristmill.core.config import non_default
from gristmill.core.hashing import digest
from gristmill.data.inputs import Input, Range, fingerprint
from gristmill.data.sources import Source, source_names

UNIT_BYTES = 16 << 20
"""Stored bytes in a unit: small enough to share among workers and to lose by a crash, large enough to cost nothing."""
COMPRESSED = 4
"""A stored byte of a compressed input counts as so many: its text is several times as long."""
MOST_PARTS = 5000
"""Ranges in a unit: of many small files."""


@dataclass(frozen=True)
class Unit:
    """Ranges of the inputs of one source, read in this order."""

    source: int
    """Which of the sources."""
    parts: tuple[Range, ...]

    def plain(self) -> list[Any]:
        """The parts as JSON-ready values."""
        return [[*astuple(part.input), part.start, part.stop] for part in self.parts]


def parts_from_plain(values: Sequence[Sequence[Any]]) -> list[Range]:
    """What `Unit.plain` gave."""
    return [Range(Input(*value[:4]), *value[4:]) for value in values]


class Listing:
    """The inputs of all sources, before anything is read: missing ones are refused here."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.names = source_names(sources)
        self.sources = list(sources)
        self.inputs = [source.inputs() for source in sources]
        self.bytes = sum(item.size for items in self.inputs for item in items)
        self.compressed = any(item.compressed for items in self.inputs for item in items)

    def fingerprint(self) -> str:
        """Digest of the names and contents of everything that would be read now: for the stage's identity."""
        return digest([[name, {item.name: fingerprint(item) for item in items}]
                       for name, items in zip(self.names, self.inputs, strict=True)])

    def units(self) -> list[Unit]:
        """Every input, in order, cut into units of about `UNIT_BYTES` stored bytes."""
        found, size = [], UNIT_BYTES
        for number, (source, items) in enumerate(zip(self.sources, self.inputs, strict=True)):
            parts: list[Range] = []
            held = 0
            for item in items:
                cost = COMPRESSED if item.compressed else 1
                ranges = source.ranges(item, max(1, size // cost))
                length = item.size * cost // max(1, len(ranges))
                for part in ranges:
                    if parts and (held + length > size * 1.5 or len(parts) >= MOST_PARTS):
                        found.append(Unit(number, tuple(parts)))
                        parts, held = [], 0
                    parts.append(part)
                    held += length
            if parts:
                found.append(Unit(number, tuple(parts)))
        return found

    def identity(self, unit: Unit, options: Any) -> str:
        """What decides the bytes that a unit yields: its parts with their marks, its source, the options."""
        return digest([self.names[unit.source], non_default(self.sources[unit.source]), unit.plain(), options])
