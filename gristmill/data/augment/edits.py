"""Method `edits`: words inserted, deleted or swapped at random.

Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks",
section 2. Different from the paper: an inserted word is one of the same text (theirs is a synonym of one: that is the
method `synonyms`), two words change places within one line only, and the number of changes has the asked-for rate
as its mean instead of being rounded.
"""

from __future__ import annotations

import math
import random
from dataclasses import field
from typing import ClassVar, Literal

from gristmill.core.config import config, require
from gristmill.data.augment.method import Made, Original, check_method, seed_of
from gristmill.data.augment.words import Line, joined, lines_of

OPERATIONS = ("insertion", "deletion", "swap")


@config
class Edits:
    """Random insertion, deletion and swap of words (EDA). Punctuation and markup stay where they are."""

    kind: Literal["edits"] = "edits"
    """edits."""
    name: str = ""
    """What the made documents are called after; default `edits`."""
    share: float = 1.0
    """Share of the documents that it takes, above 0 to 1; chosen by the hash of their ids."""
    copies: int = 1
    """Texts made of each document."""
    languages: list[str] = field(default_factory=list)
    """Only documents in these languages (en, de, ...); empty takes all but code and languages without spaces."""
    insertion: float = 0.1
    """Words inserted for each word of the text, 0 to 0.5."""
    deletion: float = 0.1
    """Probability of a word to be deleted, 0 to 0.5; one word always stays."""
    swap: float = 0.1
    """Swaps of two words of a line for each word of the text, 0 to 0.5."""
    combine: Literal["one", "all"] = "one"
    """one: each made text has one of the three operations, as in the paper; all: it has all of them."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_method(self)
        for name in OPERATIONS:
            require(0 <= getattr(self, name) <= 0.5, name, "must be from 0 to 0.5")
        require(bool(self.operations()), "insertion", "insertion, deletion and swap are all 0: nothing would change")

    def operations(self) -> list[str]:
        """Those that are on."""
        return [name for name in OPERATIONS if getattr(self, name) > 0]


def edited(original: Original, method: Edits, name: str, copy: int, seed: int) -> Made:
    """One changed copy; the same for the same seed, name, id and copy."""
    chance = random.Random(seed_of(seed, name, original.id, copy))
    operations = method.operations()
    chosen = operations if method.combine == "all" else [chance.choice(operations)]
    lines = lines_of(original.text)
    for operation in chosen:
        lines = _DO[operation](lines, getattr(method, operation), chance)
    return Made(original.id, copy, joined(lines), about={"operations": chosen})


def insert_words(lines: list[Line], rate: float, chance: random.Random) -> list[Line]:
    """Words of the text put after others: on average `rate` of them for each word."""
    places = [(i, j) for i, line in enumerate(lines) for j in range(len(line.words))]
    extra: dict[tuple[int, int], list[str]] = {}
    for _ in range(_times(rate * len(places), chance)):
        i, j = chance.choice(places)
        extra.setdefault(chance.choice(places), []).append(_small(lines[i].words[j]))
    found = []
    for i, line in enumerate(lines):
        words: list[str] = []
        between = [line.between[0]]
        for j, word in enumerate(line.words):
            more = extra.get((i, j), [])
            words += [word, *more]
            between += [" "] * len(more) + [line.between[j + 1]]
        found.append(Line(tuple(words), tuple(between)))
    return found


def delete_words(lines: list[Line], rate: float, chance: random.Random) -> list[Line]:
    """Each word gone with the probability `rate`, and the spaces before it; if all would go, one stays."""
    total = sum(len(line.words) for line in lines)
    gone = [chance.random() < rate for _ in range(total)]
    if all(gone) and total:
        gone[chance.randrange(total)] = False
    found, place = [], 0
    for line in lines:
        words: list[str] = []
        between = [line.between[0]]
        for j, word in enumerate(line.words):
            if gone[place]:
                after = line.between[j + 1]
                before = between[-1]
                if words and before.endswith(" "):
                    before = before[:-1]
                else:
                    after = after.removeprefix(" ")
                between[-1] = before + after
            else:
                words.append(word)
                between.append(line.between[j + 1])
            place += 1
        found.append(Line(tuple(words), tuple(between)))
    return found


def swap_words(lines: list[Line], rate: float, chance: random.Random) -> list[Line]:
    """Two words of a line change places, on average `rate` times for each word of the text."""
    words = [list(line.words) for line in lines]
    places = [i for i, row in enumerate(words) if len(row) > 1 for _ in row]
    for _ in range(_times(rate * sum(map(len, words)), chance) if places else 0):
        row = words[chance.choice(places)]
        a, b = chance.sample(range(len(row)), 2)
        row[a], row[b] = row[b], row[a]
    return [Line(tuple(row), line.between) for row, line in zip(words, lines, strict=True)]


_DO = {"insertion": insert_words, "deletion": delete_words, "swap": swap_words}


def _times(mean: float, chance: random.Random) -> int:
    """A whole number with this mean: the one below it or the one above."""
    return math.floor(mean + chance.random())


def _small(word: str) -> str:
    """As in the middle of a sentence: a single capital at the beginning goes."""
    return word[0].lower() + word[1:] if word[1:].islower() else word
