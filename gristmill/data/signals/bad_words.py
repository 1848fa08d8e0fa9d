"""Signal `bad_words_v1`: how many entries of a given list a text holds.

Source: Raffel et al. (2020), section 2.2, "List of Dirty, Naughty, Obscene or Otherwise Bad Words". No list is part of
this package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from gristmill.data.signals.batch import Batch
from gristmill.data.signals.lines import UNSPACED
from gristmill.data.signals.signal import Signal

_WORD = re.compile(r"\w+")


def bad_words_v1(entries: Iterable[str]) -> Signal:
    """The signal for this list of words and phrases: {entries: how many different ones of them occur}.

    Compared in lower case, white space in a phrase stands for any white space. An entry must not touch a letter, digit
    or `_`, unless the character of the entry there is itself of a script that is written without spaces.
    """
    wanted = {" ".join(entry.lower().split()) for entry in entries} - {""}
    plain = frozenset(entry for entry in wanted if _WORD.fullmatch(entry) and entry.isascii())
    others = {entry: _pattern(entry) for entry in sorted(wanted - plain)}

    def columns(batch: Batch) -> dict[str, np.ndarray]:
        return {"entries": np.fromiter((_found(text.lower(), plain, others) for text in batch.texts), np.int64,
                                       len(batch))}

    return Signal("bad_words_v1", columns, bad_words_v1.__doc__)


def _found(text: str, plain: frozenset[str], others: dict[str, re.Pattern[str]]) -> int:
    spaced = " ".join(text.split()) if others else ""
    phrases = sum(entry in spaced and pattern.search(spaced) is not None for entry, pattern in others.items())
    return len(plain.intersection(_WORD.findall(text))) + phrases


def _pattern(entry: str) -> re.Pattern[str]:
    before = "" if UNSPACED.match(entry[0]) else r"(?<!\w)"
    after = "" if UNSPACED.match(entry[-1]) else r"(?!\w)"
    return re.compile(before + re.escape(entry) + after)
