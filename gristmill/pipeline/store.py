"""The artifact store: where finished artifacts lie, and how a name finds one.

    runs/<recipe>/artifacts/<stage>@<N>/    payload beside artifact.json
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gristmill.core.artifact import RECORD, Artifact
from gristmill.core.errors import UserError
from gristmill.core.files import read_json
from gristmill.recipe.errors import nearest
from gristmill.recipe.references import NAME

_NAME = re.compile(rf"{NAME}\Z")
_ARTIFACT = re.compile(rf"(?:(?P<recipe>{NAME})/)?(?P<stage>{NAME})(?:@(?P<version>[0-9]{{1,9}}))?\Z")
_FOLDER = re.compile(rf"(?P<stage>{NAME})@(?P<version>[0-9]{{1,9}})\Z")
_HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}\Z")
_SIGNS = {
    "model": ("config.json",),
    "release": ("config.json",),
    "tokenizer": ("tokenizer.json",),
    "corpus": ("documents",),
    "evaluation": ("results.json",),
}
"""What a folder that has no record must hold to pass for an artifact of a kind."""


class ArtifactStore:
    """All finished artifacts under one folder of runs."""

    def __init__(self, runs_dir: Path | str = "runs") -> None:
        self.root = Path(runs_dir).expanduser().absolute()

    def run_folder(self, recipe: str) -> Path:
        """The folder of a recipe's run; names that would leave the store are refused."""
        return self.root / _checked(recipe)

    def folder(self, recipe: str, stage: str, version: int) -> Path:
        return self.run_folder(recipe) / "artifacts" / f"{_checked(stage)}@{version}"

    def versions(self, recipe: str, stage: str) -> list[int]:
        """Versions that are finished, ascending."""
        return [v for v in self.taken(recipe, stage) if (self.folder(recipe, stage, v) / RECORD).is_file()]

    def taken(self, recipe: str, stage: str) -> list[int]:
        """Versions whose folder exists, finished or damaged, ascending; none of them is ever written again."""
        return sorted(v for s, v in self._folders(recipe) if s == stage)

    def _folders(self, recipe: str) -> list[tuple[str, int]]:
        folder = self.run_folder(recipe) / "artifacts"
        found = [_FOLDER.match(p.name) for p in folder.iterdir()] if folder.is_dir() else []
        return [(m["stage"], int(m["version"])) for m in found if m]

    def open(self, recipe: str, stage: str, version: int) -> Artifact:
        return Artifact.open(self.folder(recipe, stage, version))

    def find(self, recipe: str, stage: str, identity: str) -> Artifact | None:
        """The newest finished artifact of `stage` with this identity."""
        for version in reversed(self.versions(recipe, stage)):
            artifact = self.open(recipe, stage, version)
            if artifact.record.get("identity") == identity:
                return artifact
        return None

    def newest(self, recipe: str, stage: str) -> Artifact | None:
        """The artifact that the last run of the recipe stands on; before any run is known, the highest version."""
        versions = self.versions(recipe, stage)
        if not versions:
            return None
        state = self.run_folder(recipe) / "run.json"
        if state.is_file():
            for entry in read_json(state).get("stages", []):
                if entry.get("name") == stage and entry.get("version") in versions:
                    return self.open(recipe, stage, entry["version"])
        return self.open(recipe, stage, versions[-1])

    def runs(self) -> list[str]:
        """Names of the recipes that have run here."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if _NAME.match(p.name) and (p / "artifacts").is_dir())

    def names(self, kinds: Sequence[str] = ()) -> list[str]:
        """`recipe/stage@version` of every finished artifact (of `kinds`)."""
        found = []
        for recipe in self.runs():
            for stage, version in sorted(self._folders(recipe)):
                path = self.folder(recipe, stage, version)
                if (path / RECORD).is_file() and (not kinds or Artifact.open(path).kind in kinds):
                    found.append(f"{recipe}/{stage}@{version}")
        return found

    def resolve(self, text: str, kinds: Sequence[str] = (), run: str | None = None) -> Artifact:
        """The artifact that `text` names: `recipe/stage@N`, `stage@N`, `stage` (newest), a path, or a hub id in the
        local cache. kinds: what is wanted (all, if empty). run: the recipe in which bare stage names are looked up.
        """
        if not text.strip():
            raise UserError("an empty name", fix=self._choices(kinds))
        artifact = self._by_name(text, run)
        if artifact is None:
            path = Path(text).expanduser()
            if path.is_dir():
                artifact = self._by_path(path, kinds)
            elif path.is_file():
                raise UserError("this is a file, not a folder", where=text, fix="name the folder that holds it")
        if artifact is None and _HUB.match(text) and text.partition("/")[0] not in self.runs():
            artifact = _from_hub(text, kinds)
        if artifact is None:
            raise UserError(f"there is no artifact `{text}`{nearest(text, self.names(kinds)).rstrip('?')}",
                            fix=self._choices(kinds))
        if kinds and artifact.kind not in kinds:
            raise UserError(f"`{text}` is a {artifact.kind}, but a {' or '.join(kinds)} is needed here",
                            where=str(artifact.path), fix=self._choices(kinds))
        return artifact

    def _by_name(self, text: str, run: str | None) -> Artifact | None:
        match = _ARTIFACT.match(text)
        if match is None:
            return None
        stage, version = match["stage"], int(match["version"]) if match["version"] else None
        recipes = [match["recipe"]] if match["recipe"] else [run] if run else self.runs()
        found = [(r, v) for r in recipes for v in self.versions(r, stage) if version in (None, v)]
        holders = list(dict.fromkeys(recipe for recipe, _ in found))
        if len(holders) > 1:
            raise UserError(f"`{text}` is ambiguous: it is in the runs {', '.join(holders)}",
                            fix=f"write {holders[0]}/{text}")
        if found:
            return self.open(holders[0], stage, version) if version else self.newest(holders[0], stage)
        if version is not None and (known := [v for r in recipes for v in self.versions(r, stage)]):
            raise UserError(f"there is no version {version} of `{text.partition('@')[0]}`",
                            where=str(self.root), fix=f"versions: {', '.join(map(str, known))}")
        return None

    def _by_path(self, path: Path, kinds: Sequence[str]) -> Artifact:
        if (path / RECORD).is_file():
            return Artifact.open(path)
        for kind in kinds or _SIGNS:
            if all((path / sign).exists() for sign in _SIGNS.get(kind, ("",))):
                return Artifact.from_folder(path, kind)
        inside = path / "artifacts"
        if inside.is_dir():
            names = sorted(p.name for p in inside.iterdir() if (p / RECORD).is_file())
            raise UserError(
                "this is the folder of a whole run",
                where=str(path),
                fix=f"name one of its artifacts: {', '.join(f'{path.name}/{n}' for n in names) or 'none yet'}",
            )
        wanted = " or ".join(f"a {k} ({', '.join(_SIGNS.get(k, ('artifact.json',)))})" for k in kinds or _SIGNS)
        raise UserError(
            f"this folder is not {wanted}", where=str(path), fix="name a finished artifact or a public folder"
        )

    def _choices(self, kinds: Sequence[str]) -> str:
        names = self.names(kinds)
        if not names:
            what = f"no {' or '.join(kinds)}" if kinds else "nothing"
            return f"there is {what} under {self.root} yet: run a recipe, give --runs-dir, or name a folder"
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        return f"give a folder, or one of: {', '.join(names[:12])}{more}"


def resolve_model(text: str, runs_dir: Path | str = "runs") -> Path:
    """The folder of a model for whoever loads it: an artifact's name, a path, a public folder or a cached hub id."""
    return ArtifactStore(runs_dir).resolve(text, ("model", "release")).path


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise UserError(f"`{name}` is no name of a recipe or stage", fix="use letters, digits, `.`, `_` and `-`")
    return name


def _from_hub(text: str, kinds: Sequence[str]) -> Artifact | None:
    """A model or tokenizer that the hub's client already has on this machine; nothing is downloaded here."""
    kind = next((k for k in (kinds or ("model",)) if k in ("model", "tokenizer")), None)
    if kind is None:
        return None
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        return None
    try:
        path = snapshot_download(text, local_files_only=True)
    except Exception as error:  # the client's own family of errors changes between its versions
        raise UserError(
            f"`{text}` is neither an artifact here nor a model in the hub's local cache",
            fix=f"nothing is downloaded silently: run `hf download {text}` first, or name a folder",
        ) from error
    return Artifact.from_folder(path, kind)
