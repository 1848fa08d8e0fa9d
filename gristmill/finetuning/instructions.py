"""Instruction data: where conversations come from, and which of them a model is tested on.

Every source gives the conversations of a split; documents keep the split that the corpus gave them, rows of a file
are split by the hash of their content, so that nothing that is tested on was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gristmill.core.artifact import Artifact
from gristmill.core.config import CorpusRef, config, require
from gristmill.core.errors import UserError
from gristmill.core.hashing import canonical_json
from gristmill.core.seeds import derive_seed, fraction

Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """Messages with roles system, user, assistant; the last one is the assistant's."""

    messages: list[Message]
    source: str
    id: str
    """Where it was found."""


@dataclass
class Rejects:
    """Rows that could not be used: counted by reason, the first few kept."""

    counts: dict[str, int]
    examples: list[dict[str, Any]]

    def add(self, reason: str, where: str, row: object) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.examples) < 20:
            self.examples.append({"reason": reason, "where": where, "row": str(row)[:300]})


@config
class Docstrings:
    """Questions and answers made from the functions of a Python corpus: what does it do, and how is it written."""

    kind: Literal["docstrings"] = "docstrings"
    corpus: CorpusRef
    """A corpus with Python documents."""
    explain: bool = True
    """Question about a function -> the first line of its documentation."""
    complete: bool = True
    """Signature and documentation -> body."""
    longest: int = 1200
    """Most characters of an answer; functions with longer ones are passed over. Small models learn short ones first."""
    limit: int = 5000
    """Most conversations; the documents they come from are taken in the order of a hash."""

    def __post_init__(self) -> None:
        require(self.limit >= 1, "limit", "must be at least 1")
        require(self.longest >= 1, "longest", "must be at least 1")
        require(self.explain or self.complete, "explain", "explain and complete cannot both be false")

    def conversations(self, split: str, inputs: Mapping[str, Artifact], rejects: Rejects) -> Iterator[Conversation]:
        from gristmill.data.documented import documented_functions
        from gristmill.data.python_pairs import complete_pair, explain_pair

        left = self.limit
        makers = [(name, make) for name, make, wanted in (
            ("explain", explain_pair, self.explain), ("complete", complete_pair, self.complete)) if wanted]
        for key, function in documented_functions(inputs[self.corpus].path, split, derive_seed("docstrings")):
            for name, make in makers:
                pair = make(function)
                if len(pair.answer) > self.longest:
                    continue
                if left == 0:
                    return
                left -= 1
                yield Conversation([*pair.messages, {"role": "assistant", "content": pair.answer}], name, key)


@config
class InstructionFile:
    """Conversations in a .jsonl or .json file: `messages`, `conversations` (ShareGPT), prompt + completion/response,
    or instruction + input + output (Alpaca)."""

    kind: Literal["file"] = "file"
    path: str
    """The file."""
    valid: float = 0.05
    """Share of the rows held out for validation."""

    def __post_init__(self) -> None:
        require(0 < self.valid < 1, "valid", "is a share between 0 and 1")

    def conversations(self, split: str, inputs: Mapping[str, Artifact], rejects: Rejects) -> Iterator[Conversation]:
        path = Path(self.path)
        if not path.is_file():
            raise UserError("this file is missing", where=self.path, fix="correct `path` in the recipe")
        for number, row in _rows(path, rejects):
            messages = as_messages(row)
            if messages is None:
                rejects.add("no conversation found in this row", f"{path.name}:{number}", row)
                continue
            held_out = fraction("instructions", canonical_json(messages)) < self.valid
            if held_out == (split != "train"):
                yield Conversation(messages, path.name, f"{path.name}:{number}")


ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def _rows(path: Path, rejects: Rejects) -> Iterator[tuple[int, Any]]:
    import gzip

    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if data.lstrip()[:1] == b"[":
        try:
            yield from enumerate(json.loads(data), 1)
        except json.JSONDecodeError as error:
            raise UserError(f"this is not valid JSON ({error})", where=str(path)) from error
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                rejects.add("not valid JSON", f"{path.name}:{number}", error)


def as_messages(row: Any) -> list[Message] | None:
    """One row of a known shape as messages ending with the assistant's, or None."""
    if not isinstance(row, dict):
        return None
    if isinstance(row.get("messages") or row.get("conversations"), list):
        messages = []
        for item in row.get("messages") or row["conversations"]:
            if not isinstance(item, dict):
                return None
            role = ROLES.get(str(item.get("role", item.get("from"))))
            content = item.get("content", item.get("value"))
            if role is None or not isinstance(content, str):
                return None
            messages.append({"role": role, "content": content})
        while messages and messages[-1]["role"] != "assistant":
            messages.pop()
        return messages or None
    if "instruction" in row and "output" in row:
        question = "\n\n".join(str(p) for p in (row["instruction"], row.get("input")) if p)
        return _pair(question, row["output"])
    return _pair(row.get("prompt"), row.get("completion", row.get("response")))


def _pair(question: Any, answer: Any) -> list[Message] | None:
    if not (isinstance(question, str) and isinstance(answer, str) and question.strip() and answer.strip()):
        return None
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
