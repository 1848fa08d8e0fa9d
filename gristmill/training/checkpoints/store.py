"""Where checkpoints lie: a folder of this machine, or any storage that fsspec reaches.

Both keep one promise: `steps` lists a checkpoint only when all of it is there. On disks by writing under another name,
flushing and renaming; elsewhere, where nothing can be renamed at once, by writing `state.json` last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors, flush
from gristmill.core.hashing import digest_file

STATE = "state.json"
STEP = re.compile(r"step-(\d{8,})")
BLOCK = 2**22
"""Bytes read at a time from storage that is no disk."""


class Store(Protocol):
    """Folders `step-N` of files. Only the first process begins, commits and removes; all write and read."""

    def steps(self) -> list[int]:
        """Steps whose checkpoint is complete, ascending."""

    def begin(self, step: int) -> None:
        """Make room for a checkpoint that is not listed before `commit`."""

    def writing(self, step: int, name: str) -> contextlib.AbstractContextManager[Any]:
        """A file of it, open for writing; durable when the context is left."""

    def written(self, step: int, name: str) -> int:
        """Bytes of a file that was written and not yet committed; -1 where it cannot be seen."""

    def commit(self, step: int, state: bytes) -> None:
        """Write its state.json; from now on it is listed."""

    def state(self, step: int) -> bytes:
        """Its state.json."""

    def read(self, step: int, name: str, start: int, stop: int) -> Tensor:
        """Bytes of a file as uint8; not to be written to."""

    def digest(self, step: int, name: str) -> str:
        """SHA-256 (hex) of a file, or "" where it is missing. Raises OSError where it cannot be read."""

    def remove(self, step: int) -> None:
        """Delete a checkpoint; cut short, it is not listed any more."""

    def where(self, step: int, name: str = "") -> str:
        """For messages."""


def open_store(place: Path | str) -> Store:
    """A folder, or a URL such as s3://bucket/run or memory://run."""
    text = str(place)
    if isinstance(place, Path) or "://" not in text:
        return Disk(Path(place))
    if text.startswith("file://"):
        return Disk(Path(text.removeprefix("file://")))
    return Remote(text)


def beside(place: Path | str, name: str) -> Path | str:
    """The folder, or URL, `name` in the same folder."""
    return place.with_name(name) if isinstance(place, Path) else f"{place.rstrip('/').rpartition('/')[0]}/{name}"


class Disk:
    """A folder; of several processes on several machines, one that they all see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        for old in self.folder.glob(".step-*.old"):  # a kill came between the two renames of `commit`
            place = self.folder / old.name[1:-len(".old")]
            if not place.exists():
                with contextlib.suppress(OSError):
                    old.rename(place)
        found = [(STEP.fullmatch(path.name), path) for path in self.folder.glob("step-*")]
        return sorted(int(match[1]) for match, path in found if match and (path / STATE).is_file())

    def begin(self, step: int) -> None:
        self.steps()  # puts back what is not to be deleted here
        with disk_errors(self.folder):
            for rest in (*self.folder.glob(".step-*.tmp"), *self.folder.glob(".step-*.old")):
                shutil.rmtree(rest, ignore_errors=True)
            self._temporary(step).mkdir(parents=True)

    @contextlib.contextmanager
    def writing(self, step: int, name: str) -> Iterator[BinaryIO]:
        with (self._temporary(step) / name).open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def written(self, step: int, name: str) -> int:
        try:
            return (self._temporary(step) / name).stat().st_size
        except OSError:
            return -1

    def commit(self, step: int, state: bytes) -> None:
        temporary, target = self._temporary(step), self._path(step)
        with self.writing(step, STATE) as file:
            file.write(state)
        flush(temporary)
        old = self.folder / f".{target.name}.old"
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        flush(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def state(self, step: int) -> bytes:
        return (self._path(step) / STATE).read_bytes()

    def read(self, step: int, name: str, start: int, stop: int) -> Tensor:
        if start == stop:
            return torch.empty(0, dtype=torch.uint8)
        path = self._path(step) / name
        return torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)[start:stop]

    def digest(self, step: int, name: str) -> str:
        try:
            return digest_file(self._path(step) / name)
        except FileNotFoundError:
            return ""

    def remove(self, step: int) -> None:
        doomed = self.folder / f".{self._path(step).name}.tmp"
        with disk_errors(doomed):
            self._path(step).rename(doomed)
            shutil.rmtree(doomed)

    def where(self, step: int, name: str = "") -> str:
        return str(self._path(step) / name)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _temporary(self, step: int) -> Path:
        return self.folder / f".step-{step:08d}.tmp"


class Remote:
    """Storage behind fsspec: s3://, gs://, memory://, ... Its own package has to be installed (s3fs, gcsfs)."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UserError(f"this storage cannot be reached ({error})", where=url,
                            fix="use a folder, or install fsspec's package for it (s3fs for s3://, gcsfs for gs://)"
                            ) from error
        self.url = url.rstrip("/")

    def steps(self) -> list[int]:
        self.files.invalidate_cache()
        found = [STEP.fullmatch(path.rstrip("/").rsplit("/", 2)[-2])
                 for path in self.files.glob(f"{self.root}/step-*/{STATE}")]
        return sorted(int(match[1]) for match in found if match)

    def begin(self, step: int) -> None:
        listed = set(self.steps()) - {step}
        for path in self.files.glob(f"{self.root}/step-*"):
            match = STEP.fullmatch(path.rstrip("/").rpartition("/")[2])
            if match and int(match[1]) not in listed:  # what a kill has left, too
                self.remove(int(match[1]))

    @contextlib.contextmanager
    def writing(self, step: int, name: str) -> Iterator[Any]:
        self.files.makedirs(self._path(step), exist_ok=True)
        with self.files.open(f"{self._path(step)}/{name}", "wb") as file:
            yield file

    def written(self, step: int, name: str) -> int:
        try:
            self.files.invalidate_cache()
            return int(self.files.size(f"{self._path(step)}/{name}"))
        except OSError:
            return -1

    def commit(self, step: int, state: bytes) -> None:
        with self.writing(step, STATE) as file:
            file.write(state)

    def state(self, step: int) -> bytes:
        return self.files.cat_file(f"{self._path(step)}/{STATE}")

    def read(self, step: int, name: str, start: int, stop: int) -> Tensor:
        if start == stop:
            return torch.empty(0, dtype=torch.uint8)
        data = self.files.cat_file(f"{self._path(step)}/{name}", start=start, end=stop)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def digest(self, step: int, name: str) -> str:
        found = hashlib.sha256()
        try:
            with self.files.open(f"{self._path(step)}/{name}", "rb", block_size=BLOCK) as file:
                while block := file.read(BLOCK):
                    found.update(block)
        except FileNotFoundError:
            return ""
        return found.hexdigest()

    def remove(self, step: int) -> None:
        place = self._path(step)
        if self.files.exists(f"{place}/{STATE}"):
            self.files.rm_file(f"{place}/{STATE}")  # first, so that what is left of a removal cut short is not listed
        if self.files.exists(place):
            self.files.rm(place, recursive=True)

    def where(self, step: int, name: str = "") -> str:
        return f"{self.url}/step-{step:08d}/{name}"

    def _path(self, step: int) -> str:
        return f"{self.root}/step-{step:08d}"
