"""Exact substrings of at least k words that occur again, across documents and within one.

Lee et al., "Deduplicating Training Data Makes Language Models Better" (2022), find them by a suffix array. The spans
are the union of all windows of k words that occur more than once, so it is enough to group equal windows: 8 bytes a
word in files, any number of files, no suffix array (5 bytes and more for each byte of text, 2 GB at most with 32-bit
indices). Windows are compared by 64-bit numbers: among 10 million documents of 500 words, fewer than one pair of
different windows is expected to share one.

The first occurrence stays (in the best document, then at the first place); the later ones go. Every word that goes is
thus still read in the same surroundings at an earlier place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gristmill.data.dedup.grouping import MEMORY, equal_groups
from gristmill.data.dedup.shingles import grams
from gristmill.data.dedup.words import split_words

LEAST = 50
"""Words of the shortest repeated substring that goes (Lee et al. 2022 use 50 tokens)."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of k words of a file's documents: keys (windows,) uint64, offsets (documents + 1,) int64.

    The j-th window of document i, at offsets[i] + j, starts at its j-th word.
    """

    keys: np.ndarray
    offsets: np.ndarray


def window_keys(texts: Sequence[str], k: int = LEAST) -> Windows:
    """The windows of some texts; a text of fewer than k words has none."""
    words = split_words(texts)
    keys, offsets = grams(words, k)
    whole = np.repeat(words.counts >= k, np.diff(offsets))
    return Windows(keys[whole], np.concatenate(([0], np.cumsum(np.maximum(words.counts - k + 1, 0)))))


def repeated_spans(
    parts: Sequence[Windows], order: np.ndarray, k: int = LEAST, *, within: bool = True, memory: int = MEMORY
) -> np.ndarray:
    """(spans, 3) int64 rows (document, first word, word after the last), sorted and disjoint: what goes.

    parts: the windows of each file's documents, in the order of their numbers. order: numbers of the documents that
    take part, the best first. within: do repetitions inside one document count as well? memory: bytes for grouping.
    """
    shift, edges = 0, [np.zeros(1, np.int64)]
    for part in parts:
        edges.append(part.offsets[1:] + shift)
        shift += len(part.keys)
    offsets = np.concatenate(edges)
    place = np.full(len(offsets) - 1, -1, np.int64)
    place[order] = np.arange(len(order))
    again = [np.empty(0, np.int64)]
    for items, starts in equal_groups([part.keys for part in parts], memory=memory):
        document = np.searchsorted(offsets, items, side="right") - 1
        group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(items))))
        chosen = place[document] >= 0
        items, document, group = items[chosen], document[chosen], group[chosen]
        sort = np.lexsort((items, place[document], group))
        items, document, group = items[sort], document[sort], group[sort]
        lead = np.ones(len(items), bool)
        lead[1:] = group[1:] != group[:-1]
        first = document[lead][np.cumsum(lead) - 1]
        again.append(items[~lead & (within | (document != first))])
    windows = np.sort(np.concatenate(again))
    document = np.searchsorted(offsets, windows, side="right") - 1
    begin = windows - offsets[document]
    lead = np.ones(len(windows), bool)
    lead[1:] = (document[1:] != document[:-1]) | (begin[1:] > begin[:-1] + k)
    last = np.append(np.flatnonzero(lead)[1:], len(windows)) - 1 if len(windows) else np.empty(0, np.int64)
    return np.stack((document[lead], begin[lead], begin[last] + k), axis=1)


def cut_words(text: str, spans: np.ndarray) -> tuple[str, list[str]]:
    """The text without some stretches of words, and what went.

    spans: (spans, 2) first word and word after the last, sorted, disjoint. Punctuation goes with the word that it
    touches; where a stretch held a line break, one stays, so that two paragraphs do not run into one.
    """
    if not len(spans):
        return text, []
    words = split_words([text], positions=True)
    assert words.begins is not None
    assert words.ends is not None
    kept, gone, last = [], [], 0
    for first, after in spans.tolist():
        begin, end = (_edge(text, words.begins, words.ends, at) for at in (first, after))
        kept.append(text[last:begin])
        gone.append(text[begin:end].strip())
        if "\n" in text[begin:end] and first and after < len(words.hashes):
            kept.append("\n\n" if "\n\n" in text[begin:end] else "\n")
        last = end
    return "".join((*kept, text[last:])).strip(), gone


def _edge(text: str, begins: np.ndarray, ends: np.ndarray, at: int) -> int:
    """Where the word number `at` begins, with the punctuation that touches it."""
    before = int(ends[at - 1]) if at else 0
    gap = text[before : int(begins[at]) if at < len(begins) else len(text)]
    space = re.search(r".*\s", gap, re.DOTALL)
    return before + (space.end() if space else 0 if at < len(begins) else len(gap))
