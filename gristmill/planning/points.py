"""Points for a fit: read from finished model artifacts, from a run's folder, or from a JSON or CSV file.

A run counts when it was trained from scratch, to the end of its schedule, with an evaluation on held-out text at its
last step; all others are left out with the reason. Losses can only be compared on the same text with the same
tokenizer.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gristmill.core.artifact import RECORD
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, read_jsonl
from gristmill.planning.fit import Point

Counting = Literal["total", "matmul"]
COLUMNS = ("parameters", "tokens", "loss")


@dataclass
class Found:
    """Points, and what was left out: (name, reason)."""

    points: list[Point] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    text: dict[str, str] = field(default_factory=dict)
    """Name of a run -> digests of its text and its tokenizer, and its objective."""


def read_points(sources: Sequence[str], runs_dir: Path = Path("runs"), counting: Counting = "total") -> Found:
    """Points of all sources: each a run, an artifact (`recipe/stage@N` or its folder), or a .json, .jsonl, .csv file.

    counting: total, every parameter (Hoffmann et al.), or matmul, those of matrix products (about Kaplan's count plus
    the head). Raises UserError where a source cannot be read, or where runs were measured on different text.
    """
    found = Found()
    for source in sources:
        path = Path(source).expanduser()
        if path.is_file():
            found.points += _table(path)
            continue
        for folder in _folders(source, path, runs_dir):
            _add(found, folder, counting)
    if len(set(found.text.values())) > 1:
        groups: dict[str, list[str]] = {}
        for name, text in found.text.items():
            groups.setdefault(text, []).append(name)
        said = "; ".join(f"{len(names)} like {names[0]}" for names in groups.values())
        raise UserError("the runs were not measured alike: on the same text, with the same tokenizer and objective "
                        f"({said})", where="RUNS",
                        fix="fit runs of one corpus and one tokenizer; or write their bits per byte as `loss` into a "
                        "CSV file")
    return found


def _folders(source: str, path: Path, runs_dir: Path) -> Iterator[Path]:
    run, _, stage = source.partition("/")
    for candidate in (path, runs_dir / source, runs_dir / run / "artifacts" / stage):
        if (candidate / RECORD).is_file():
            yield candidate
            return
        if (candidate / "artifacts").is_dir():
            yield from sorted((p.parent for p in (candidate / "artifacts").glob(f"*/{RECORD}")), key=_version)
            return
    newest = sorted((runs_dir / run / "artifacts").glob(f"{stage}@*/{RECORD}"), key=lambda p: _version(p.parent)) \
        if stage and "@" not in stage else []
    if not newest:
        raise UserError("there is no such run, artifact or file", where=source,
                        fix=f"name a run under {runs_dir}, recipe/stage@N, an artifact's folder, or a .json or .csv "
                            "file")
    yield newest[-1].parent


def _version(folder: Path) -> tuple[str, int]:
    stem, _, number = folder.name.rpartition("@")
    return stem, int(number) if number.isdigit() else 0


def _add(found: Found, folder: Path, counting: Counting) -> None:
    record = read_json(folder / RECORD)
    name = f"{record.get('name', folder.name)}@{record.get('version', 0)}"
    if record.get("kind") != "model" or record.get("uses") != "pretrain":
        if record.get("kind") == "model":
            found.rejected.append((name, "it was not pretrained"))
        return
    if any(point.name == name for point in found.points):
        return
    reason, point = point_of(folder, record, name, counting)
    if point is None:
        found.rejected.append((name, reason))
        return
    found.points.append(point)
    config, inputs = record.get("config") or {}, record.get("inputs") or {}
    found.text[name] = "/".join(
        [str((inputs.get(config.get(key)) or {}).get("digest", "?"))[:12] for key in ("corpus", "tokenizer")]
        + [str((config.get("objective") or {}).get("kind", "default"))])


def point_of(folder: Path, record: Mapping[str, Any], name: str, counting: Counting = "total"
             ) -> tuple[str, Point | None]:
    """(why not, the point or None) of one pretrained artifact."""
    config, metrics = record.get("config") or {}, record.get("metrics") or {}
    if config.get("start"):
        return "it went on from another model", None
    if metrics.get("stopped_early"):
        return "it stopped early, before its learning rate had come down", None
    plan = read_json(folder / "plan.json") if (folder / "plan.json").is_file() else {}
    evaluations = read_jsonl(folder / "evaluations.jsonl")
    last = evaluations[-1] if evaluations else {}
    if last.get("step") != metrics.get("steps") or not isinstance(last.get("valid_loss"), (int, float)):
        return "it has no loss on held-out text at its last step", None
    parameters = plan.get("parameters") or metrics.get("parameters")
    tokens = metrics.get("tokens") or plan.get("tokens")
    if not parameters or not tokens:
        return "its size or its tokens are not written down", None
    if counting == "matmul":
        from gristmill.models.families import FAMILIES

        model = plan.get("model") or {}
        try:
            parameters = FAMILIES[model["family"]].config(**model).matmul_parameters
        except (KeyError, TypeError, ValueError) as error:
            return f"its matrix products cannot be counted ({error})", None
    return "", Point(float(parameters), float(tokens), float(last["valid_loss"]), name, plan.get("epochs"))


def _table(path: Path) -> list[Point]:
    """Rows of parameters, tokens, loss, and optionally name and epochs."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"this file cannot be read ({error})", where=str(path)) from error
    try:
        if path.suffix == ".csv":
            rows: Any = list(csv.DictReader(io.StringIO(text)))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"this is no JSON ({error})", where=str(path)) from error
    if isinstance(rows, dict):
        rows = rows.get("points")
    if not isinstance(rows, list):
        raise UserError("this holds no list of points", where=str(path),
                        fix='write [{"parameters": 1e6, "tokens": 2e7, "loss": 4.1}, ...], or a CSV with these columns')
    return [_row(row, f"{path}: row {number}") for number, row in enumerate(rows, 1)]


def _row(row: Any, where: str) -> Point:
    if not isinstance(row, dict):
        raise UserError("a point is a mapping", where=where, fix=f"give it {', '.join(COLUMNS)}")
    values: dict[str, float] = {}
    for column in COLUMNS:
        try:
            value = float(row.get(column))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value) or value <= 0:
            raise UserError(f"{column} must be a positive number, but it is {row.get(column)!r}", where=where)
        values[column] = value
    try:
        epochs = float(row["epochs"]) if row.get("epochs") not in (None, "") else None
    except (TypeError, ValueError) as error:
        raise UserError(f"epochs must be a number, but it is {row['epochs']!r}", where=where) from error
    return Point(**values, name=str(row.get("name") or where.rpartition(" ")[2]), epochs=epochs)
