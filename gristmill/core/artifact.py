"""Artifacts: what a stage leaves, and the record that says where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.core.errors import UserError
from gristmill.core.files import read_json
from gristmill.core.hashing import digest_folder

RECORD = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """A finished folder: its payload beside `artifact.json`, or a public folder taken as it is.

    record: kind, name, version, digest (of the payload), config (resolved), identity, inputs
    ({reference: {name, version, kind, digest, path}}), metrics, seed, code, libraries, started, finished, seconds.
    """

    path: Path
    record: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Open a finished artifact; a folder without its record was never finished and is refused."""
        path = Path(path)
        if not (path / RECORD).is_file():
            raise UserError(
                "this folder has no artifact.json, so it is no finished artifact",
                where=str(path),
                fix="run the recipe to its end, or name another folder",
            )
        fix = "put the file back from a copy, or delete the folder: the next run of its recipe makes it anew"
        return cls(path, read_json(path / RECORD, fix))

    @classmethod
    def from_folder(cls, path: Path | str, kind: str) -> Artifact:
        """Take a public folder (a model, a tokenizer, a corpus) that another system made as an input."""
        path = Path(path)
        return cls(path, {"kind": kind, "name": path.name, "version": 0, "digest": digest_folder(path),
                          "config": {}, "inputs": {}, "metrics": {}, "source": "external folder"})

    @property
    def kind(self) -> str:
        return self.record["kind"]

    @property
    def name(self) -> str:
        """`recipe/stage@version`, or the folder's name if it came from outside."""
        version = self.record.get("version", 0)
        return f"{self.record['name']}@{version}" if version else self.record["name"]

    @property
    def digest(self) -> str:
        return self.record["digest"]

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.record.get("metrics", {})
