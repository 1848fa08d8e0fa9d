"""Words and sentences as spaCy's blank English pipeline splits them, which datatrove uses; spaCy must be installed.

spaCy decides about each run of characters between white space on its own, so what it said once of such a run is kept:
that is exact and several times as fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import Any

from gristmill.core.errors import MachineError

KEPT_RUNS = 1 << 19
"""Runs of characters that are remembered (about 300 bytes each); then all are forgotten."""
_SENTENCE = re.compile("s[sp]*w")
_PIECES = re.compile(r"(\s*)(\S*)")


class _Runs(dict[str, tuple[str, ...]]):
    """Remembers what `split` says of each run; `forget` is called when all that is dropped."""

    def __init__(self, split: Callable[[str], tuple[str, ...]], forget: Callable[[], None]) -> None:
        self.split, self.forget = split, forget

    def __missing__(self, run: str) -> tuple[str, ...]:
        if len(self) >= KEPT_RUNS:
            self.clear()
            self.forget()
        self[run] = found = self.split(run)
        return found


class SpacyWords:
    """Splits text as `spacy.blank("en")` with its rule-based sentence splitter does.

    Raises MachineError if spaCy is not installed.
    """

    def __init__(self) -> None:
        try:
            import spacy
            from spacy.pipeline import Sentencizer
        except ImportError as error:
            raise MachineError(
                "datatrove's definitions of words and sentences are spaCy's, and spaCy is not installed",
                where="compat: datatrove",
                fix="pip install spacy==3.8.18 (no model is needed), or use our own definitions: `compat: none`",
            ) from error
        self._blank: Callable[[], Any] = lambda: spacy.blank("en").tokenizer
        self._renew()
        self._stops = frozenset(Sentencizer.default_punct_chars)
        self._words = _Runs(self._split, self._renew)
        self._kinds = _Runs(lambda run: tuple(map(self._kind, self._pieces(run))), self._renew)

    def words(self, text: str) -> list[str]:
        """The words in order, punctuation marks among them, white space not."""
        return list(chain.from_iterable(map(self._words.__getitem__, text.split())))

    def sentences(self, text: str) -> int:
        """How many sentences; 1 for empty text."""
        runs = text.split()
        if " ".join(runs) == text:
            kinds = "".join(map("".join, map(self._kinds.__getitem__, runs)))
        else:
            kinds = ""
            for space, run in _PIECES.findall(text):
                # the first of several spaces belongs to the word before it, the rest is a word of white space
                kinds += "w" if space and (space != " " or not kinds) else ""
                kinds += "".join(self._kinds[run]) if run else ""
        return 1 + len(_SENTENCE.findall(kinds))

    def forget(self) -> None:
        """Drop what is remembered; nothing but speed changes."""
        self._words.clear()
        self._kinds.clear()

    def _renew(self) -> None:
        """spaCy's store of strings only grows, so a new one is made now and then."""
        self._tokenizer: Any = self._blank()

    def _pieces(self, run: str) -> list[str]:
        return [token.text for token in self._tokenizer(run)]

    def _split(self, run: str) -> tuple[str, ...]:
        return tuple(piece for piece in map(str.strip, self._pieces(run)) if piece)

    def _kind(self, piece: str) -> str:
        """s: ends a sentence; p: other punctuation; w: all else."""
        return "s" if piece in self._stops else "p" if self._tokenizer.vocab[piece].is_punct else "w"
