"""What a run of the data stage will take, said before anything is read: units, memory, disk.

The numbers are rounded up from `benchmarks/data_size.py` (docs/data/README.md has its table).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gristmill.data.units import COMPRESSED, Listing

WORKER = 230_000_000
"""Bytes of a worker: Python, its libraries and one batch of documents with their measurements."""
BASE = 200_000_000
"""Bytes of the stage itself, whatever it reads."""
DOCUMENT = 3000
"""Bytes of text that a document is taken to have before any has been seen."""
A_DOCUMENT = 300
"""Bytes of the stage's memory for a document: columns of decisions, and what the search for near-duplicates holds."""
MOST_GROUPING = 2 << 30
"""Bytes that grouping takes at most, whatever the number of documents."""
DISK = 1.1
"""Bytes on disk for a byte of text: measured documents, fingerprints and the corpus, compressed."""


@dataclass(frozen=True)
class Needs:
    """An estimate, rough but on the safe side. Sizes are bytes."""

    inputs: int
    stored: int
    units: int
    workers: int
    memory: int
    disk: int

    def line(self) -> str:
        """One line for people."""
        workers = f"{self.workers} worker{'s' if self.workers != 1 else ''}"
        return (f"{self.inputs:,} inputs, {_size(self.stored)} in {self.units:,} units; at most about "
                f"{_size(self.memory)} of memory ({workers}) and {_size(self.disk)} of disk")

    def warnings(self, folder: Path) -> list[str]:
        """What this machine may not have enough of. folder: where the run writes."""
        found = []
        free = shutil.disk_usage(folder).free
        if self.disk > free:
            found.append(f"the disk has {_size(free)} left at {folder}: choose another --runs-dir, or set `limit_mb`")
        available = available_memory()
        if available is not None and self.memory > available:
            found.append(f"{_size(available)} of memory are free: use fewer --workers, or read crawl by crawl")
        return found


def estimate(listing: Listing, units: int, workers: int, share: float) -> Needs:
    """What reading this listing will take. workers: processes. share: of the documents that are taken."""
    text = sum(item.size * (COMPRESSED if item.compressed else 1) for items in listing.inputs for item in items) * share
    documents = text / DOCUMENT
    workers = max(1, min(workers, units))
    of_documents = min(documents * A_DOCUMENT, documents * 100 + MOST_GROUPING)
    return Needs(
        inputs=sum(map(len, listing.inputs)), stored=listing.bytes, units=units, workers=workers,
        memory=int(BASE + of_documents + (workers * WORKER if workers > 1 else WORKER - BASE // 2)),
        disk=int(text * DISK))


def available_memory() -> int | None:
    """Bytes that can be used without swapping; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def _size(size: float) -> str:
    for unit, limit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= limit:
            return f"{size / limit:.3g} {unit}"
    return f"{size:.0f} bytes"
