"""Work folders: where an unfinished stage lies, and how it becomes an artifact without a moment of half.

    work/<stage>/               the unfinished artifact; continues after a crash
    work/.marks/<stage>.json    whose it is: identity, version, seconds so far
    work/.aside/<stage>/<id>/   the last unfinished work of another identity; taken up again if that identity returns

A mark is written before its folder exists and removed after the folder is gone, so that a folder is never taken for
somebody else's. Finishing: payload digested, everything flushed, record written, scraps removed, folder renamed.
Until the record is there the scraps stay: they hold the checkpoints that a restart goes on from.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gristmill.core.artifact import RECORD, Artifact
from gristmill.core.errors import InternalError, UserError
from gristmill.core.files import disk_errors, flush, read_json, write_json
from gristmill.core.hashing import digest_folder

SCRAPS, UNKNOWN = ".scratch", "unknown"
_TORN = re.compile(r"\..+\.[0-9]+\.tmp\Z")


class WorkFolder:
    """The unfinished work of one stage."""

    def __init__(self, run_folder: Path, stage: str) -> None:
        self.root, self.stage = run_folder / "work", stage
        self.path = self.root / stage
        self.mark_path = self.root / ".marks" / f"{stage}.json"

    def mark(self) -> dict[str, Any] | None:
        """What is known of the work that lies here, or None."""
        try:
            mark = read_json(self.mark_path)
        except UserError:
            return None
        return mark if isinstance(mark, dict) and "identity" in mark else None

    def displaced(self, identity: str) -> Path | None:
        """Where `begin` sets aside what lies here, if it is another identity's or has lost its mark; None otherwise."""
        mark = self.mark()
        whose = UNKNOWN if mark is None else mark["identity"]
        return self._aside(whose) if self.path.exists() and whose != identity else None

    def holds(self, identity: str) -> bool:
        """Does unfinished work of this identity lie here, or aside?"""
        mark = self.mark()
        if self.path.is_dir() and mark is not None and mark["identity"] == identity:
            return True
        return self._aside(identity).is_dir()

    def begin(self, identity: str, version: int, resume: bool = True) -> bool:
        """Make the folder ready for `identity`; True if it continues earlier work."""
        with disk_errors(self.path):
            mark = self.mark()
            ours = mark is not None and mark["identity"] == identity
            if self.path.exists() and not (ours and resume):
                self._set_aside(mark["identity"] if mark is not None else UNKNOWN, wanted=self._aside(identity))
            if not resume:
                shutil.rmtree(self._aside(identity), ignore_errors=True)
            if not self.path.exists():
                write_json(self.mark_path, {"identity": identity, "version": version, "seconds": 0.0})
                if self._aside(identity).is_dir():
                    self._aside(identity).rename(self.path)
            continues = self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            remove_torn_writes(self.path)
            return continues

    def note_seconds(self, seconds: float) -> None:
        """Remember how long the work has taken over its interruptions."""
        mark = self.mark()
        if mark is not None:
            write_json(self.mark_path, {**mark, "seconds": seconds})

    def _aside(self, identity: str) -> Path:
        return self.root / ".aside" / self.stage / identity[:16]

    def _set_aside(self, identity: str, wanted: Path) -> None:
        """Move the folder away; of what was moved before, only `wanted` stays."""
        target = self._aside(identity)
        if target.parent.is_dir():
            for old in target.parent.iterdir():
                if old != wanted or old == target:
                    shutil.rmtree(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.rename(target)

    def finished(self, identity: str) -> Artifact | None:
        """Work that was complete when the process died, up to the last rename."""
        mark = self.mark()
        if mark is None or mark["identity"] != identity or not (self.path / RECORD).is_file():
            return None
        try:
            artifact = Artifact.open(self.path)
        except UserError:
            artifact = None
        if artifact is None or artifact.record.get("identity") != identity or (
                artifact.record.get("digest") != digest_folder(self.path)):
            (self.path / RECORD).unlink()
            return None
        return artifact

    def seal(self, make_record: Callable[[str], Mapping[str, Any]]) -> None:
        """Digest the payload, write the record (made from the digest) and flush all to the disk."""
        with disk_errors(self.path):
            remove_torn_writes(self.path)
            record = make_record(digest_folder(self.path))
            flush_tree(self.path)
            write_json(self.path / RECORD, record)
            flush(self.path)

    def publish(self, target: Path) -> Artifact:
        """Remove the scraps of the sealed folder, and rename it to where finished artifacts lie."""
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                raise InternalError("this artifact exists already and would be overwritten", where=str(target))
            shutil.rmtree(self.path / SCRAPS, ignore_errors=True)
            self.path.rename(target)
            flush(target.parent)
            self.forget()
        return Artifact.open(target)

    def forget(self) -> None:
        """Remove the mark of work that is done."""
        self.mark_path.unlink(missing_ok=True)


def remove_torn_writes(folder: Path, deep: bool = True) -> None:
    """Remove what `write_atomic` leaves when its process dies before the rename: such a file would join the payload."""
    for parent, folders, files in os.walk(folder):
        if not deep:
            folders.clear()
        for name in files:
            if _TORN.match(name):
                (Path(parent) / name).unlink(missing_ok=True)


def flush_tree(folder: Path) -> None:
    """Wait until all of a folder but its scraps is on the disk."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != SCRAPS]
        for name in files:
            flush(Path(parent) / name)
        flush(Path(parent))
