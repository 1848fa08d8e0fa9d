"""`gristmill status`: what a run has, what it lacks, and what is under way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.files import read_json
from gristmill.pipeline.lock import is_locked
from gristmill.pipeline.store import ArtifactStore
from gristmill.pipeline.work import WorkFolder
from gristmill.recipe.errors import nearest
from gristmill.recipe.references import NAME


def find_run(text: str, runs_dir: Path | str = "runs") -> Path:
    """The folder of a run: by its name, by a path to it, or by the recipe file that it came from."""
    store = ArtifactStore(runs_dir)
    if re.fullmatch(NAME, text) and (store.root / text / "run.json").is_file():
        return store.root / text
    path = Path(text).expanduser()
    if (path / "run.json").is_file():
        return path
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        from gristmill.recipe.loading import read_yaml

        value = read_yaml(path).value
        name = value.get("name") if isinstance(value, dict) else None
        if isinstance(name, str) and re.fullmatch(NAME, name) and (store.root / name / "run.json").is_file():
            return store.root / name
    known = store.runs()
    fix = (
        f"runs: {', '.join(known)}"
        if known
        else f"nothing has run under {store.root}; start with `gristmill run RECIPE`"
    )
    raise UserError(f"there is no run `{text}`{nearest(text, known).rstrip('?')}", fix=fix)


def run_status(folder: Path) -> dict[str, Any]:
    """{"run", "stages": [{"name", "kind", "version", "state", "path", "metrics", "seconds"}]} of a run's folder.

    state: missing (never made), running, partial (unfinished, will continue), failed, done, or stale (only a version
    of an older recipe or older inputs is there; version, path, metrics and seconds are that one's).
    """
    folder = Path(folder)
    value = read_json(folder / "run.json")
    store = ArtifactStore(folder.absolute().parent)
    locked = is_locked(folder)
    return {"run": folder.name, "stages": [_stage(folder, store, entry, value, locked) for entry in value["stages"]]}


def _stage(
    folder: Path, store: ArtifactStore, entry: dict[str, Any], run: dict[str, Any], locked: bool
) -> dict[str, Any]:
    name, identity = entry["name"], entry["identity"]
    artifact: Artifact | None = store.find(folder.name, name, identity) if identity else None
    state = "done"
    if artifact is None:
        versions = store.versions(folder.name, name)
        artifact = store.open(folder.name, name, versions[-1]) if versions else None
        if locked and run["stage"] == name:
            state = "running"
        elif entry["state"] == "failed":
            state = "failed"
        elif identity and WorkFolder(folder, name).holds(identity):
            state = "partial"
        else:
            state = "stale" if artifact is not None else "missing"
        artifact = artifact if state == "stale" else None
    return {
        "name": name, "kind": entry["kind"], "version": artifact.record["version"] if artifact else None,
        "state": state, "path": str(artifact.path) if artifact else None,
        "metrics": dict(artifact.metrics) if artifact else {},
        "seconds": artifact.record.get("seconds") if artifact else None,
    }
