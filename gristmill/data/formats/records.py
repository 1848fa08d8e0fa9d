"""From a record (a JSON object, a row of a table) to a document: which field is the text, which are its provenance."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gristmill.core.config import require
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.text import whole_characters

PROVENANCE = ("id", "domain", "language", "pair", "group", "url", "title", "author", "license", "time", "score")
"""Fields that are taken over under their own names where they are there, at the top or in a `metadata` or `meta`
object. `pair` is the same in records that are translations of each other; they stay in one split, as do those of one
`group`."""
_ELSEWHERE = {"time": ("timestamp", "date", "created"), "url": ("source_url",), "language": ("lang",)}
"""Other names under which web corpora hold the same."""
_SPELLINGS = {key: (name, rank) for name in PROVENANCE for rank, key in enumerate((name, *_ELSEWHERE.get(name, ())))}
_NESTED = ("metadata", "meta")
_BRACES = re.compile(r"\{([^{}]+)\}")
LONGEST_PROVENANCE = 4096
"""Characters of one provenance value that are kept."""


class Mapped:
    """How records become documents.

    columns: target -> place. A place is a field name, a path into nested records (`meta.lang`, `answers.0.text`), or a
    template of several (`{title}\n\n{body}`). Targets are `text`, those of `PROVENANCE`, and names of metadata.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = {"text": "text", **columns}

    def top_fields(self, names: Iterable[str]) -> list[str]:
        """Which of a table's columns are needed."""
        known = list(names)
        wanted = {part for place in self.columns.values() for path in paths(place) for part in (path, _first(path))}
        wanted |= {*PROVENANCE, *_NESTED, *(other for others in _ELSEWHERE.values() for other in others)}
        return [name for name in known if name in wanted]

    def missing(self, names: Iterable[str]) -> list[str]:
        """The fields of the text that a table with these columns cannot have."""
        known = set(names)
        return [path for path in paths(self.columns["text"]) if path not in known and _first(path) not in known]

    def fill(self, document: Document, record: Any, where: str) -> Document | Reject:
        """Put the record's text and provenance into `document`; a Reject if there is no text."""
        if not isinstance(record, dict):
            return Reject(document, "broken_record", f"{where}: a {type(record).__name__}, not an object")
        text, problem = _text(record, self.columns["text"])
        found = _defaults(record)
        for name in [name for name in PROVENANCE if name in found or name in self.columns]:
            place = self.columns.get(name)
            if place is None:
                value = found.get(name)
            else:
                value = get(record, place) if "{" not in place else _text(record, place)[0]
            if value is not None:
                self._put(document, name, value)
        for name, place in self.columns.items():
            if name != "text" and name not in PROVENANCE:
                value = _text(record, place)[0] if "{" in place else get(record, place)
                if value not in (None, ""):
                    document.metadata[name] = _plain(value)
        if text is None:
            return Reject(document, "no_text", f"{where}: {problem}")
        document.text = whole_characters(text)
        return document

    def _put(self, document: Document, name: str, value: Any) -> None:
        if value == "" or isinstance(value, (dict, list, bytes)):
            return
        if name in ("domain", "language"):
            if isinstance(value, str) and getattr(document, name) in ("", "und", document.source):
                setattr(document, name, whole_characters(value).lower()[:LONGEST_PROVENANCE])
            return
        kept = iso_time(value) if name == "time" else value if name == "score" else str(value)
        if isinstance(kept, str):
            kept = whole_characters(kept)[:LONGEST_PROVENANCE]
        elif not isinstance(kept, (int, float)):
            return
        if name == "pair":
            document.metadata["pair"] = document.metadata["group"] = kept
        elif name == "group":
            document.metadata.setdefault("group", kept)
        else:
            document.metadata["record_id" if name == "id" else name] = kept


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise ValueError for a mapping that can never work."""
    for name, place in columns.items():
        require(bool(name) and bool(place.strip()), "columns", f"{name!r}: {place!r} names no field")
        require("{" not in place or bool(paths(place)), "columns", f"{name}: {place!r} holds a brace but no {{field}}")
        require(name not in ("path", "offset", "row", "record_id", "piece"), "columns",
                f"{name} is set by the source itself: choose another name")


def paths(place: str) -> list[str]:
    """The fields that a place names."""
    return _BRACES.findall(place) if "{" in place else [place]


def get(record: Any, path: str) -> Any:
    """The value at a dotted path; a field whose own name has the dots goes first. None where there is nothing."""
    if isinstance(record, dict) and path in record:
        return record[path]
    value = record
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def iso_time(value: Any) -> str | None:
    """A time as ISO 8601, in UTC where the zone is known; seconds or milliseconds since 1970 count as times too."""
    if isinstance(value, bool):
        return None
    if isinstance(value, datetime.datetime):
        value = value.astimezone(datetime.UTC) if value.tzinfo else value
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (int, float)):
        try:
            seconds = value / 1000 if abs(value) > 1e11 else value
            moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        except (ValueError, OverflowError, OSError):
            return str(value)
        return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, str):
        try:
            return iso_time(datetime.datetime.fromisoformat(value)) if len(value) > 10 else value
        except ValueError:
            return value
    return None


def _first(path: str) -> str:
    return path.split(".")[0]


def _text(record: dict[str, Any], place: str) -> tuple[str | None, str]:
    """The text at a place, or None and what is wrong. In a template a missing field is empty, but not all of them."""
    if "{" not in place:
        value = get(record, place)
        text = _joined(value)
        if text is not None:
            return text, ""
        held = "missing" if value is None and place not in record else f"a {type(value).__name__}, not text"
        return None, f"field {place!r} is {held}"
    found = {path: _joined(get(record, path)) for path in paths(place)}
    if all(text is None for text in found.values()):
        return None, f"none of the fields {', '.join(found)} is text"
    return _BRACES.sub(lambda match: found[match[1]] or "", place).strip(), ""


def _joined(value: Any) -> str | None:
    """Text as it is; a list of texts as lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return None


def _defaults(record: dict[str, Any]) -> dict[str, Any]:
    """What the record holds under the names of `PROVENANCE` or their other names, at the top before nested."""
    found: dict[str, Any] = {}
    for holder in (record, *(record.get(nested) for nested in _NESTED)):
        if not isinstance(holder, dict):
            continue
        here: dict[str, tuple[int, Any]] = {}
        for key, value in holder.items():
            if value is not None and key in _SPELLINGS:
                name, rank = _SPELLINGS[key]
                if name not in here or rank < here[name][0]:
                    here[name] = rank, value
        for name, (_, value) in here.items():
            found.setdefault(name, value)
    return found


def _plain(value: Any) -> Any:
    """A metadata value that JSON can hold."""
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, (bool, int)) or value is None or (isinstance(value, float) and abs(value) < float("inf")):
        return value
    if isinstance(value, dict):
        return {whole_characters(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (datetime.datetime, datetime.date)):
        return iso_time(value)
    return whole_characters(str(value))
