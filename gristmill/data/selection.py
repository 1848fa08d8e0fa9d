"""Which documents stay, which go and why: decisions over the columns of all documents, without their texts.

Memory: about 100 bytes a document; fingerprints are mapped from their files, the texts stay on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.core.errors import UserError
from gristmill.core.progress import Bar
from gristmill.data.decide import RULES, Filter, Rule, decide
from gristmill.data.dedup.clusters import components
from gristmill.data.dedup.exact import equal_documents, hash_columns
from gristmill.data.dedup.fingerprints import Fingerprints
from gristmill.data.dedup.near import Near, near_duplicates
from gristmill.data.dedup.repeats import Edited, RepeatedLines, RepeatedStretches, Run, edit_repeats
from gristmill.data.dedup.report import STEPS, dedup_report
from gristmill.data.dedup.texts import ParquetTexts
from gristmill.data.documents import read_table
from gristmill.data.normalise import is_code
from gristmill.data.read import MEASURED
from gristmill.data.split import Split, assign, join, point

PHASES = ("stays", "sample", "filter", "url", "exact", "near", "repeats")
"""Where a document was dropped, in the order in which they are asked."""
RULE_NAMES = tuple(sorted(RULES))


class Selection:
    """All documents by number, in reading order, and the decisions about them so far."""

    def __init__(self, files: Sequence[Path]) -> None:
        """files: the measured documents of each unit, in order."""
        self.files = list(files)
        counts = [pq.read_metadata(path).num_rows for path in self.files]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.count = int(self.starts[-1])
        self.signals = [name for path in self.files[:1] for name in pq.read_schema(path).names
                        if name not in MEASURED.names]
        self.bytes = self.column("bytes", np.int64)
        self.phase = np.zeros(self.count, np.int8)
        self.rule = np.full(self.count, -1, np.int16)
        """The rule that was broken, in `rule_names`."""
        self.rule_names = list(RULE_NAMES)
        self.partner = np.full(self.count, -1, np.int64)
        """The document that stays for it."""
        self.similarity = np.zeros(self.count, np.float32)
        self.cluster = np.arange(self.count)
        """The first document of its cluster of exact and near copies."""
        self.split_of = np.full(self.count, -1, np.int8)
        """Its split, in `SPLITS`; -1 for what goes."""
        self.near: Near | None = None
        """What the search for near-duplicates found."""
        self.edited: list[Edited] = []
        """The documents of each file that lost repeated lines or stretches."""
        self.unit_bytes = np.zeros(0, np.int64)
        """Size of each set of documents that had to stay in one split."""

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first document, columns) of each unit."""
        for start, path in zip(self.starts.tolist(), self.files, strict=False):
            yield start, read_table(path, columns)

    def column(self, name: str, dtype: Any) -> np.ndarray:
        """A column of numbers."""
        found = [table[name].to_numpy() for _, table in self.tables([name])]
        return np.concatenate(found).astype(dtype) if found else np.zeros(0, dtype)

    def ids(self, wanted: Iterable[int]) -> dict[int, str]:
        """The ids of some documents."""
        chosen = np.unique(np.fromiter(wanted, np.int64))
        found: dict[int, str] = {}
        for start, table in self.tables(["id"]):
            here = chosen[(chosen >= start) & (chosen < start + len(table))]
            found.update(zip(here.tolist(), table["id"].take(here - start).to_pylist(), strict=True))
        return found

    def kept(self) -> np.ndarray:
        """Numbers of the documents that stay so far."""
        return np.flatnonzero(self.phase == 0)

    def limit(self, size: int) -> None:
        """Keep documents in the order of their sampling points, as many as have at most `size` bytes together."""
        if self.bytes.sum() <= size:
            return
        points = self.column("point", np.float64)
        order = np.argsort(points, kind="stable")
        beyond = np.cumsum(self.bytes[order]) > size
        cut = points[order[beyond]].min()
        self.phase[points >= cut] = PHASES.index("sample")  # a pair has one point: both go
        if not len(self.kept()):
            raise UserError("the sample holds not one document", where="limit_mb", fix="raise `sample` or `limit_mb`")

    def decide(self, rules: Filter, further: Sequence[Rule] = ()) -> None:
        """Drop what breaks a rule; raises UserError, with the counts of each rule, if that is everything.

        further: rules for all documents besides.
        """
        self.rule_names += sorted({rule.name for rule in (*rules.own_rules(), *further)} - {*self.rule_names})
        first = ""
        for start, table in self.tables(["id", "language", *self.signals]):
            languages = table["language"].to_pylist()
            found = decide({name: table[name].to_numpy() for name in self.signals}, rules, languages=languages,
                           code=[is_code(language) for language in languages], further=further)
            places = np.array([self.rule_names.index(rule.name) for rule in found.rules], np.int16)
            gone = np.flatnonzero(~found.kept & (self.phase[start:start + len(table)] == 0))
            self.phase[start + gone] = PHASES.index("filter")
            self.rule[start + gone] = places[found.first[gone]] if len(gone) else 0
            if len(gone) and not first:
                first = f"{table['id'][int(gone[0])].as_py()}: {found.explain(int(gone[0]))}"
        if not len(self.kept()):
            counts = Counter(self.rule_names[rule] for rule in self.rule[self.rule >= 0].tolist()).most_common()
            off = f"`filter: {{rules: {{{counts[0][0]}: null}}}}`"
            raise UserError(
                "the filter rejects every document: " + ", ".join(f"{rule} took {n}" for rule, n in counts)
                + f" (e.g. {first})",
                where="filter", fix=f"switch rules off ({off}), loosen their bounds, or set `filter: {{preset: none}}`",
            )

    def remove_equal(self, phase: Literal["url", "exact"]) -> None:
        """Drop all but the longest, then the first, of the documents with one address or with equal content."""
        name = {"url": "url_hash", "exact": "content_hash"}[phase]
        hashes = [hash_columns(table[name].to_pylist()) for _, table in self.tables([name])]
        self._drop(phase, equal_documents(hashes, self._best_first()), 1.0)

    def remove_near(self, threshold: float, prints: Sequence[Path], folder: Path, bar: Bar) -> None:
        """Drop near-duplicates of documents that stay, each verified against the one that stays.

        prints: the fingerprints of each unit, made for this threshold. folder: for temporary files.
        """
        self.near = near_duplicates([Fingerprints.load(path) for path in prints], ParquetTexts(self.files),
                                    self._best_first(), threshold, folder=folder, advance=bar.advance)
        self._drop("near", self.near.kept_for, self.near.similarity[self.near.gone])

    def cut_repeats(self, lines: RepeatedLines | None, substrings: RepeatedStretches | None, folder: Path,
                    run: Run) -> None:
        """Cut repeated lines and stretches out of the documents that stay; those of which nothing is left go."""
        self.edited = edit_repeats(self.files, self.phase == 0, self._best_first(), folder, run,
                                   lines=lines, substrings=substrings)
        for start, edited in zip(self.starts.tolist(), self.edited, strict=False):
            counts = edited.counts()
            rows, left = counts["row"].to_numpy() + start, counts["bytes"].to_numpy()
            self.phase[rows[left == 0]] = PHASES.index("repeats")
            self.bytes[rows[left > 0]] = left[left > 0]

    def split(self, options: Split, seed: int) -> None:
        """Find the clusters and put every kept document into a split."""
        copies = np.flatnonzero(np.isin(self.phase, [PHASES.index("url"), PHASES.index("exact")]))
        links = [np.stack([self.partner[copies], copies], axis=1)]
        if self.near:
            links.append(self.near.pairs)
        self.cluster = components(self.count, np.concatenate(links))
        kept = self.kept()
        groups, names = self._labelled("group") if options.groups else (np.full(self.count, -1), [])
        units = join(self.cluster[kept], groups[kept], len(names))
        leads, index = np.unique(units, return_inverse=True)
        self.split_of[kept] = assign(self._points(leads, groups[kept], units, names, seed), options)[index]
        self.unit_bytes = np.bincount(index, weights=self.bytes[kept]).astype(np.int64)

    def duplicates(self) -> dict[str, Any]:
        """What went as a duplicate, by source, with examples and alarms: see `dedup_report`."""
        source, names = self._labelled("source")
        steps = np.zeros(len(PHASES), np.int64)
        steps[[PHASES.index(step) for step in STEPS]] = np.arange(1, len(STEPS) + 1)
        return dedup_report(names, source, self.bytes, steps[self.phase], self.partner, self.similarity, self.cluster,
                            self._described)

    def _described(self, wanted: list[int]) -> dict[int, tuple[str, str]]:
        ids = self.ids(wanted)
        return {number: (ids[number], text)
                for numbers, texts in ParquetTexts(self.files).read(np.unique(np.array(wanted, np.int64)))
                for number, text in zip(numbers.tolist(), texts, strict=True)}

    def across(self, pairs: np.ndarray) -> np.ndarray:
        """(pairs,) bool: whether both documents stay, in different splits."""
        splits = self.split_of[pairs]
        return (splits >= 0).all(axis=1) & (splits[:, 0] != splits[:, 1])

    def _drop(self, phase: str, kept_for: np.ndarray, similarity: Any) -> None:
        """kept_for: (documents,) the one that stays for each, -1 for those that this phase leaves."""
        gone = np.flatnonzero(kept_for >= 0)
        self.phase[gone] = PHASES.index(phase)
        self.partner[gone] = kept_for[gone]
        self.similarity[gone] = similarity

    def _labelled(self, column: str) -> tuple[np.ndarray, list[str]]:
        """(documents,) the number of each one's value (-1: empty), and the values."""
        names: dict[str, int] = {"": -1}
        found = np.full(self.count, -1, np.int64)
        for start, table in self.tables([column]):
            values = table[column].combine_chunks().dictionary_encode()
            if len(table):
                local = [names.setdefault(name, len(names) - 1) for name in values.dictionary.to_pylist()]
                found[start:start + len(table)] = np.array(local)[values.indices.to_numpy()]
        return found, [name for name in names if name]

    def _points(self, leads: np.ndarray, groups: np.ndarray, units: np.ndarray, names: list[str],
                seed: int) -> np.ndarray:
        """(leads,) the point of each unit, whose name is its first group by name, or else the id of its first
        document."""
        smallest: dict[int, str] = {}
        for unit, group in set(zip(units[groups >= 0].tolist(), groups[groups >= 0].tolist(), strict=True)):
            smallest[unit] = min(smallest.get(unit, names[group]), names[group])
        points = np.full(len(leads), np.nan)
        grouped = np.searchsorted(leads, np.array(sorted(smallest), np.int64))
        points[grouped] = [point(f"group {smallest[unit]}", seed) for unit in sorted(smallest)]
        for start, table in self.tables(["id"]):
            first, last = np.searchsorted(leads, [start, start + len(table)])
            alone = np.arange(first, last)[np.isnan(points[first:last])]
            ids = table["id"].take(pa.array(leads[alone] - start)).to_pylist()
            points[alone] = [point(f"cluster {id}", seed) for id in ids]
        return points

    def _best_first(self) -> np.ndarray:
        """Kept documents, the longest first; of equally long ones the first that was read."""
        kept = self.kept()
        return kept[np.argsort(-self.bytes[kept], kind="stable")]
