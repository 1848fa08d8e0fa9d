"""A run as the report sees it: its stages in order, and tolerant reading of what they left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill.core.artifact import RECORD
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, read_jsonl


class Missing(Exception):
    """The input of a section is not there; the text says what and why, for the reader."""


@dataclass(frozen=True)
class Stage:
    """One stage of the run and the artifact that the run stands on, if there is one.

    action: what the last run did: ran, continued, reused, or nothing. state: as in run.json.
    """

    name: str
    kind: str
    state: str
    action: str = ""
    error: str | None = None
    needs: tuple[str, ...] = ()
    path: Path | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def produces(self) -> str:
        return str(self.record.get("kind", ""))

    @property
    def seconds(self) -> float:
        return float(self.record.get("seconds") or 0.0)

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.record.get("metrics") or {}

    @property
    def version(self) -> int:
        return int(self.record.get("version") or 0)

    @property
    def digest(self) -> str:
        return str(self.record.get("digest") or "")

    def json(self, name: str) -> Any:
        """A JSON file of the payload, None if it is not there. Raises UserError if it is broken."""
        path = self.path / name if self.path is not None else None
        return read_json(path) if path is not None and path.is_file() else None

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A JSON-lines file of the payload, [] if it is not there."""
        return (
            [line for line in read_jsonl(self.path / name) if isinstance(line, dict)] if self.path is not None else []
        )


@dataclass(frozen=True)
class Run:
    """A run's folder, read once."""

    folder: Path
    name: str
    seed: int | None
    state: str
    finished: str
    stages: list[Stage]
    recipe: str

    def of_kind(self, *produces: str) -> list[Stage]:
        """Stages with a finished artifact of one of these kinds, in the recipe's order."""
        return [s for s in self.stages if s.path is not None and s.produces in produces]

    def stage(self, name: str) -> Stage | None:
        return next((s for s in self.stages if s.name == name), None)

    def records(self) -> Iterator[Mapping[str, Any]]:
        return (s.record for s in self.stages if s.record)

    def results(self) -> dict[str, Any]:
        """The last evaluation's results.json, {} if there is none."""
        for stage in reversed(self.of_kind("evaluation")):
            found = stage.json("results.json")
            if isinstance(found, dict):
                return found
        return {}

    @property
    def seconds(self) -> float:
        return sum(s.seconds for s in self.stages)


def read_run(folder: Path) -> Run:
    """Read a run's folder. Raises UserError where no run lies, or where its own records are broken."""
    folder = Path(folder)
    if not (folder / "run.json").is_file() and not (folder / "artifacts").is_dir():
        raise UserError(
            "this is not the folder of a run: it has neither run.json nor artifacts",
            where=str(folder),
            fix="name the folder that `gristmill run` filled, e.g. runs/quickstart",
        )
    state = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    actions = last_actions(read_jsonl(folder / "log.jsonl"))
    entries = state.get("stages") or [{"name": n, "version": v} for n, v in _newest(folder / "artifacts").items()]
    stages = [_stage(folder, entry, actions) for entry in entries]
    if not state:
        stages.sort(key=lambda s: str(s.record.get("finished") or ""))
    recipe = folder / "recipe.yaml"
    # The time of the report is a time of the run, so that the same run gives the same bytes.
    times = [str(t) for s in stages for t in (s.record.get("finished"),) if t]
    return Run(
        folder,
        str(state.get("run") or folder.absolute().name),
        state.get("seed"),
        str(state.get("state") or "unknown"),
        str(state.get("finished") or max(times, default="")),
        stages,
        recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
    )


def _stage(folder: Path, entry: Mapping[str, Any], actions: Mapping[str, str]) -> Stage:
    name, version = str(entry.get("name")), entry.get("version")
    path = folder / "artifacts" / f"{name}@{version}"
    found = isinstance(version, int) and (path / RECORD).is_file()
    record = read_json(path / RECORD) if found else {}
    kind = str(entry.get("kind") or record.get("uses") or record.get("kind") or "")
    return Stage(
        name,
        kind,
        str(entry.get("state") or ("done" if found else "missing")),
        actions.get(name, ""),
        entry.get("error"),
        tuple(entry.get("needs") or ()),
        path if found else None,
        record,
    )


def last_actions(events: list[Any]) -> dict[str, str]:
    """What the last run did with each stage, from the run's log."""
    said = {"stage_reused": "reused", "stage_started": "ran", "stage_continued": "continued"}
    actions: dict[str, str] = {}
    for event in events:
        if not isinstance(event, dict):
            continue
        if event.get("event") == "run_started":
            actions = {}
        elif event.get("event") in said:
            actions[str(event.get("stage"))] = said[event["event"]]
    return actions


def _newest(folder: Path) -> dict[str, int]:
    newest: dict[str, int] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = re.fullmatch(r"(.+)@([0-9]{1,9})", path.name)
        if match and (path / RECORD).is_file():
            newest[match[1]] = max(newest.get(match[1], 0), int(match[2]))
    return newest
