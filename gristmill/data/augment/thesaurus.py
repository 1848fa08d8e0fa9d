"""What stands for a word: one file that workers open, made once from a WordNet or from vectors, and the counts of the
corpus's own words beside it.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from gristmill.core.files import write_atomic
from gristmill.data.augment import wordnet as wordnets
from gristmill.data.augment.inflection import Exceptions, bases, inflected
from gristmill.data.augment.vectors import neighbours
from gristmill.data.augment.words import changeable

MOST_WORDS = 1_000_000
"""Different words that are counted; beyond that the rarest so far are forgotten. About 100 bytes each."""
_SURE = 0.75
"""A word counts as one part of speech if at least this share of its uses is."""
_FORM = re.compile(r"(ing|ed|ly|er|est|s)\Z")


@dataclass(frozen=True)
class WordCounts:
    """How often the words of the training documents occur, lower-case."""

    total: int
    counts: Mapping[str, int]

    def share(self, word: str) -> float:
        """The word's share of all words."""
        return self.counts.get(word, 0) / max(self.total, 1)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """The words of texts that may be changed, lower-case."""
    counts = Counter[str]()
    for text in texts:
        counts.update(word.lower() for word in changeable(text))
    return counts


def add_counts(counts: Counter[str], more: Mapping[str, int]) -> None:
    """Add counts in place and forget the rarest where there are too many."""
    counts.update(more)
    least = 1
    while len(counts) > MOST_WORDS:
        least += 1
        for word in [word for word, count in counts.items() if count < least]:
            del counts[word]


class Thesaurus:
    """The words that may stand for a word. Open one with `open_thesaurus`."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.language: str = value["language"]
        self.words: dict[str, Any] = value["words"]
        self.forms = Exceptions(value.get("exceptions", {}))
        self.lemmas: bool = value["lemmas"]

    def replacements(self, word: str) -> list[str]:
        """For a lower-case word, others of the same part of speech and in the same form, the best first."""
        if not self.lemmas:
            return list(self.words.get(word, ()))
        if self.language != "en":
            return list(self.words[word][1]) if word in self.words else []
        found: dict[str, None] = {}
        readings = {(base, form) for base, part, form in bases(word, self.words, self.forms)
                    if base in self.words and self.words[base][0] == part}
        if len(readings) != 1:  # unknown, or it may be read in several ways
            return []
        base, form = readings.pop()
        part, others = self.words[base]
        for other in others:
            written = inflected(other, part, form, self.forms)
            if written is not None and written != word:
                found[written] = None
        return list(found)


def from_wordnet(wordnet: wordnets.WordNet, senses: int) -> dict[str, Any]:
    """The file's value for a WordNet: words of one part of speech (or mostly so), and the others of their commonest
    senses."""
    parts: dict[str, list[str]] = {}
    for word, part in wordnet.synonyms:
        parts.setdefault(word, []).append(part)
    words = {}
    for word, known in parts.items():
        counts = {part: wordnet.counts[word, part] for part in known}
        part = max(known, key=lambda p: counts[p])
        if len(known) > 1 and counts[part] < _SURE * max(sum(counts.values()), 1):
            continue
        others = list(dict.fromkeys(other for sense in wordnet.synonyms[word, part][:senses] for other in sense))
        if others:
            words[word] = [part, others]
    return {"language": wordnet.language, "lemmas": True, "words": words, "exceptions": wordnet.exceptions}


def from_vectors(words: Sequence[str], vectors: np.ndarray, most: int, least: float, language: str,
                 wordnet: wordnets.WordNet | None) -> dict[str, Any]:
    """The file's value for vectors: neighbours with the same ending (-s, -ed, -ing, ...), and of a shared part of
    speech where a WordNet knows both words."""
    parts: dict[str, set[str]] = {}
    for word, part in wordnet.synonyms if wordnet else ():
        parts.setdefault(word, set()).add(part)

    def alike(word: str, other: str) -> bool:
        if _ending(word) != _ending(other):
            return False
        mine, theirs = parts.get(word), parts.get(other)
        return not (mine and theirs and mine.isdisjoint(theirs))

    found = {}
    for word, near in neighbours(words, vectors, 3 * most, least).items():
        if kept := [other for other in near if alike(word, other)][:most]:
            found[word] = kept
    return {"language": language, "lemmas": False, "words": found}


def _ending(word: str) -> str:
    found = _FORM.search(word)
    return found[1] if found and len(word) > len(found[1]) + 2 else ""


def save(folder: Path, name: str, value: Any) -> str:
    """Write a thesaurus or counts for the workers, and give the path: it names the content, so that what a process has
    opened is never of another run."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    path = folder / f"{name}-{xxhash.xxh3_128_hexdigest(text.encode('utf-8', 'surrogatepass'))}.json"
    write_atomic(path, text)
    return str(path)


@functools.lru_cache(maxsize=4)
def open_thesaurus(path: str) -> Thesaurus:
    """The thesaurus of a file, opened once a process."""
    return Thesaurus(json.loads(Path(path).read_text(encoding="utf-8")))


@functools.lru_cache(maxsize=2)
def open_counts(path: str) -> WordCounts:
    """The word counts of a file, opened once a process."""
    value = json.loads(Path(path).read_text(encoding="utf-8"))
    return WordCounts(value["total"], value["counts"])
