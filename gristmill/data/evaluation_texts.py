"""Evaluation texts from files, as (task, id, text): what must not be trained on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gristmill.core.errors import UserError


def evaluation_texts(
    path: Path, *, task: str = "", fields: Sequence[str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """The texts of a JSONL, JSON or plain text file (or .gz of one), or of all such files of a folder.

    task: how the task is called (the file's name before its first dot if empty). fields: which fields of a record make
    its text, joined by line feeds (None: all strings in it). A record's id is its `id` or `task_id`, or else its place.
    In JSON of SQuAD's shape every context and every question is a text of its own. In plain text, an empty line
    separates two texts. Raises UserError with the line for what cannot be read.
    """
    if path.is_dir():
        for child in sorted(p for p in path.rglob("*") if p.is_file() and _kind(p)):
            yield from evaluation_texts(child, task=task, fields=fields)
        return
    name = task or path.name.split(".")[0]
    if not _kind(path):
        raise UserError("evaluation texts are .jsonl, .json or .txt (or .gz of one)", where=str(path))
    for place, record in _records(path):
        if isinstance(record, str):
            yield name, str(place), record
            continue
        if fields and isinstance(record, dict) and not any(key in record for key in fields):
            have = ", ".join(sorted(map(str, record)))
            raise UserError(f"no field {', '.join(fields)}", where=f"{path}, record {place}", fix=f"it has {have}")
        chosen = [record.get(key) for key in fields] if fields and isinstance(record, dict) else record
        keys = [key for key in ("id", "task_id") if isinstance(record, dict) and key in record]
        yield name, str(record[keys[0]] if keys else place), "\n".join(_strings(chosen))


def _kind(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in (".jsonl", ".json", ".txt") else ""


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"this file cannot be read ({error})", where=str(path)) from error
    if _kind(path) == ".txt":
        yield from enumerate((piece for piece in text.replace("\r\n", "\n").split("\n\n") if piece.strip()), 1)
        return
    if _kind(path) == ".json":
        whole = _parsed(text, str(path))
        if isinstance(whole, dict) and isinstance(whole.get("data"), list):
            whole = list(_squad(whole["data"])) or whole["data"]
        yield from enumerate(whole if isinstance(whole, list) else [whole], 1)
        return
    for place, line in enumerate(text.split("\n"), 1):  # not splitlines: records may hold U+2028
        if line.strip():
            yield place, _parsed(line, f"{path}, line {place}")


def _squad(articles: list[Any]) -> Iterator[str]:
    """The contexts and questions of SQuAD's shape (Rajpurkar et al. 2016); nothing for another one."""
    for article in articles:
        for paragraph in _objects(article, "paragraphs"):
            yield str(paragraph.get("context", ""))
            yield from (str(question.get("question", "")) for question in _objects(paragraph, "qas"))


def _objects(value: Any, key: str) -> list[dict[str, Any]]:
    listed = value.get(key) if isinstance(value, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"this is not valid JSON ({error})", where=where) from error


def _strings(value: Any) -> Iterator[str]:
    """All strings in a record, in order."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += reversed(value.values())
        elif isinstance(value, list):
            waiting += reversed(value)
