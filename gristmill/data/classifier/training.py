"""From labelled texts to a classifier's folder: features, fitting, calibration, held-out measures, telling words.

Memory: the weights, about 200 bytes a text, and a sample of the texts; features lie on disk.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors, write_json
from gristmill.core.seeds import fraction
from gristmill.data.classifier.calibrate import calibrate
from gristmill.data.classifier.examples import Example
from gristmill.data.classifier.features import Features, features
from gristmill.data.classifier.fit import Bags, best_fit
from gristmill.data.classifier.measure import best_thresholds, measures
from gristmill.data.classifier.model import Classifier, column_name
from gristmill.data.classifier.words import WordCounts, telling
from gristmill.data.dedup.exact import content_hash
from gristmill.data.split import Split, choose

REPORT = "report.json"
SAMPLED, SAMPLED_CHARACTERS = 10_000, 5_000
"""Texts, and characters of each, in which words are counted for the report."""
PARTS = ("train", "valid", "test")
_BATCH = 256


@dataclass
class Gathered:
    """Labelled texts as features on disk. part: (texts,) place in `PARTS`; groups: (texts,) numbers."""

    labels: tuple[str, ...]
    bags: Bags
    part: np.ndarray
    groups: np.ndarray
    counts: dict[str, int]
    sample: list[tuple[str, tuple[str, ...]]]
    """Training texts, cut short, with their labels."""

    def rows(self, part: str) -> np.ndarray:
        """The texts of a part."""
        return np.flatnonzero(self.part == PARTS.index(part))


@dataclass
class _Seen:
    labels: list[tuple[str, ...]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)
    group: list[int] = field(default_factory=list)
    hashes: dict[bytes, tuple[str, ...]] = field(default_factory=dict)


def gather(examples: Iterable[Example], seen: Features, *, multi: bool, split: Split, seed: int, scratch: Path,
           counts: Counter[str], advance: Callable[[int], None]) -> Gathered:
    """Read the texts once. Of equal texts the first stays; `counts` says how many went, and how many of them were
    labelled otherwise. UserError if labels or parts are missing."""
    got, reservoir = _Seen(), list[tuple[float, int, str]]()
    shares = split.shares()
    path = scratch / "features.bin"
    with disk_errors(path), path.open("wb") as file:
        distinct = _distinct(examples, got, counts)
        while chosen := list(islice(distinct, _BATCH)):
            ids, edges = features([one.text for one in chosen], seen)
            file.write(ids.astype("<u4").tobytes())
            got.sizes += np.diff(edges).tolist()
            for one in chosen:
                key = -fraction(seed, "words", one.text), len(got.labels), one.text[:SAMPLED_CHARACTERS]
                (heapq.heappush if len(reservoir) < SAMPLED else heapq.heappushpop)(reservoir, key)
                got.labels.append(one.labels)
                got.group.append(got.groups.setdefault(one.group, len(got.groups)))
            advance(len(chosen))
    labels = tuple(sorted(set(chain.from_iterable(got.labels))))
    group_parts = _parts(labels, got, seed, shares)
    got.parts = [group_parts[group] for group in got.group]
    _check(labels, got, multi, shares)
    targets = np.zeros((len(got.labels), len(labels)), np.float32)
    place = {label: number for number, label in enumerate(labels)}
    for row, has in enumerate(got.labels):
        targets[row, [place[label] for label in has]] = 1
    edges = np.concatenate(([0], np.cumsum(np.array(got.sizes, np.int64))))
    ids = np.memmap(path, "<u4", "r") if edges[-1] else np.empty(0, np.uint32)
    ordered = [(text, got.labels[row]) for _, row, text in sorted(reservoir, reverse=True)
               if got.parts[row] == PARTS.index("train")]
    return Gathered(labels, Bags(ids, edges, targets, multi), np.array(got.parts), np.array(got.group),
                    dict(sorted(counts.items())), ordered)


def _distinct(examples: Iterable[Example], got: _Seen, counts: Counter[str]) -> Iterator[Example]:
    for one in examples:
        counts["read"] += 1
        content = content_hash(one.text)
        if content not in got.hashes:
            got.hashes[content] = one.labels
            yield one
        else:
            counts["duplicates"] += 1
            counts["duplicates_labelled_otherwise"] += got.hashes[content] != one.labels


def _parts(labels: tuple[str, ...], got: _Seen, seed: int, shares: dict[str, float]) -> list[int]:
    """The part of each group, by the hash of its name. A label that hashes leave without a group in a part gives it the
    one that came nearest, where it has groups to give."""
    names = list(got.groups)
    parts = [PARTS.index(choose(name, seed, shares)) for name in names]
    holding: dict[str, set[int]] = {label: set() for label in labels}
    for has, group in zip(got.labels, got.group, strict=True):
        for label in has:
            holding[label].add(group)
    for label in labels:
        for wanted in (PARTS.index(part) for part in ("train", *shares)):
            where = Counter(parts[group] for group in holding[label])
            most = where.most_common(1)[0][0]
            if not where[wanted] and where[most] > 1:
                given = min((group for group in holding[label] if parts[group] == most),
                            key=lambda group: fraction(seed, "split", names[group]))
                parts[given] = wanted
    return parts


def _check(labels: tuple[str, ...], got: _Seen, multi: bool, shares: dict[str, float]) -> None:
    if len(labels) < (1 if multi else 2):
        raise UserError(f"the texts have {len(labels)} label(s)", where="examples",
                        fix="give examples of at least two, e.g. good texts and a sample of the crawl")
    if not multi and any(len(has) != 1 for has in got.labels):
        raise UserError("a text has several labels, or none", where="examples",
                        fix="set `multi_label: true`, or give each text one label")
    names = [column_name(label) for label in labels]
    if len(set(names)) < len(names) or "" in names:
        raise UserError(f"labels need names that differ in letters or digits: {', '.join(labels)}", where="examples",
                        fix="rename labels")
    for part in ("train", *shares):
        found = set(chain.from_iterable(
            has for has, where in zip(got.labels, got.parts, strict=True) if where == PARTS.index(part)))
        missing = [label for label in labels if label not in found]
        if missing:
            raise UserError(
                f"no text with the label {missing[0]!r} fell into the part for "
                f"{ {'train': 'training', 'valid': 'calibration', 'test': 'testing'}[part] } "
                f"({len(got.labels)} texts in {len(got.groups)} groups)", where="examples",
                fix="give more texts, or more groups (sources, authors); or larger shares in `split`")


def train(data: Gathered, seen: Features, *, balance: float, passes: int, seed: int, work: Path,
          advance: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Fit, calibrate and measure; the classifier and its report are written to `work`. Gives the report."""
    bags, watched, held_out = data.bags, data.rows("valid"), data.rows("test")
    fitted = best_fit(bags, data.rows("train"), watched, buckets=seen.buckets, balance=balance, passes=passes,
                      seed=seed, advance=advance)
    model = Classifier.of(data.labels, bags.multi, seen, fitted)
    raw = _scores(model, bags, watched)
    calibration = calibrate(raw, bags.targets[watched], bags.multi)
    model = Classifier(model.labels, model.multi, model.features, model.weights, model.steps, model.bias, calibration)
    thresholds = best_thresholds(calibration(raw, bags.multi), bags.targets[watched])
    counted = WordCounts(data.labels)
    counted.add([text for text, _ in data.sample], [has for _, has in data.sample])
    report: dict[str, Any] = {
        "labels": list(data.labels), "multi_label": bags.multi,
        "texts": {part: {label: int(bags.targets[data.rows(part), number].sum())
                         for number, label in enumerate(data.labels)} for part in PARTS},
        "read": data.counts, "groups": int(data.groups.max(initial=-1)) + 1,
        "passes": len(fitted.losses), "losses": fitted.losses, "rate": fitted.rate, "damping": fitted.damping,
        "calibration": {label: {"slope": float(calibration.slope[n]), "shift": float(calibration.shift[n])}
                        for n, label in enumerate(data.labels)},
    }
    if len(held_out):
        before = _scores(model, bags, held_out)
        report["held_out"] = measures(calibration(before, bags.multi), bags.targets[held_out], data.labels,
                                      multi=bags.multi, thresholds=thresholds, groups=data.groups[held_out], seed=seed)
    report["telling"] = telling(model, counted)
    model.save(work)
    write_json(work / REPORT, report)
    return report


def _scores(model: Classifier, bags: Bags, rows: np.ndarray) -> np.ndarray:
    parts = [model.scores_of(*bags.of(rows[start : start + _BATCH])) for start in range(0, len(rows), _BATCH)]
    return np.concatenate([np.empty((0, len(model.labels))), *parts])
