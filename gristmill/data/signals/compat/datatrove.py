"""The filters of datatrove 0.10.1 as signals, by their own definitions.

Source: the filters' behaviour. Words and sentences are those of a `Splitter`, for English spaCy's (`SpacyWords`). A
document without what a share divides by has the value 0, where datatrove stops with an error or drops it earlier.
What differs from ours stands in docs/data/rules.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Protocol

import numpy as np

from gristmill.data.signals.batch import Batch, bounds, share, sums
from gristmill.data.signals.compat.characters import DATATROVE_PUNCTUATION, DATATROVE_TERMINAL
from gristmill.data.signals.compat.ngrams import most_common
from gristmill.data.signals.lines import MAX_WORD, POLICY, SHORT_LINE
from gristmill.data.signals.repetition import DUPLICATE, TOP, repeated_ngrams
from gristmill.data.signals.signal import Signal
from gristmill.data.signals.symbols import STOP_WORDS, alphabetic

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_C4_ENDS = (".", "?", "!", '"', "'")
_BASE = 0x9E3779B97F4A7C15
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)


class Splitter(Protocol):
    """What the definitions need to know about words and sentences."""

    def words(self, text: str) -> Sequence[str]: ...

    def sentences(self, text: str) -> int: ...


def datatrove_signals(splitter: Splitter) -> tuple[Signal, ...]:
    """`datatrove_quality_v1`, `datatrove_repetition_v1`, `datatrove_c4_v1`, `datatrove_fineweb_v1`."""
    definitions = {"quality": _quality, "repetition": _repetition, "c4": _c4, "fineweb": _fineweb}
    return tuple(
        Signal(f"datatrove_{name}_v1", partial(columns, splitter=splitter), columns.__doc__)
        for name, columns in definitions.items()
    )


class _Split(Batch):
    """A batch whose words are those of a splitter."""

    def __init__(self, texts: Sequence[str], splitter: Splitter) -> None:
        split = [splitter.words(text) for text in texts]
        numbers: dict[str, int] = {}
        self.texts = list(texts)
        self.word_bounds = bounds(np.fromiter(map(len, split), np.int64, len(split)))
        self.words = np.fromiter(
            (numbers.setdefault(word, len(numbers)) for word in chain.from_iterable(split)), np.int64,
            int(self.word_bounds[-1]),
        )
        self.vocabulary = list(numbers)


def _split(batch: Batch, splitter: Splitter) -> _Split:
    """The split of this batch, made once for all signals of one splitter."""
    made: tuple[Splitter, _Split] | None = batch.notes.get("datatrove")
    if made is None or made[0] is not splitter:
        made = batch.notes["datatrove"] = splitter, _Split(batch.texts, splitter)
    return made[1]


def _quality(batch: Batch, splitter: Splitter) -> dict[str, np.ndarray]:
    """GopherQualityFilter: words without those that are punctuation only, their mean length; hash_words,
    ellipsis_words over all words; lines by `str.splitlines`, blank ones count; bullets are `•` and `-`; stop_words:
    different ones, as they stand."""
    split = _split(batch, splitter)
    spoken = split.per_word(_spoken)
    stops = split.per_word(lambda words: [STOP_WORDS.index(word) + 1 if word in STOP_WORDS else 0 for word in words])
    found = np.zeros(len(batch), np.int64)
    np.bitwise_or.at(found, split.word_texts, 1 << stops >> 1)
    lines = [text.splitlines() for text in batch.texts]
    counts = np.array([
        (text.count("#"), text.count("...") + text.count("…"),
         sum(line.lstrip().startswith(("•", "-")) for line in some),
         sum(line.rstrip().endswith(("...", "…")) for line in some), len(some))
        for text, some in zip(batch.texts, lines, strict=True)
    ], np.int64).reshape(-1, 5)
    words = sums(spoken, split.word_bounds)
    return {
        "words": words,
        "mean_word_length": share(sums(spoken * split.word_sizes, split.word_bounds), words),
        "hash_words": share(counts[:, 0], split.word_counts),
        "ellipsis_words": share(counts[:, 1], split.word_counts),
        "bullet_lines": share(counts[:, 2], counts[:, 4]),
        "ellipsis_lines": share(counts[:, 3], counts[:, 4]),
        "alphabetic_words": share(sums(split.per_word(alphabetic), split.word_bounds), split.word_counts),
        "stop_words": np.bitwise_count(found),
    }


def _spoken(words: Sequence[str]) -> list[bool]:
    return [word.isalnum() or not DATATROVE_PUNCTUATION.issuperset(word) for word in words]


def _repetition(batch: Batch, splitter: Splitter) -> dict[str, np.ndarray]:
    """GopherRepetitionFilter: paragraphs are split at two newlines or more, lines at one or more; shares of characters
    are over the whole text; top n-grams with their spaces, the first of the most common ones even if it occurs once;
    duplicate n-grams are skipped over when found, and compared without the spaces between their words."""
    split, texts = _split(batch, splitter), batch.texts
    paragraphs = np.array([_again(re.split(r"\n{2,}", text.strip())) for text in texts]).reshape(-1, 2)
    lines = np.array([_again(re.split(r"\n+", text)) for text in texts]).reshape(-1, 2)
    values = {
        "duplicate_paragraphs": paragraphs[:, 0],
        "duplicate_paragraph_characters": share(paragraphs[:, 1], batch.characters),
        "duplicate_lines": lines[:, 0], "duplicate_line_characters": share(lines[:, 1], batch.characters),
    }
    ends = bounds(split.word_sizes)
    for n, positions, groups in repeated_ngrams(split.words, split.word_texts, len(split.vocabulary), TOP[-1]):
        times, where = most_common(positions, groups, split.word_texts, split, n)
        sizes = ends[np.minimum(where + n, len(split.words))] - ends[where] + n - 1
        values[f"top_{n}gram"] = share(times * sizes, batch.characters)
    values.update({f"duplicate_{n}gram": share(found, batch.characters) for n, found in _skipping(split, ends)})
    return values


def _again(parts: Sequence[str]) -> tuple[float, int]:
    """Share of the parts, and number of their characters, that were there before."""
    different = set(parts)
    return (len(parts) - len(different)) / len(parts), sum(map(len, parts)) - sum(map(len, different))


def _skipping(split: _Split, ends: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    """For each n, (texts,) characters in n-grams that occurred before, read from the left, going on behind each."""
    text = "".join(map(split.vocabulary.__getitem__, split.words.tolist()))
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64) + np.uint64(1)
    # polynomial hashes of all stretches of characters: candidates only, the strings themselves are compared
    hashes = np.concatenate((np.zeros(1, np.uint64), np.cumsum(points * _powers(_BASE, len(points))[:-1])))
    inverse = _powers(_BASE_INVERSE, len(points))
    for n in DUPLICATE:
        found = np.zeros(len(split), np.int64)
        begin = np.flatnonzero(split.word_texts[n - 1 :] == split.word_texts[: max(len(split.words) - n + 1, 0)])
        keys = (hashes[ends[begin + n]] - hashes[ends[begin]]) * inverse[ends[begin]]
        keys ^= split.word_texts[begin].astype(np.uint64) * np.uint64(_BASE_INVERSE)
        order = np.argsort(keys)
        same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        for row, starts in _by_text(begin[np.union1d(order[same], order[same + 1])], split.word_texts):
            seen, free = set(), 0
            for start in starts:
                if start < free:
                    continue
                gram = text[ends[start] : ends[start + n]]
                if gram in seen:
                    found[row] += len(gram)
                    free = start + n
                seen.add(gram)
        yield n, found


def _by_text(positions: np.ndarray, texts: np.ndarray) -> Iterable[tuple[int, list[int]]]:
    if len(positions):
        rows = texts[positions]
        cuts = np.flatnonzero(np.diff(rows)) + 1
        for part in np.split(positions, cuts):
            yield int(texts[part[0]]), part.tolist()


def _powers(base: int, count: int) -> np.ndarray:
    """(count + 1,) base**i modulo 2**64."""
    factors = np.full(count + 1, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


@dataclass(frozen=True)
class C4Text:
    """What C4QualityFilter makes of a text: the lines that stay, or why the document goes at once."""

    text: str
    lines: int
    sentences: int
    lorem_ipsum: bool
    curly_brackets: bool


def datatrove_c4_text(text: str, splitter: Splitter, *, terminal: bool = True) -> C4Text:
    """The text as C4QualityFilter leaves it: lines by `str.splitlines`, stripped, without citation marks, joined by
    newlines. terminal: do lines without terminal punctuation go? Reading stops at the first line that stays so far and
    holds `lorem ipsum` or `{`."""
    kept: list[str] = []
    sentences, lorem, curly = 0, False, False
    for line in map(str.strip, text.splitlines()):
        words = line.split()
        if len(line) > MAX_WORD and any(len(word) > MAX_WORD for word in words):
            continue
        line = _CITATION.sub("", line) if "[" in line else line
        if len(words) < 3 or (terminal and (not line.endswith(_C4_ENDS) or line.endswith("..."))):
            continue
        lower = line.lower()
        if "lorem ipsum" in lower:
            lorem = True
            break
        if "javascript" in lower:
            continue
        if "{" in line:
            curly = True
            break
        if any(phrase in lower for phrase in POLICY):
            continue
        sentences += splitter.sentences(line)
        kept.append(line)
    return C4Text("\n".join(kept).strip(), len(kept), sentences, lorem, curly)


def _c4(batch: Batch, splitter: Splitter) -> dict[str, np.ndarray]:
    """C4QualityFilter: kept_lines and sentences of the lines that stay, up to one that drops the document; lorem_ipsum,
    curly_brackets: 1 if such a line was met first. The same with `_any_end`: lines need no terminal punctuation."""
    found = {}
    for suffix, terminal in (("", True), ("_any_end", False)):
        results = [datatrove_c4_text(text, splitter, terminal=terminal) for text in batch.texts]
        found.update({
            f"kept_lines{suffix}": np.array([r.lines for r in results], np.int64),
            f"sentences{suffix}": np.array([r.sentences for r in results], np.int64),
            f"lorem_ipsum{suffix}": np.array([r.lorem_ipsum for r in results], np.int64),
            f"curly_brackets{suffix}": np.array([r.curly_brackets for r in results], np.int64),
        })
    return found


def _fineweb(batch: Batch, splitter: Splitter) -> dict[str, np.ndarray]:
    """FineWebQualityFilter: lines are split at newlines, not stripped, blank ones do not count: how many there are, the
    share that ends in a terminal mark (no quotes), that has at most 30 characters; duplicate_line_characters over the
    characters but newlines; newline_words."""
    rows = np.array([_fineweb_lines(text) for text in batch.texts]).reshape(-1, 4)
    newlines = np.fromiter((text.count("\n") for text in batch.texts), np.int64, len(batch))
    return {
        "lines": rows[:, 0], "punctuated_lines": rows[:, 1], "short_lines": rows[:, 2],
        "duplicate_line_characters": rows[:, 3],
        "newline_words": share(newlines, _split(batch, splitter).word_counts),
    }


def _fineweb_lines(text: str) -> tuple[float, float, float, float]:
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    if not lines:
        return 0.0, 0.0, 0.0, 0.0
    return (
        len(lines), sum(line[-1] in DATATROVE_TERMINAL for line in lines) / len(lines),
        sum(len(line) <= SHORT_LINE for line in lines) / len(lines),
        _again(lines)[1] / (len(text) - text.count("\n")),
    )
