"""Where a model comes from, as far as the records of its ancestors can be found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gristmill.core.artifact import RECORD, Artifact


@dataclass(frozen=True)
class Ancestor:
    """One artifact that took part in making a model; `artifact` is None if its folder is not there any more."""

    name: str
    kind: str
    digest: str
    artifact: Artifact | None


def ancestors(artifact: Artifact) -> list[Ancestor]:
    """The artifact and everything it was made from, oldest first, each once."""
    found: dict[str, Ancestor] = {}
    _walk(Ancestor(artifact.name, artifact.kind, artifact.digest, artifact), found)
    return list(found.values())


def _walk(here: Ancestor, found: dict[str, Ancestor]) -> None:
    if here.digest in found:
        return
    inputs = here.artifact.record.get("inputs", {}) if here.artifact else {}
    for reference in sorted(inputs):
        entry = inputs[reference]
        version = entry.get("version", 0)
        name = f"{entry['name']}@{version}" if version and "@" not in entry["name"] else entry["name"]
        assert here.artifact is not None
        _walk(Ancestor(name, entry["kind"], entry["digest"], _open(here.artifact, entry)), found)
    found[here.digest] = here


def _open(child: Artifact, entry: dict) -> Artifact | None:
    """The parent's folder where the record says, or beside the child's (runs may have been moved)."""
    stated = Path(entry.get("path") or "")
    for path in (stated, child.path / stated, child.path.parent / stated.name):
        if (path / RECORD).is_file():
            artifact = Artifact.open(path)
            if artifact.digest == entry["digest"]:
                return artifact
    return None
