"""Line filters: named, versioned rules by which single lines leave a document; and the signals that count with them.

Sources: the rules of C4 (Raffel et al. 2020, section 2.2; the limits on words follow its published reading in other
tools), and those of FineWeb (Penedo et al. 2024, "Developing additional heuristic filters"). `annotate` counts the
lines (`c4_v1`), `decide` says which filters are in force, `remove_lines` edits the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gristmill.core.errors import UserError
from gristmill.data.signals.batch import Batch, share, sums
from gristmill.data.signals.signal import signal

_WIDE_STOPS = "。！？｡．"
STOPS = ".!?" + "…‼‽⁇⁈⁉⸮" + _WIDE_STOPS + "؟۔।॥։።፧။៕"
"""Characters that end a sentence. After the wide ones (Chinese, Japanese) no space is needed."""
QUOTES = "\"'”’»」』"
CLOSERS = QUOTES + ")]}）"
"""What may follow a full stop within the same sentence."""
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
MAX_WORD = 1000
"""Characters; a line with a longer word is data, not text."""
_SENTENCE_END = re.compile(f"([{re.escape(STOPS)}]+)[{re.escape(CLOSERS)}]*")
_WIDE = re.compile(f"[{re.escape(_WIDE_STOPS)}]")
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Characters of scripts that are written without spaces."""
_C4_ENDS = (".", "!", "?", '"', "”", *(stop for stop in STOPS if stop not in ".!?…"))


def _unterminated(batch: Batch) -> np.ndarray:
    return _flags(batch, lambda line: not line.endswith(_C4_ENDS) or line.endswith("..."))


def _few_words(least: int) -> Callable[[Batch], np.ndarray]:
    return lambda batch: _per_line(batch, batch.per_word(_spoken)) < least


def _long_word(batch: Batch) -> np.ndarray:
    return _per_line(batch, batch.word_sizes > MAX_WORD) > 0


def _javascript(batch: Batch) -> np.ndarray:
    return _holding(batch, ("javascript",))


def _policy(batch: Batch) -> np.ndarray:
    return _holding(batch, POLICY)


LINE_FILTERS: Mapping[str, Callable[[Batch], np.ndarray]] = {
    "unterminated_v1": _unterminated,
    "few_words_3_v1": _few_words(3),
    "few_words_5_v1": _few_words(5),
    "long_word_v1": _long_word,
    "javascript_v1": _javascript,
    "policy_v1": _policy,
}
"""name -> (lines,) is this line to go?

unterminated_v1: does not end in a full stop, exclamation or question mark (of any script) or an end quotation mark,
    or ends in `...`. few_words_3_v1, few_words_5_v1: fewer than 3 or 5 words (white space separates words; each
    character of a script without spaces is one). long_word_v1: a word of more than 1000 characters. javascript_v1:
    says "javascript", in any case. policy_v1: has one of `POLICY`, in any case.
"""
FINEWEB_LINES = ("few_words_3_v1", "long_word_v1", "javascript_v1", "policy_v1")
C4_LINES = ("unterminated_v1", *FINEWEB_LINES)
"""The line filters of C4; FineWeb leaves out the first, which cost it the most text."""
_C4_COUNTS = {"unterminated": "unterminated_v1", "few_words": "few_words_3_v1", "long_word": "long_word_v1",
              "javascript": "javascript_v1", "policy": "policy_v1"}


@signal
def c4_v1(batch: Batch) -> dict[str, np.ndarray]:
    """Counts: how many lines each filter takes (unterminated_lines, ...); kept_lines, sentences: what is left after
    `C4_LINES`; kept_lines_any_end, sentences_any_end: after `FINEWEB_LINES`; lorem_ipsum, curly_brackets: occurrences
    in the whole text (the first in any case; of the second only `{`).

    A sentence ends at a run of `STOPS` (and `CLOSERS`) before white space or the end of the line, at a run that holds
    a wide full stop anywhere, and at the end of the line.
    """
    gone = {name: marks(batch, name) for name in C4_LINES}
    counts = {f"{value}_lines": sums(gone[name], batch.line_bounds) for value, name in _C4_COUNTS.items()}
    sentences = _sentences(batch)
    kept, any_end = (~np.any([gone[name] for name in names], axis=0) for names in (C4_LINES, FINEWEB_LINES))
    return {
        **counts,
        "kept_lines": sums(kept, batch.line_bounds),
        "sentences": sums(sentences * kept, batch.line_bounds),
        "kept_lines_any_end": sums(any_end, batch.line_bounds),
        "sentences_any_end": sums(sentences * any_end, batch.line_bounds),
        "lorem_ipsum": np.fromiter((text.lower().count("lorem ipsum") for text in batch.texts), np.int64, len(batch)),
        "curly_brackets": np.fromiter((text.count("{") for text in batch.texts), np.int64, len(batch)),
    }


@signal
def fineweb_v1(batch: Batch) -> dict[str, np.ndarray]:
    """punctuated_lines: share of the lines (not blank, stripped) that end in one of `STOPS` or in quotes after one.
    short_lines: share of them with fewer than 30 characters. newline_words: newlines, over words. 0 without lines."""
    ends = _flags(batch, lambda line: line.rstrip(QUOTES).endswith(_STOPS))
    short = np.fromiter(map(len, batch.lines), np.int64, len(batch.lines)) < SHORT_LINE
    newlines = np.fromiter((text.count("\n") for text in batch.texts), np.int64, len(batch))
    return {
        "punctuated_lines": share(sums(ends, batch.line_bounds), batch.line_counts),
        "short_lines": share(sums(short, batch.line_bounds), batch.line_counts),
        "newline_words": share(newlines, batch.word_counts),
    }


SHORT_LINE = 30
_STOPS = tuple(STOPS)


@dataclass(frozen=True)
class Edited:
    """A text without the lines that left it, and how many each filter took (the first that applies counts)."""

    text: str
    removed: dict[str, int]


def remove_lines(text: str, filters: Iterable[str]) -> Edited:
    """The text without the lines that a filter (a name of `LINE_FILTERS`) marks.

    Lines that stay, stay as they are. Blank lines stay too, but those around removed lines do not add up, and none
    remain at the ends. Text that ended in a newline still does. Raises UserError for an unknown filter.
    """
    return remove_lines_batch(Batch([text]), filters)[0]


def remove_lines_batch(batch: Batch, filters: Iterable[str]) -> list[Edited]:
    """`remove_lines` for each text of a batch."""
    names = list(dict.fromkeys(filters))
    for name in names:
        if name not in LINE_FILTERS:
            choices = ", ".join(LINE_FILTERS)
            raise UserError(f"there is no line filter {name!r}", where="line filters", fix=f"choose from {choices}")
    taken = np.full(len(batch.lines), -1)
    for place, name in enumerate(names):
        taken[(taken < 0) & marks(batch, name)] = place
    counts = np.array([sums(taken == place, batch.line_bounds) for place in range(len(names))]).reshape(len(names), -1)
    edges = batch.line_bounds.tolist()
    return [
        Edited(_without(text, (taken[edges[row] : edges[row + 1]] >= 0).tolist()) if counts[:, row].any() else text,
               dict(zip(names, counts[:, row].tolist(), strict=True)))
        for row, text in enumerate(batch.texts)
    ]


def _without(text: str, gone: Sequence[bool]) -> str:
    """A text without those lines that are not blank and `gone`."""
    kept: list[str] = []
    gap, blank = False, True  # were lines removed since the last one that was kept, and was that one blank?
    places = iter(gone)
    for line in text.split("\n"):
        if not line or line.isspace():
            if not (gap and blank):
                kept.append(line)
                blank = True
        elif next(places):
            gap = True
        else:
            kept.append(line)
            gap = blank = False
    first = next((place for place, line in enumerate(kept) if line and not line.isspace()), len(kept))
    while len(kept) > first and (not kept[-1] or kept[-1].isspace()):
        kept.pop()
    return "\n".join(kept[first:]) + ("\n" if len(kept) > first and text.endswith("\n") else "")


def marks(batch: Batch, name: str) -> np.ndarray:
    """(lines,) which lines of a batch a filter takes; found once for a batch."""
    known: dict[str, np.ndarray] = batch.notes
    if name not in known:
        known[name] = LINE_FILTERS[name](batch)
    return known[name]


def _flags(batch: Batch, test: Callable[[str], bool]) -> np.ndarray:
    return np.fromiter(map(test, batch.lines), bool, len(batch.lines))


def _per_line(batch: Batch, values: np.ndarray) -> np.ndarray:
    """(lines,) sums of what each word counts."""
    total = np.concatenate((np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)))
    ends = np.cumsum(batch.line_words)
    return total[ends] - total[ends - batch.line_words]


def _holding(batch: Batch, phrases: Sequence[str]) -> np.ndarray:
    """(lines,) has the line one of the phrases, in any case?"""
    found = np.zeros(len(batch.lines), bool)
    for row, text in enumerate(batch.texts):
        lower = text.lower()
        if any(phrase in lower for phrase in phrases):
            for place in range(batch.line_bounds[row], batch.line_bounds[row + 1]):
                line = batch.lines[place].lower()
                found[place] = any(phrase in line for phrase in phrases)
    return found


def _sentences(batch: Batch) -> np.ndarray:
    """(lines,) how many sentences each line holds."""
    ends = batch.per_word(_sentence_ends)
    last = np.cumsum(batch.line_words) - 1
    inside = _per_line(batch, ends >> 1)
    return inside + (ends[last] & 1) if len(last) else inside


def _sentence_ends(words: Sequence[str]) -> list[int]:
    """For each word twice the number of sentences that end in it, plus 1 if it does not end with one."""
    return [_ends_of(word) if word[-1] in _ENDING or not word.isascii() else 1 for word in words]


_ENDING = frozenset(STOPS + CLOSERS)


def _ends_of(word: str) -> int:
    ended, last = 0, 0
    for match in _SENTENCE_END.finditer(word):
        if match.end() == len(word) or _WIDE.search(match[1]):
            ended, last = ended + 1, match.end()
    return ended << 1 | (last < len(word))


def _spoken(words: Sequence[str]) -> list[int]:
    """How many words each word counts for."""
    return [1 if word.isascii() else _parts(word) for word in words]


def _parts(word: str) -> int:
    rest, alone = UNSPACED.subn("", word)
    return alone + any(map(str.isalnum, rest)) if alone else 1
