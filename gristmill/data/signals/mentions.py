"""Signal `mentions_v1`: how often a text speaks of her, him and them, and mentions groups of people; and the shares
of a corpus.

As Llama 2 (Touvron et al. 2023, section 4.1) and PaLM (Chowdhery et al. 2022, section 10.1) report them, with word
tables of our own. Counts say what is written about, not how.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gristmill.core.errors import UserError
from gristmill.data.signals.batch import Batch, batches
from gristmill.data.signals.mention_words import AXES, CONTRACTIONS, PEOPLE, PRONOUNS
from gristmill.data.signals.signal import Signal

LANGUAGES = tuple(AXES)
_MOST_SEEN = 1 << 17
"""Different words that are remembered: about 20 MB."""
_PARTS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*['’]?")


@dataclass(frozen=True)
class _Table:
    """What is looked for. terms: the name of each count, `axis/term`, then `pronoun/she`, ... words: {word: term} of
    single words. before_people: {word: term} of those that need a word for people behind them. phrases: {first word:
    [(the other words, term)]}, longest first. groups: for each count the column of `mentions_v1` it belongs to."""

    terms: list[str]
    groups: list[str]
    words: dict[str, int]
    before_people: dict[str, int]
    phrases: dict[str, list[tuple[tuple[str, ...], int]]]
    people: frozenset[str]
    contractions: tuple[str, ...]
    starts: frozenset[str]
    seen: dict[str, tuple[tuple[str, ...], bool]]

    columns: list[str]
    column_of: np.ndarray
    """(terms,) the place of each term's group in `columns`."""


def mentions(language: str = "en") -> Signal:
    """The signal `mentions_v1` by the words of a language. UserError if there is no table for it."""
    _table(language)

    def columns(batch: Batch) -> dict[str, np.ndarray]:
        table = _table(language)
        texts, terms = _found(batch, table)
        groups = table.column_of[terms]
        counts = np.zeros((len(table.columns), len(batch)), np.int64)
        np.add.at(counts, (groups, texts), 1)
        return dict(zip(table.columns, counts, strict=True))

    return Signal("mentions_v1", columns, """she, he, they: pronouns. gender, orientation, religion, race_ethnicity,
        nationality, age, ability: words and phrases of the tables of `mention_words`. Upper and lower case are one; the
        longest phrase counts, once.""")


class Tally:
    """Which share of a corpus mentions what: fill with `add`, read with `summary`. Tallies of parts can be added."""

    def __init__(self, language: str = "en") -> None:
        self.language = language
        self.documents = 0
        table = _table(language)
        self.holding = np.zeros(len(table.terms), np.int64)
        """(terms,) documents that hold each term."""
        self.axes = np.zeros(len(table.columns), np.int64)
        """(columns,) documents with any term of each axis, or pronoun."""
        self.she_and_he = self.more_she = self.more_he = 0

    def add(self, texts: Sequence[str]) -> None:
        """Count these documents."""
        table = _table(self.language)
        groups = table.column_of
        she, he = table.columns.index("she"), table.columns.index("he")
        for batch in batches(texts):
            rows, terms = _found(batch, table)
            pairs = np.unique(rows * len(table.terms) + terms)
            self.holding += np.bincount(pairs % len(table.terms), minlength=len(table.terms))
            counts = np.zeros((len(table.columns), len(batch)), np.int64)
            np.add.at(counts, (groups[terms], rows), 1)
            self.axes += (counts > 0).sum(axis=1)
            self.she_and_he += int(((counts[she] > 0) & (counts[he] > 0)).sum())
            self.more_she += int((counts[she] > counts[he]).sum())
            self.more_he += int((counts[he] > counts[she]).sum())
            self.documents += len(batch)

    def merge(self, other: Tally) -> None:
        """Add what another tally of the same language has counted."""
        self.documents += other.documents
        self.holding += other.holding
        self.axes += other.axes
        self.she_and_he += other.she_and_he
        self.more_she += other.more_she
        self.more_he += other.more_he

    def summary(self, most: int = 10) -> dict[str, object]:
        """documents; pronouns: {she, he, they: share of documents}; she_and_he, more_she, more_he: shares of documents;
        she_per_he: documents with `she` over documents with `he` (None without the latter); axes: {axis: {share: of
        documents that mention it, terms: {term: share of those documents}, the `most` frequent ones}}."""
        table, total = _table(self.language), max(self.documents, 1)
        shares = dict(zip(table.columns, (self.axes / total).tolist(), strict=True))
        axes: dict[str, object] = {}
        for axis in AXES[self.language]:
            holding = int(self.axes[table.columns.index(axis)])
            found = sorted(((int(self.holding[place]), term.partition("/")[2]) for place, term in enumerate(table.terms)
                            if table.groups[place] == axis), key=lambda item: (-item[0], item[1]))
            axes[axis] = {"share": shares[axis],
                          "terms": {term: count / holding for count, term in found[:most] if count}}
        return {
            "documents": self.documents, "pronouns": {name: shares[name] for name in PRONOUNS[self.language]},
            "she_and_he": self.she_and_he / total, "more_she": self.more_she / total, "more_he": self.more_he / total,
            "she_per_he": shares["she"] / shares["he"] if shares["he"] else None, "axes": axes,
        }


def mention_summary(texts: Iterable[str], language: str = "en", most: int = 10) -> dict[str, object]:
    """`Tally.summary` of these documents."""
    tally = Tally(language)
    held: list[str] = []
    for text in texts:
        held.append(text)
        if len(held) >= 512:
            tally.add(held)
            held = []
    tally.add(held)
    return tally.summary(most)


def _found(batch: Batch, table: _Table) -> tuple[np.ndarray, np.ndarray]:
    """(mentions,) text and (mentions,) term of everything that is mentioned in a batch.

    What a word may mean is found once for each different word; the few words that may mean something are then looked
    at in their places.
    """
    known = [_looked_up(word, table) for word in batch.vocabulary]
    parts = [found for found, _ in known]
    starting = np.fromiter((starts for _, starts in known), bool, len(known))
    places = np.flatnonzero(starting[batch.words]) if len(batch.words) else np.empty(0, np.int64)
    ends = batch.word_bounds[1:]
    texts, terms = [], []
    owners = np.searchsorted(ends, places, side="right")
    numbers = batch.words
    taken_place, taken_part = -1, -1
    for place, owner in zip(places.tolist(), owners.tolist(), strict=True):
        found = parts[numbers[place]]
        last = int(ends[owner])
        for position in range(len(found)):
            if place < taken_place or (place == taken_place and position <= taken_part):
                continue
            phrase = _phrase(batch, parts, numbers, place, position, last, table)
            if phrase is not None:
                term, taken_place, taken_part = phrase
            elif found[position] in table.words:
                term = table.words[found[position]]
            elif found[position] in table.before_people and _people_behind(batch, parts, place, position, last, table):
                term = table.before_people[found[position]]
            else:
                continue
            texts.append(owner)
            terms.append(term)
    return np.array(texts, np.int64), np.array(terms, np.int64)


def _looked_up(word: str, table: _Table) -> tuple[tuple[str, ...], bool]:
    """The words within, and whether one of them may begin a mention; remembered, since most words come again."""
    found = table.seen.get(word)
    if found is None:
        if len(table.seen) >= _MOST_SEEN:
            table.seen.clear()
        parts = (word.lower(),) if word.isalpha() else _parts(word, table.contractions)
        found = table.seen[word] = parts, not table.starts.isdisjoint(parts)
    return found


def _following(batch: Batch, parts: list[tuple[str, ...]], place: int, position: int, last: int, count: int,
               ) -> list[tuple[str, int, int]]:
    """Up to `count` words behind part `position` of word `place`, not beyond punctuation, with their places."""
    found: list[tuple[str, int, int]] = []
    while len(found) < count:
        if position + 1 < len(parts[batch.words[place]]):
            position += 1
        else:
            if batch.vocabulary[batch.words[place]][-1] in ".,;:!?)]}\"”" or place + 1 >= last:
                break
            place, position = place + 1, 0
            word = batch.vocabulary[batch.words[place]]
            if not parts[batch.words[place]] or not word[0].isalnum():
                break
        found.append((parts[batch.words[place]][position], place, position))
    return found


def _phrase(batch: Batch, parts: list[tuple[str, ...]], numbers: np.ndarray, place: int, position: int, last: int,
            table: _Table) -> tuple[int, int, int] | None:
    """The longest phrase that begins here: its term, and the place of its last word."""
    options = table.phrases.get(parts[numbers[place]][position])
    if not options:
        return None
    behind = _following(batch, parts, place, position, last, len(options[0][0]))
    words = tuple(word for word, _, _ in behind)
    for rest, term in options:
        if words[: len(rest)] == rest:
            return term, behind[len(rest) - 1][1], behind[len(rest) - 1][2]
    return None


def _people_behind(batch: Batch, parts: list[tuple[str, ...]], place: int, position: int, last: int,
                   table: _Table) -> bool:
    behind = _following(batch, parts, place, position, last, 1)
    return bool(behind) and behind[0][0] in table.people


def _parts(word: str, contractions: tuple[str, ...]) -> tuple[str, ...]:
    """The words within what stands between white space, in lower case: `he/she's` has two, `African-American` too."""
    found = []
    for part in _PARTS.findall(word.lower().replace("’", "'")):
        for one in part.split("-"):
            for ending in contractions:
                if one.endswith(ending) and len(one) > len(ending):
                    one = one[: -len(ending)]
                    break
            if one:
                found.append(one)
    return tuple(found)


@functools.cache
def _table(language: str) -> _Table:
    if language not in AXES:
        raise UserError(f"there is no table of mentions for the language {language!r}", where="mentions",
                        fix=f"choose from {', '.join(AXES)}")
    contractions = CONTRACTIONS[language]
    terms: list[str] = []
    groups: list[str] = []
    words: dict[str, int] = {}
    before_people: dict[str, int] = {}
    phrases: dict[str, list[tuple[tuple[str, ...], int]]] = {}
    for name, forms in PRONOUNS[language].items():
        for form in forms.split():
            words[form] = len(terms)
        terms.append(f"pronoun/{name}")
        groups.append(name)
    for axis, listed in AXES[language].items():
        for entry in filter(None, map(str.strip, listed.replace("\n", " ").split(";"))):
            split = tuple(part for word in entry.rstrip("~").split() for part in _parts(word, contractions))
            if len(split) > 1:
                phrases.setdefault(split[0], []).append((split[1:], len(terms)))
            elif entry.endswith("~"):
                before_people[split[0]] = len(terms)
            else:
                words[split[0]] = len(terms)
            terms.append(f"{axis}/{entry.rstrip('~')}")
            groups.append(axis)
    for options in phrases.values():
        options.sort(key=lambda option: -len(option[0]))
    columns = list(dict.fromkeys(groups))
    return _Table(terms, groups, words, before_people, phrases, frozenset(PEOPLE[language].split()), contractions,
                  frozenset({*words, *before_people, *phrases}), {}, columns,
                  np.array([columns.index(group) for group in groups]))


mentions_v1 = mentions()
"""The signal for English."""
