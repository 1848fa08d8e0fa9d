"""Questions and answers of the StackExchange dumps: a thread or a pair of question and answer is a document."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.dates import utc_time
from gristmill.data.formats.html_fragment import fragment_text
from gristmill.data.formats.stackexchange_posts import (
    ANSWER,
    QUESTION,
    Answers,
    BrokenRow,
    Row,
    attributes,
    numbers,
    rows,
)
from gristmill.data.formats.text import whole_characters
from gristmill.data.inputs import DAMAGE, Input, Range, list_inputs, open_input, problem_of

MOST_PARTS = 8
"""Ranges of one file at most: each has to look through the whole file for the answers to its questions."""
_TYPE = re.compile(rb"""\sPostTypeId\s*=\s*["']([^"']*)["']""")
_HOST = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")


@config
class StackExchange:
    """Posts.xml of StackExchange sites (unpacked from .7z; also .gz, .bz2, .xz, .zst): questions with their answers."""

    kind: Literal["stackexchange"] = "stackexchange"
    path: str
    """A Posts.xml, a folder of sites (`cooking.stackexchange.com/Posts.xml`), a glob, or an fsspec URL of one."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    license: str = ""
    """The licence; if empty, the one that each post carries, or else that of its date: CC BY-SA 2.5 before 2011-04-08,
    3.0 before 2018-05-02, 4.0 since."""
    language: str = ""
    """ISO 639-1 code, if all the sites are in one known language; otherwise it is detected."""
    domain: str = ""
    """A label for these documents; the name of the site, if empty."""
    site: str = ""
    """Host of the site, for links (`cooking.stackexchange.com`); if empty, the name of the folder that holds
    Posts.xml."""
    form: Literal["threads", "pairs"] = "threads"
    """`threads`: a question and its answers are one document; `pairs`: a question and one answer, `answer_start` in the
    metadata says where the answer begins in the text; pairs of a question stay in one split."""
    answers: int = 5
    """Answers taken of a question: the accepted one first, then those with the highest scores."""
    question_score: int = 0
    """Questions with a lower score are left out."""
    answer_score: int = 0
    """Answers with a lower score are left out, unless they were accepted."""
    unanswered: bool = False
    """Read questions too that no answer (of those taken) belongs to; only as threads."""
    longest_kb: int = 1024
    """Longer posts (as XML) are left out. The sites allow 30,000 characters."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a Posts.xml, a folder, a glob or a URL")
        require(1 <= self.answers <= 1000, "answers", "must be from 1 to 1000")
        require(1 <= self.longest_kb <= 65536, "longest_kb", "must be from 1 to 65536")
        require(not (self.unanswered and self.form == "pairs"), "unanswered", "has no meaning for pairs")

    def inputs(self) -> list[Input]:
        """The files of posts; those of users, votes, comments and so on are left out."""
        if self.path.lower().endswith(".7z"):
            raise UserError("a .7z archive has to be unpacked first", where=self.path,
                            fix="run `7z x` on it and give the folder")
        found = list_inputs(self.path, {".xml"})
        posts = [item for item in found if PurePosixPath(item.name.lower()).name.split(".xml")[0].endswith("posts")]
        if not posts and len(found) > 1:
            raise UserError("there is no Posts.xml here", where=self.path, fix="unpack the .7z of a site there")
        return posts or found

    def ranges(self, item: Input, size: int) -> list[Range]:
        """At most eight byte ranges, since each has to look for answers in the whole file; one if it is compressed."""
        number = 1 if item.compressed else min(MOST_PARTS, max(1, round(item.size / size)))
        edges = [item.size * i // number for i in range(number)]
        return [Range(item, start, stop) for start, stop in zip(edges, [*edges[1:], None], strict=True)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The questions that begin in this part with their answers, wherever those are; a Reject for each that is
        broken or left out, and for each answer without a question."""
        item = part.input
        if item.compressed:
            if part.start:
                return
            part = Range(item)
        answers = Answers()
        try:
            with contextlib.suppress(*DAMAGE):  # what came before the damage is there; `_threads` says where it is
                self._collect(item, answers, None if not part.start and part.stop is None else part)
            answers.sort()
            yield from self._threads(part, source, answers)
        finally:
            answers.close()

    def _collect(self, item: Input, answers: Answers, part: Range | None) -> None:
        """Keep all answers, and the numbers of all questions. part: only answers to its questions are needed."""
        wanted: set[int] | None = None if part is None else self._questions(part)
        with open_input(item) as stream:
            for offset, raw in rows(stream, 0, self.longest_kb << 10):
                kind = _TYPE.search(raw) if raw else None
                if raw is None or kind is None or kind[1] not in (b"1", b"2"):
                    continue
                try:
                    row = numbers(raw)
                except BrokenRow:
                    continue
                if row.get("PostTypeId") == QUESTION:
                    answers.ask(_number(row, "Id"), offset)
                elif wanted is None or _number(row, "ParentId") in wanted:
                    answers.add(_number(row, "ParentId"), _number(row, "Id"), _number(row, "Score"), raw)

    def _questions(self, part: Range) -> set[int]:
        """Numbers of the questions of a part; some 100 bytes of memory each."""
        found = set()
        for _, raw in self._rows(part):
            if raw and (kind := _TYPE.search(raw)) and kind[1] == b"1":
                try:
                    found.add(_number(numbers(raw), "Id"))
                except BrokenRow:
                    continue
        return found

    def _rows(self, part: Range) -> Iterator[tuple[int, bytes | None]]:
        with open_input(part.input) as stream:
            if part.start:
                stream.seek(part.start)
            for offset, raw in rows(stream, part.start, self.longest_kb << 10):
                if part.stop is not None and offset >= part.stop:
                    return
                yield offset, raw

    def _threads(self, part: Range, source: str, answers: Answers) -> Iterator[Document | Reject]:
        last = part.start
        try:
            for offset, raw in self._rows(part):
                last = offset
                document = self._document(part.input, source, offset, {})
                if raw is None:
                    yield Reject(document, "too_long", f"more than longest_kb: {self.longest_kb}")
                    continue
                try:
                    row = numbers(raw)
                    row = attributes(raw) if row.get("PostTypeId") == QUESTION else row
                except BrokenRow as problem:
                    document.text = raw[:2000].decode("utf-8", "replace")
                    yield Reject(document, "broken_xml", f"the row at byte {offset}: {problem}")
                    continue
                kind = row.get("PostTypeId")
                if kind == ANSWER and answers.first_place(_number(row, "ParentId")) is None:
                    document.metadata["post_id"] = _number(row, "Id")
                    yield Reject(document, "no_question", f"question {_number(row, 'ParentId')} is not in the file")
                elif kind == QUESTION:
                    yield from self._question(part.input, source, offset, row, answers)
        except DAMAGE as error:
            if last != part.start or not part.start:
                document = self._document(part.input, source, last, {})
                document.id += "!"  # the post at this place may have come out already
                reason, detail = problem_of(error)
                yield Reject(document, reason, f"after the post at byte {last}: {detail}")

    def _question(self, item: Input, source: str, offset: int, row: Row,
                  answers: Answers) -> Iterator[Document | Reject]:
        number, accepted = _number(row, "Id"), _number(row, "AcceptedAnswerId")
        document = self._document(item, source, offset, row)
        first = answers.first_place(number)
        if first is not None and first != offset:
            yield Reject(document, "duplicate_id", f"question {number} is at byte {first} already")
            return
        if _number(row, "Score") < self.question_score:
            yield Reject(document, "low_score", f"{_number(row, 'Score')}, below question_score: {self.question_score}")
            return
        title = " ".join(row.get("Title", "").split())
        body = fragment_text(row.get("Body", ""))
        if not body:
            yield Reject(document, "no_text", "the question has no body")
            return
        taken: dict[int, Row] = {}
        for place, one in enumerate(attributes(raw) for raw in answers.best(number, accepted, self.answers)):
            if (answer := _number(one, "Id")) not in taken:
                taken[answer] = one
                continue
            repeated = self._document(item, source, offset, one)
            repeated.id += f"#{answer}!{place}"
            yield Reject(repeated, "duplicate_id", f"answer {answer} to question {number} is there already")
        good = [one for answer, one in taken.items()
                if _number(one, "Score") >= self.answer_score or answer == accepted]
        replies = [(one, text) for one in good if (text := fragment_text(one.get("Body", "")))]
        if not replies and not self.unanswered:
            yield Reject(document, "unanswered", f"no answer with a score of {self.answer_score} or more")
            return
        question = f"# {title}\n\n{body}" if title else body
        if self.form == "threads":
            parts = [f"## {'Accepted answer' if _number(one, 'Id') == accepted else 'Answer'}\n\n{text}"
                     for one, text in replies]
            document.text = whole_characters("\n\n".join([question, *parts]))
            document.metadata["answers"] = [self._about(one, accepted) for one, _ in replies]
            yield document
            return
        for one, text in replies:
            pair = self._document(item, source, offset, row)
            pair.id += f"#{_number(one, 'Id')}"
            heading = "## Answer\n\n"
            question_text = whole_characters(f"{question}\n\n")
            pair.text = question_text + heading + whole_characters(text)
            pair.metadata |= {"group": pair.metadata["group"], "answer_start": len(question_text) + len(heading),
                              "answers": [self._about(one, accepted)]}
            yield pair

    def _about(self, answer: Row, accepted: int) -> dict[str, object]:
        known = {"id": _number(answer, "Id"), "score": _number(answer, "Score"),
                 "accepted": _number(answer, "Id") == accepted, "time": utc_time(answer.get("CreationDate")),
                 "author": _author(answer), "license": self._license(answer)}
        return {key: value for key, value in known.items() if value not in ("", False)}

    def _license(self, row: Row) -> str:
        if self.license or row.get("ContentLicense"):
            return self.license or whole_characters(row["ContentLicense"])
        date = row.get("CreationDate", "")[:10]
        if not date:
            return "unknown"
        return f"CC BY-SA {'2.5' if date < '2011-04-08' else '3.0' if date < '2018-05-02' else '4.0'}"

    def _document(self, item: Input, source: str, offset: int, row: Row) -> Document:
        folder = PurePosixPath(item.path).parent.name if "/" not in item.name else PurePosixPath(item.name).parent.name
        site = self.site or (folder.lower() if _HOST.fullmatch(folder.lower()) else "")
        metadata: dict[str, object] = {"path": item.name, "offset": offset, "license": self._license(row)}
        number = _number(row, "Id")
        if row:
            tags = re.findall(r"[^<>|\s]+", row.get("Tags", ""))
            known = {
                "post_id": number, "group": f"{item.name}:{number}", "title": " ".join(row.get("Title", "").split()),
                "score": _number(row, "Score"), "tags": tags, "time": utc_time(row.get("CreationDate")),
                "author": _author(row), "url": f"https://{site}/questions/{number}" if site else "",
            }
            metadata |= {key: whole_characters(value) if isinstance(value, str) else value
                         for key, value in known.items() if value not in ("", [])}
        return Document(f"{source}/{item.name}@{offset}", "", source, domain=self.domain or site or source,
                        language=self.language or "und", metadata=metadata)


def _number(row: Row, name: str) -> int:
    """An attribute as a number; 0 if it is none that fits into 63 bits."""
    value = row.get(name, "")
    digits = value.removeprefix("-")
    return int(value) if digits.isascii() and digits.isdecimal() and len(digits) < 19 else 0


def _author(row: Row) -> str:
    """The number of the user (names are in Users.xml), or the name that an unregistered one gave."""
    return row.get("OwnerUserId") or row.get("OwnerDisplayName", "")
