"""Texts of evaluation sets inside training documents: found by word n-grams, verified word by word, dropped or cut.

Brown et al., "Language Models are Few-Shot Learners" (2020), appendix C: a document that shares 13 words in a row with
an evaluation text is contaminated; Chowdhery et al., "PaLM" (2022), section 8: an evaluation text is contaminated if a
large share of its 8-grams is found. Both rules are asked here. Words are those of `dedup/words.py`: case and
punctuation do not count. An evaluation text of fewer words than an n-gram is searched as a whole.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.data.dedup.shingles import grams, ngram_hashes
from gristmill.data.dedup.words import Words, fold, split_words

FILTER_SLOTS = 16
"""Slots of the filter that is asked first, for each n-gram of the index: about 1 in 17 other n-grams passes it."""
COMMON_SHARE = 0.02
"""Share of a task's texts that its instructions reach at least."""
_REACH = 40
"""Characters within which a cut looks for the end of a word."""


@config
class Decontaminate:
    """When a document counts as contaminated, and what happens to it."""

    action: Literal["drop", "cut", "report"] = "drop"
    """drop: the document goes. cut: the matching stretches go, and the document if too little is left. report: nothing
    goes."""
    ngram: int = 13
    """Words in a row that a document must share with an evaluation text."""
    least_matches: int = 1
    """Different n-grams of one evaluation text that must be found in a document."""
    short_ngram: int = 8
    """Words of the n-grams whose share is measured."""
    share: float | None = 0.7
    """A document is also contaminated if it holds at least this share of the short n-grams of an evaluation text;
    null: never."""
    least_words: int = 6
    """Evaluation texts of fewer words are not searched: "True or false?" is no leak. They are counted."""
    common: int | None = 10
    """N-grams that occur in more than this many texts of one task, and in more than 2 % of them, do not count: they are
    its instructions. (A passage with a dozen questions is no instruction.) null: all count."""
    margin: int = 200
    """Characters that are cut on either side of a match, as in GPT-3's training set, up to the next word boundary."""
    least_left: float = 0.5
    """A document of which less than this share would be left goes as a whole."""

    def __post_init__(self) -> None:
        require(2 <= self.short_ngram <= self.ngram <= 100, "ngram", "2 <= short_ngram <= ngram <= 100")
        require(self.least_matches >= 1, "least_matches", "must be at least 1")
        require(self.share is None or 0 < self.share <= 1, "share", "must be above 0 and at most 1, or null")
        require(self.least_words >= 1, "least_words", "must be at least 1")
        require(self.common is None or self.common >= 1, "common", "must be at least 1, or null")
        require(self.margin >= 0, "margin", "must not be negative")
        require(0 <= self.least_left <= 1, "least_left", "must be between 0 and 1")


@dataclass(frozen=True, slots=True)
class Contamination:
    """What a document shares with one text of an evaluation set.

    matches: different n-grams of the text (`ngram` words, or the whole text if it is shorter) found in the document.
    share: share of the text's short n-grams that were found. spans: (begin, end) in characters of the document, sorted
    and disjoint: where. words: the longest such stretch.
    """

    task: str
    item: str
    matches: int
    share: float
    spans: tuple[tuple[int, int], ...]
    words: str


@dataclass
class _Length:
    """All n-grams of one length: sorted hashes, and for each where its (text, word) places begin in `places`."""

    hashes: np.ndarray
    starts: np.ndarray
    places: np.ndarray
    filter: np.ndarray
    shift: np.uint64

    def find(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(indices of the values that are in the index, their places in `hashes`)."""
        hits = np.flatnonzero(self.filter[values >> self.shift])
        at = np.searchsorted(self.hashes, values[hits])
        at[at == len(self.hashes)] = 0
        same = self.hashes[at] == values[hits]
        return hits[same], at[same]


@dataclass
class EvaluationIndex:
    """The n-grams of evaluation texts. Memory: about 60 bytes a word of the texts."""

    options: Decontaminate
    tasks: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    words: list[list[str]] = field(default_factory=list)
    """The folded words of each text, to verify by."""
    short_counts: list[int] = field(default_factory=list)
    """Different short n-grams of each text that count."""
    too_short: Counter[str] = field(default_factory=Counter)
    """Texts of each task that have too few words to be searched."""
    ignored: Counter[str] = field(default_factory=Counter)
    """N-grams of each task that are too common in it to count."""
    lengths: dict[int, _Length] = field(default_factory=dict)

    @classmethod
    def build(cls, texts: Iterable[tuple[str, str, str]], options: Decontaminate | None = None) -> EvaluationIndex:
        """texts: (task, id, text) of everything that must not be trained on. Raises UserError if there is nothing."""
        index = cls(options or Decontaminate())
        found: dict[int, list[tuple[int, np.ndarray]]] = {}
        for task, item, text in texts:
            split = split_words([text], positions=True)
            count = len(split.hashes)
            if count < index.options.least_words:
                index.too_short[task] += 1
                continue
            number = len(index.items)
            index.tasks.append(task)
            index.items.append(item)
            index.words.append(list(_folded(text, split, 0, count)))
            for n in {min(index.options.ngram, count), min(index.options.short_ngram, count)}:
                found.setdefault(n, []).append((number, ngram_hashes(split.hashes, n)))
        if not index.items:
            raise UserError(
                "there is no evaluation text to search for", where="decontaminate",
                fix=f"give texts of at least {index.options.least_words} words, or leave `decontaminate` out",
            )
        index.short_counts = [0] * len(index.items)
        for n, listed in sorted(found.items()):
            index._add(n, listed)
        return index

    def _add(self, n: int, listed: list[tuple[int, np.ndarray]]) -> None:
        owner = np.repeat([number for number, _ in listed], [len(values) for _, values in listed])
        at = np.concatenate([np.arange(len(values)) for _, values in listed])
        values = np.concatenate([values for _, values in listed])
        kept = np.ones(len(values), bool)
        if self.options.common is not None:
            names = {name: number for number, name in enumerate(sorted(set(self.tasks)))}
            task = np.array([names[name] for name in self.tasks])[owner]
            _, gram = np.unique(values, return_inverse=True)
            seen = np.unique(np.stack((task, gram, owner)), axis=1)  # one column a text that has it
            group, texts = np.unique(seen[0] * len(values) + seen[1], return_counts=True)
            sizes = np.array([COMMON_SHARE * self.tasks.count(name) for name in names])
            common = group[texts > np.maximum(self.options.common, sizes[group // len(values)])]
            kept = ~np.isin(task * len(values) + gram, common)
            for name, number in names.items():
                lost = int((common // len(values) == number).sum())
                if lost:
                    self.ignored[name] += lost
        values, owner, at = values[kept], owner[kept], at[kept]
        order = np.lexsort((at, owner, values))
        values, owner, at = values[order], owner[order], at[order]
        if not len(values):
            return
        lead = np.concatenate(([True], values[1:] != values[:-1]))
        bits = max(12, (FILTER_SLOTS * int(lead.sum()) - 1).bit_length())
        shift = np.uint64(64 - bits)
        table = np.zeros(1 << bits, bool)
        table[values >> shift] = True
        starts = np.append(np.flatnonzero(lead), len(values))
        self.lengths[n] = _Length(values[lead], starts, np.stack((owner, at), axis=1), table, shift)
        pairs = np.unique(np.stack((owner, np.repeat(np.arange(lead.sum()), np.diff(starts)))), axis=1)
        for number, count in zip(*np.unique(pairs[0], return_counts=True), strict=True):
            if n == min(self.options.short_ngram, len(self.words[number])):
                self.short_counts[number] = int(count)

    def examine(self, texts: Sequence[str]) -> list[list[Contamination]]:
        """For each document what it shares with which evaluation texts, where the options call it contaminated."""
        split = split_words(texts, positions=True)
        hits: list[dict[int, dict[int, dict[int, list[int]]]]] = [{} for _ in texts]
        """By document, then evaluation text, then length: the n-gram's number and the words where it begins."""
        for n, length in self.lengths.items():
            values, offsets = grams(split, n)
            indices, rows = length.find(values)
            documents = np.searchsorted(offsets, indices, side="right") - 1
            enough = split.counts[documents] >= n
            for index, row, document in zip(
                indices[enough].tolist(), rows[enough].tolist(), documents[enough].tolist(), strict=True
            ):
                begin = index - int(offsets[document])
                seen = tuple(_folded(texts[document], split, int(split.offsets[document]) + begin, n))
                for item, at in length.places[length.starts[row] : length.starts[row + 1]].tolist():
                    if tuple(self.words[item][at : at + n]) == seen:
                        hits[document].setdefault(item, {}).setdefault(n, {}).setdefault(row, []).append(begin)
        return [list(self._contaminations(number, text, split, hits[number])) for number, text in enumerate(texts)]

    def _contaminations(
        self, number: int, text: str, split: Words, hits: dict[int, dict[int, dict[int, list[int]]]]
    ) -> Iterator[Contamination]:
        assert split.begins is not None
        assert split.ends is not None
        first = int(split.offsets[number])
        for item in sorted(hits, key=lambda item: (self.tasks[item], self.items[item], item)):
            size = len(self.words[item])
            long, short = (min(n, size) for n in (self.options.ngram, self.options.short_ngram))
            found = hits[item]
            # A text may hold an n-gram twice; what is counted is different n-grams.
            matches = len(found.get(long, {}))
            share = len(found.get(short, {})) / max(1, self.short_counts[item])
            least = min(self.options.least_matches, size - long + 1)
            if matches < least and (self.options.share is None or share < self.options.share):
                continue
            stretches = _union([(b, b + n) for n, places in found.items() for at in places.values() for b in at])
            spans = tuple((int(split.begins[first + a]), int(split.ends[first + b - 1])) for a, b in stretches)
            begin, end = max(spans, key=lambda span: span[1] - span[0])
            yield Contamination(self.tasks[item], self.items[item], matches, share, spans, text[begin:end])


def decontaminated(text: str, found: Sequence[Contamination], options: Decontaminate) -> str | None:
    """What stays of a document in which `found` was found: None if it goes."""
    if not found or options.action == "report":
        return text
    if options.action == "drop":
        return None
    spans = _union([
        (max(begin - options.margin, 0), min(end + options.margin, len(text))) for c in found for begin, end in c.spans
    ])
    pieces, last = [], 0
    for begin, end in spans:
        begin, end = _outwards(text, begin, end)
        pieces.append(text[last:begin].strip())
        last = end
    left = "\n\n".join(piece for piece in (*pieces, text[last:].strip()) if piece)
    return left if left and len(left) >= options.least_left * len(text) else None


def _outwards(text: str, begin: int, end: int) -> tuple[int, int]:
    """The stretch, grown to the end of the words it would cut; text without spaces is cut where it is."""
    before, after = text[max(0, begin - _REACH) : begin], text[end : end + _REACH]
    left, right = (len(re.match(r"\S*", side)[0]) for side in (before[::-1], after))  # type: ignore[index]
    return begin - (left if left < _REACH else 0), end + (right if right < _REACH else 0)


def _union(stretches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(stretches):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


class _Fold(dict[int, str]):
    def __missing__(self, point: int) -> str:
        self[point] = fold(chr(point))
        return self[point]


@functools.cache
def _folding() -> _Fold:
    return _Fold()


def _folded(text: str, split: Words, first: int, count: int) -> Iterator[str]:
    """Some of the words of a text, without their case."""
    assert split.begins is not None
    assert split.ends is not None
    for begin, end in zip(split.begins[first : first + count], split.ends[first : first + count], strict=True):
        yield text[begin:end].translate(_folding())


class ContaminationReport:
    """What was found, by task and by document; parts of workers are added in any order and give the same report."""

    def __init__(self, index: EvaluationIndex) -> None:
        self.texts = Counter(index.tasks)
        self.too_short, self.ignored = index.too_short, index.ignored
        self.found: dict[str, list[Contamination]] = {}

    def add(self, document: str, found: Sequence[Contamination]) -> None:
        """document: its id."""
        if found:
            self.found[document] = list(found)

    def as_dict(self, *, examples: int = 3) -> dict[str, Any]:
        """JSON-ready: `tasks` by name with counts and examples, `documents` by id with every match."""
        tasks: dict[str, Any] = {}
        for name in sorted(self.texts | self.too_short):
            own = [(doc, c) for doc in sorted(self.found) for c in self.found[doc] if c.task == name]
            items = {c.item for _, c in own}
            tasks[name] = {
                "texts": self.texts[name], "too_short": self.too_short[name],
                "common_ngrams_ignored": self.ignored[name], "texts_found": len(items),
                "share_found": len(items) / self.texts[name] if self.texts[name] else 0.0,
                "documents": len({doc for doc, _ in own}),
                "examples": [{"document": doc, "item": c.item, "words": c.words[:500]} for doc, c in own[:examples]],
            }
        documents = {
            doc: [
                {"task": c.task, "item": c.item, "matches": c.matches, "share": round(c.share, 4),
                 "spans": [list(span) for span in c.spans], "words": c.words[:500]}
                for c in self.found[doc]
            ]
            for doc in sorted(self.found)
        }
        return {"tasks": tasks, "documents": documents}
