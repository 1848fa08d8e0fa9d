"""Which words tell labels apart: by log-odds in labelled texts, and by a classifier's weights.

Log-odds with an informative Dirichlet prior: Monroe, Colaresi and Quinn (2008), "Fightin' Words", eq. 16-22. What is
counted is texts that hold a word, not occurrences: one text that says a word fifty times proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gristmill.data.classifier.features import features
from gristmill.data.classifier.model import Classifier
from gristmill.data.dedup.words import split_words

PRIOR = 500.0
"""What all words together are expected to have been seen beforehand, spread as in all texts."""
SIGNIFICANT = 1.96
"""Least z-score of an entry of a list: it is on the wrong side of even with a chance of 2.5 %."""
_BATCH = 256


@dataclass
class WordCounts:
    """In how many texts with and without each label a word, or two words in a row, occur."""

    labels: Sequence[str]
    longest: int = 2
    """Words of the longest entries that are counted."""
    by_label: dict[str, Counter[str]] = field(default_factory=dict)
    every: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    """label -> texts; "" -> all."""

    def add(self, texts: Sequence[str], labels: Sequence[Sequence[str]]) -> None:
        """Count some texts; each has the labels that are given for it."""
        for start in range(0, len(texts), _BATCH):
            chosen = texts[start : start + _BATCH]
            for entries, has in zip(entries_of(chosen, self.longest), labels[start : start + _BATCH], strict=True):
                self.every.update(entries)
                self.texts[""] += 1
                for label in has:
                    self.by_label.setdefault(label, Counter()).update(entries)
                    self.texts[label] += 1


def entries_of(texts: Sequence[str], longest: int = 2) -> Iterable[set[str]]:
    """The different words of each text, and its different rows of up to `longest` words, in lower case."""
    words = split_words(texts, positions=True)
    assert words.begins is not None
    assert words.ends is not None
    for number, text in enumerate(texts):
        row = slice(int(words.offsets[number]), int(words.offsets[number + 1]))
        spans = zip(words.begins[row].tolist(), words.ends[row].tolist(), strict=True)
        plain = [text[begin:end].lower() for begin, end in spans]
        found = set(plain)
        for size in range(2, longest + 1):
            found.update(" ".join(plain[at : at + size]) for at in range(len(plain) - size + 1))
        yield found


def log_odds(counts: WordCounts, label: str, *, least: int = 5) -> list[tuple[str, float, int, int]]:
    """(entry, z-score, texts with the label, other texts), the most telling for the label first; entries in fewer than
    `least` texts are left out."""
    own = counts.by_label.get(label, Counter())
    entries = sorted(entry for entry, times in counts.every.items() if times >= least)
    with_label = np.array([own[entry] for entry in entries], float)
    every = np.array([counts.every[entry] for entry in entries], float)
    without = every - with_label
    prior = PRIOR * every / max(every.sum(), 1)
    a, b = with_label + prior, without + prior
    difference = np.log(a / (with_label.sum() + PRIOR - a)) - np.log(b / (without.sum() + PRIOR - b))
    z = difference / np.sqrt(1 / a + 1 / b)
    order = np.lexsort((np.array(entries, str), -z))
    return [(entries[i], float(z[i]), int(with_label[i]), int(without[i])) for i in order.tolist()]


def learned_list(counts: WordCounts, label: str, *, size: int = 200, precision: float = 0.5,
                 least: int = 5) -> list[tuple[str, float, int, int]]:
    """Entries for a list of words by which texts with the label are found: those with the highest log-odds, z-score of
    at least `SIGNIFICANT`, and at least `precision` of whose texts have the label."""
    chosen = [one for one in log_odds(counts, label, least=least)
              if one[1] >= SIGNIFICANT and one[2] >= precision * (one[2] + one[3])]
    return chosen[:size]


def telling(model: Classifier, counts: WordCounts, *, size: int = 30,
            least: int = 5) -> dict[str, list[dict[str, Any]]]:
    """For each label the entries that speak most for it against the others: by weight times the square root of the
    share of its texts that hold the entry, so neither stop words nor rarities lead. Character n-grams are left out."""
    longest = min(model.features.words, counts.longest)
    entries = sorted(entry for entry, times in counts.every.items() if times >= least and entry.count(" ") < longest)
    if not entries:
        return {label: [] for label in model.labels}
    ids, edges = features(entries, model.features)
    # The last word feature of an entry is the entry itself; character features, if any, follow it.
    sizes = np.array([entry.count(" ") + 1 for entry in entries])
    own = ids[edges[:-1] + sizes * (sizes + 1) // 2 - 1]
    weights = model.weights[:, own] * model.steps[:, None]
    others = (weights.sum(axis=0) - weights) / max(len(model.labels) - 1, 1)
    found = {}
    for number, label in enumerate(model.labels):
        seen = np.array([counts.by_label.get(label, Counter())[entry] for entry in entries], float)
        gain = (weights[number] - (0 if model.multi else others[number])) * np.sqrt(seen / max(counts.texts[label], 1))
        found[label] = [{"entry": entries[i], "weight": round(float(weights[number, i]), 4), "texts": int(seen[i]),
                         "other_texts": int(counts.every[entries[i]] - seen[i])}
                        for i in np.lexsort((np.array(entries), -gain))[:size] if gain[i] > 0]
    return found
