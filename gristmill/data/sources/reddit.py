"""Posts and comments of Reddit dumps and of other social exports in JSON lines."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import field
from typing import Any, Literal

from gristmill.core.config import config, require
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.dates import unix_time
from gristmill.data.formats.json_records import Broken, json_lines
from gristmill.data.formats.reddit_threads import Post, Threads
from gristmill.data.formats.text import whole_characters
from gristmill.data.inputs import DAMAGE, Input, Range, cut_lines, list_inputs, open_input, problem_of

SUFFIXES = {"", ".jsonl", ".ndjson", ".json", ".zst"}
FIELDS = {
    "id": ("id",), "parent": ("parent_id",), "thread": ("link_id",), "title": ("title",), "text": ("selftext", "body"),
    "author": ("author",), "time": ("created_utc",), "score": ("score",), "community": ("subreddit",),
    "url": ("permalink",), "adult": ("over_18",),
}
"""What is read from a record, and the fields that hold it in the dumps of Reddit (the first that is there)."""
GONE = {"[deleted]": "deleted", "[removed]": "removed", "[ Removed by Reddit ]": "removed",
        "[deleted by user]": "deleted"}


@config
class Reddit:
    """Posts and comments: Reddit dumps (.zst, .gz or plain JSON lines) and other exports by `fields`. One document a
    post or comment, or one a thread; a thread stays in one split."""

    kind: Literal["reddit"] = "reddit"
    path: str
    """A file, a folder (read whole, sorted) or a glob, local or a URL."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    documents: Literal["post", "thread"] = "post"
    """thread: a post and the comments below it that are in the same file, in the order of the replies."""
    min_score: int | None = None
    """Posts and comments with a lower score are left out; null takes all. One without a score is taken."""
    adult: bool = False
    """Take what is marked as for adults too."""
    skip_authors: tuple[str, ...] = ("AutoModerator",)
    """Authors whose posts are left out."""
    thread_memory_mb: int = 256
    """Text of unfinished threads that is held; beyond it the thread that has waited longest is written as it is, and
    what comes later for it begins another document."""
    fields: dict[str, str] = field(default_factory=dict)
    """For other exports: which field of a record holds id, parent, thread, title, text, author, time, score, community,
    url or adult; a dot leads into an object (`account.username`)."""
    license: str = "unknown"
    """The right to use these texts."""
    language: str = ""
    """ISO 639-1 code, if all the texts are in one known language; otherwise it is detected."""
    domain: str = ""
    """A label for these documents; the community (`r/askscience`), if empty."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a file, a folder or a glob")
        require(self.thread_memory_mb >= 1, "thread_memory_mb", "must be 1 or more")
        for name in self.fields:
            require(name in FIELDS, "fields", f"{name!r} is none of {', '.join(FIELDS)}")

    def inputs(self) -> list[Input]:
        """Every file that will be read, sorted by name; a UserError if there is none."""
        return list_inputs(self.path, SUFFIXES)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """Cut at lines; whole for threads."""
        return [Range(item)] if self.documents == "thread" else cut_lines(item, size)

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The posts that begin in this part; what is gone, broken or unwanted comes out as a Reject."""
        if self.documents == "post":
            for item in self._posts(part, source):
                yield item if isinstance(item, Reject) else item.document
            return
        if part.start != 0:
            return
        threads = Threads(self.thread_memory_mb << 20)
        for item in self._posts(Range(part.input), source):
            if isinstance(item, Reject):
                yield item
            else:
                yield from threads.add(item)
        yield from threads.rest()

    def _posts(self, part: Range, source: str) -> Iterator[Post | Reject]:
        item = part.input
        try:
            with open_input(item) as stream:
                for offset, record in json_lines(stream, part.start, part.stop):
                    document = Document(
                        f"{source}/{item.name}@{offset}", "", source, domain=self.domain or source,
                        language=self.language or "und",
                        metadata={"path": item.name, "offset": offset, "license": self.license},
                    )
                    if isinstance(record, Broken):
                        document.text = record.text
                        yield Reject(document, record.reason, record.detail)
                    elif not isinstance(record, dict):
                        yield Reject(document, "broken_record", f"byte {offset}: a {type(record).__name__}, no object")
                    else:
                        yield self._post(record, document)
        except DAMAGE as error:
            place = Document(f"{source}/{item.name}", "", source, metadata={"path": item.name})
            reason, detail = problem_of(error)
            if part.start:
                place.id, detail = f"{place.id}@{part.start}!", f"in the part from byte {part.start:,}: {detail}"
            yield Reject(place, reason, detail)

    def _post(self, record: dict[str, Any], document: Document) -> Post | Reject:
        held = {name: self._value(record, name) for name in FIELDS}
        clean = {name: _text(held[name]) for name in ("id", "parent", "thread", "title", "text", "author", "community")}
        reddit = not self.fields
        if reddit:
            for name in ("title", "text"):
                clean[name] = html.unescape(clean[name])
        name, parent = _bare(clean["id"]), _bare(clean["parent"])
        thread = _bare(clean["thread"]) or ("" if parent else name)
        document.metadata.update({key: value for key, value in (
            ("record_id", name), ("title", clean["title"]), ("author", clean["author"]),
            ("time", unix_time(held["time"]) if held["time"] is not None else ""),
            ("group", thread or parent), ("parent", parent),
        ) if value and value != "[deleted]"})
        score = held["score"]
        if isinstance(score, (int, float)) and not isinstance(score, bool):
            document.metadata["score"] = score
        if clean["community"]:
            document.metadata["community"] = clean["community"]
            if not self.domain:
                document.domain = f"r/{clean['community']}" if reddit else clean["community"]
        if url := _text(held["url"]):
            document.metadata["url"] = f"https://www.reddit.com{url}" if url.startswith("/") else url
        body = clean["text"].strip("\n")
        document.text = f"{clean['title']}\n\n{body}" if clean["title"] and body.strip() else clean["title"] or body
        if problem := self._unwanted(clean, held, body):
            return Reject(document, *problem)
        return Post(document, name, parent, thread or name, bool(clean["title"]) or not parent)

    def _unwanted(self, clean: dict[str, str], held: dict[str, Any], body: str) -> tuple[str, str] | None:
        """Why this post is left out."""
        if gone := GONE.get(body.strip()):
            return gone, f"its text is {body.strip()}"
        if not body.strip():
            return "no_text", "a link or picture" if clean["title"] else "no text field holds text"
        if clean["author"] in self.skip_authors:
            return "skipped_author", clean["author"]
        score = held["score"]
        if self.min_score is not None and isinstance(score, (int, float)) and score < self.min_score:
            return "low_score", f"{score} < {self.min_score}"
        if held["adult"] in (True, "true", 1) and not self.adult:
            return "adult", "marked as for adults (`adult: true` takes it)"
        return None

    def _value(self, record: dict[str, Any], name: str) -> Any:
        """What a record holds under one of our names."""
        for path in ((self.fields[name],) if name in self.fields else () if self.fields else FIELDS[name]):
            value: Any = record
            for key in path.split(".") if path not in record else [path]:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None and value != "":
                return value
        return None


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return whole_characters(str(value))


def _bare(name: str) -> str:
    """`t3_abc` as `abc`."""
    return name[3:] if len(name) > 3 and name[0] == "t" and name[1].isdigit() and name[2] == "_" else name
