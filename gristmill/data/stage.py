"""The stage `data`: from sources to a corpus artifact.

Phases: read (list the inputs, cut them into units, read units in parallel: normal form, signals, hashes) -> sample ->
filter -> exact and near duplicates -> split -> write (units in parallel). Every unit that has been read stays under
`.scratch` and is not read again after a crash; the decisions are quick functions of them and are simply made again.
"""

from __future__ import annotations

import difflib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from gristmill.core.config import config, require, to_plain
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.core.hashing import digest, digest_file
from gristmill.core.stage import StageContext, stage
from gristmill.data.decide import Filter, Rule
from gristmill.data.decontaminate import Contamination, ContaminationReport, Decontaminate
from gristmill.data.dedup.repeats import RepeatedLines, RepeatedStretches
from gristmill.data.executors import available_cores, run_tasks
from gristmill.data.needs import estimate
from gristmill.data.normalise import Normalise
from gristmill.data.pii import Pii
from gristmill.data.read import JOB, evaluation_files, evaluation_index, signal_columns
from gristmill.data.selection import Selection
from gristmill.data.signals.learned import Learned, definition
from gristmill.data.sources import Source, located, source_names
from gristmill.data.split import Split
from gristmill.data.units import Listing
from gristmill.data.write import write_corpus


@config
class Dedup:
    """Which duplicates are removed; the longest of a set of duplicates stays, then the one with the smallest id."""

    urls: bool = True
    """Documents with the same address (`url` in their metadata), however it is spelt."""
    exact: bool = True
    """Texts that are equal but for white space."""
    near: float | None = 0.8
    """Texts whose sets of word 5-grams have at least this Jaccard similarity (0.3 to 1); null leaves them in."""
    lines: RepeatedLines | None = None
    """Lines that many documents of a source share are cut out of them, programs aside; {} for the usual numbers."""
    substrings: RepeatedStretches | None = None
    """Long stretches of words that occur again are cut out, programs aside; {} for the usual length."""

    def __post_init__(self) -> None:
        require(self.near is None or 0.3 <= self.near <= 1, "near", "must be between 0.3 and 1, or null")


@config
class Evaluations:
    """Texts that a model will be examined on, and what happens to documents that hold them."""

    files: list[str]
    """JSONL, JSON or plain text files (also .gz), folders or globs; each file is a task."""
    rules: Decontaminate = field(default_factory=Decontaminate)
    """When a document counts as contaminated."""

    def __post_init__(self) -> None:
        require(bool(self.files), "files", "name at least one file")


@stage(kind="data", produces="corpus", semantics_version=3)
class Data:
    """Read sources, clean, filter and deduplicate them, and split them for training and evaluation."""

    sources: list[Source]
    """Where the text comes from, in order."""
    normalise: Normalise = field(default_factory=Normalise)
    """The normal form of text."""
    languages: Literal["detect", "none"] = "detect"
    """detect: find the language of texts whose source does not say it; none: call it undetermined."""
    pii: Pii = field(default_factory=Pii)
    """Personal data: whether it is looked for, and what happens to it."""
    stated_licenses: bool = False
    """Take over the licence that a text states where its source knows none. Web pages say it mostly in the footer,
    which is gone by then: there ask the source (`find_license`)."""
    signals: list[Literal["language_paragraphs_v1", "license_v1", "mentions_v1", "pii_v1"]] = field(
        default_factory=list)
    """Signals to measure besides those that the rules read; the report shows them, `filter.bounds` may judge them."""
    learned: list[Learned] = field(default_factory=list)
    """Trained classifiers and n-gram models that judge the documents."""
    record: list[str] = field(default_factory=list)
    """Values of signals that are written into the documents' metadata, e.g. [quality.good]: a curriculum can go by them
    (`by: metadata.quality.good`)."""
    filter: Filter = field(default_factory=Filter)
    """Which documents are good enough."""
    decontaminate: Evaluations | None = None
    """Evaluation sets that must not be trained on; null looks for none."""
    dedup: Dedup = field(default_factory=Dedup)
    """Which duplicates go."""
    alarm: float = 0.5
    """A source that loses more than this share of its documents to rules, or as duplicates, is named in the report."""
    split: Split = field(default_factory=Split)
    """Which part is held out."""
    sample: float = 1.0
    """Share of the documents that is taken, chosen by the hash of their ids."""
    limit_mb: float | None = None
    """Take at most this many MB of text, chosen by the hash of the ids. null takes all."""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sources", "name at least one source")
        require(0 < self.sample <= 1, "sample", "must be above 0 and at most 1")
        require(self.limit_mb is None or self.limit_mb > 0, "limit_mb", "must be above 0, or null")
        require(0 < self.alarm <= 1, "alarm", "must be above 0 and at most 1")
        names = [*self.signals, *(one.name for one in self.learned)]
        require(len({*names}) == len(names), "signals", "name each signal once, and each learned one differently")
        source_names(self.sources)

    def fingerprint(self) -> str:
        """Digest of the names and contents of everything the sources would read now.

        For the stage's identity: the same recipe over changed files is not the same corpus.
        """
        # What other stages have made is part of the identity by its digest.
        found = Listing([source for source in self.sources if not getattr(source, "pages", None)]).fingerprint()
        return digest([found, self._evaluations()]) if self.decontaminate else found

    def _evaluations(self) -> list[str]:
        """The contents of the evaluation sets."""
        return [digest_file(path) for path in evaluation_files(self.decontaminate.files)] if self.decontaminate else []

    def run(self, context: StageContext) -> Mapping[str, Any]:
        """Make the corpus in `context.work`.

        Raises UserError for missing inputs, for sources without a document, and when the rules leave nothing.
        """
        listing = Listing(located(self.sources, context.inputs))
        clock = _Clock()
        units = self._read(listing, context)
        read = _by_source(listing, units)
        size = sum(counts["bytes"] for counts in read.values())
        clock.lap("read", size)
        if not any(counts["documents"] for counts in read.values()):
            _refuse_empty(read, self)
        selection = Selection([unit.documents for unit in units])
        with context.progress.bar("deduplicate", None, "pairs") as bar:
            if self.limit_mb is not None:
                selection.limit(int(self.limit_mb * 1e6))
            selection.decide(self.filter, [rule for one in self.learned for rule in one.rules()])
            clock.lap("filter", size)
            if self.dedup.urls:
                selection.remove_equal("url")
            if self.dedup.exact:
                selection.remove_equal("exact")
            if self.dedup.near is not None:
                selection.remove_near(self.dedup.near, [unit.fingerprints for unit in units], context.scratch, bar)
            clock.lap("dedup", size)
            if self.dedup.lines or self.dedup.substrings:
                self._cut_repeats(selection, context)
                clock.lap("repeats", size)
            selection.split(self.split, context.seed)
        clock.lap("split", size)
        metrics = write_corpus(self, context, selection, [unit.rejects for unit in units], read)
        if self.decontaminate:
            metrics["contaminated"] = self._report_contamination(units, context)
        clock.lap("write", size)
        steps = Counter[str]()
        for unit in units:
            steps.update(unit.result["seconds"])
        write_json(context.telemetry / "data.json", {"phases": clock.laps, "read_steps": dict(steps)})
        return metrics

    def rules(self) -> list[Rule]:
        """Every rule in force, for programs or prose or both."""
        found = [rule for code in (False, True) for rule in self.filter.for_class(code=code)]
        own = [*self.filter.own_rules(), *(rule for one in self.learned for rule in one.rules())]
        return list({rule.name: rule for rule in (*found, *own)}.values())

    def _read(self, listing: Listing, context: StageContext) -> list[Finished]:
        """Every unit read; those that an interrupted run has finished are taken as they are."""
        version = type(self).semantics_version  # type: ignore[attr-defined]
        learned = [{**to_plain(one), "model": str(context.inputs[one.model].path)} for one in self.learned]
        columns = signal_columns(self.filter.compat, self.filter.bad_words, self.signals, learned)
        for name in (*self.filter.bounds, *self.record):
            if name not in columns:
                near = difflib.get_close_matches(name, columns, 3) or columns
                raise UserError(f"there is no signal {name!r}",
                                where="filter.bounds" if name in self.filter.bounds else "record",
                                fix=f"choose from {', '.join(near)}; some are measured only if `signals` names them")
        options = {"normalise": to_plain(self.normalise), "languages": self.languages,
                   "near": self.dedup.near, "share": self._share(listing), "seed": context.seed,
                   "lines": list(self.filter.line_filters(code=False)), "compat": self.filter.compat,
                   "bad_words": self.filter.bad_words,
                   "further": self.signals, "learned": learned, "signals": columns, "pii": to_plain(self.pii),
                   "stated_licenses": self.stated_licenses, "evaluations": to_plain(self.decontaminate)}
        folder = context.scratch / "units"
        units = listing.units()
        meaning = [version, {**options, "learned": [definition(plain) for plain in learned]}, self._evaluations()]
        targets = [folder / f"{number:05d}-{listing.identity(unit, meaning)[:20]}"
                   for number, unit in enumerate(units)]
        wanted = {target.name for target in targets}
        for path in folder.glob("*"):  # begun with another config or with other files
            if path.name.split(".")[0] not in wanted:
                path.unlink()
        needs = estimate(listing, len(units), context.runtime.workers or available_cores(), self._share(listing))
        for line in (needs.line(), *needs.warnings(context.work)):
            context.progress.say(f"  {line}")
        tasks = [
            {"source": to_plain(listing.sources[unit.source]), "name": listing.names[unit.source],
             "parts": unit.plain(), "target": str(target), "options": options}
            for unit, target in zip(units, targets, strict=True) if not Path(f"{target}.json").exists()
        ]
        with context.progress.bar("read and measure", len(tasks), "units") as bar:
            run_tasks(JOB, tasks, context.runtime, lambda task, result: bar.advance(
                1, note=f"{task['name']}: {result['counts']['documents']} documents"))
        return [Finished(unit.source, target, read_json(Path(f"{target}.json")))
                for unit, target in zip(units, targets, strict=True)]

    def _cut_repeats(self, selection: Selection, context: StageContext) -> None:
        def run(job: str, tasks: list[dict[str, Any]]) -> list[Any]:
            found: dict[str, Any] = {}
            with context.progress.bar("cut repeats", len(tasks), "units") as bar:
                def done(task: dict[str, Any], result: Any) -> None:
                    found[task["target"]] = result
                    bar.advance(1)

                run_tasks(job, tasks, context.runtime, done)
            return [found[task["target"]] for task in tasks]

        # A folder of its own: a worker of a killed run may still be writing into the former one.
        folder = Path(tempfile.mkdtemp(prefix="repeats-", dir=context.scratch))
        selection.cut_repeats(self.dedup.lines, self.dedup.substrings, folder, run)
        if not len(selection.kept()):
            raise UserError("every document consists of repeated text alone", where="dedup",
                            fix="raise `lines.more_than` or `substrings.words`")

    def _report_contamination(self, units: Sequence[Finished], context: StageContext) -> dict[str, int]:
        """contamination.json; gives the number of documents by task."""
        report = ContaminationReport(evaluation_index(json.dumps(to_plain(self.decontaminate))))
        for unit in units:
            for document, found in unit.result["contaminations"].items():
                report.add(document, [Contamination(**one) for one in found])
        value = report.as_dict()
        write_json(context.work / "contamination.json", value)
        return {task: about["documents"] for task, about in value["tasks"].items()}

    def _share(self, listing: Listing) -> float:
        """The share of documents that is read in; more than enough for limit_mb, which is then kept to the byte."""
        if self.limit_mb is None:
            return self.sample
        room = 8 if listing.compressed else 2
        return min(self.sample, room * self.limit_mb * 1e6 / max(listing.bytes, 1))


@dataclass(frozen=True)
class Finished:
    """A unit that has been read."""

    source: int
    target: Path
    result: dict[str, Any]

    @property
    def documents(self) -> Path:
        return Path(f"{self.target}.documents.parquet")

    @property
    def rejects(self) -> Path:
        return Path(f"{self.target}.rejects.parquet")

    @property
    def fingerprints(self) -> Path:
        return Path(f"{self.target}.fingerprints")


def _by_source(listing: Listing, units: Sequence[Finished]) -> dict[str, dict[str, int]]:
    """source -> what was counted while it was read."""
    found = {name: Counter[str](inputs=len(items), documents=0, bytes=0, unreadable=0)
             for name, items in zip(listing.names, listing.inputs, strict=True)}
    for unit in units:
        counts = {name: n for name, n in unit.result["counts"].items() if name != "inputs"}
        found[listing.names[unit.source]].update(counts)
    return {name: dict(sorted(counts.items())) for name, counts in found.items()}


def _refuse_empty(sources: Mapping[str, Mapping[str, int]], stage: Data) -> NoReturn:
    unreadable = Counter[str]()
    for counts in sources.values():
        unreadable.update({k.removeprefix("reason "): n for k, n in counts.items() if k.startswith("reason ")})
    listed = ", ".join(f"{n} x {reason}" for reason, n in unreadable.most_common())
    where = f"sources: {', '.join(sources)}"
    if listed:
        raise UserError(f"not one document could be read ({listed})", where=where,
                        fix="check the files' format and `column`")
    if any(counts.get("not_sampled") for counts in sources.values()):
        raise UserError("the sample holds not one document", where=where, fix="raise `sample` or `limit_mb`")
    raise UserError("the sources hold no documents", where=where, fix="name files with text in them")


class _Clock:
    """Seconds and MB/s of each phase, for telemetry."""

    def __init__(self) -> None:
        self.laps: list[dict[str, Any]] = []
        self.last = time.perf_counter()

    def lap(self, phase: str, size: int) -> None:
        now = time.perf_counter()
        spent, self.last = now - self.last, now
        self.laps.append({"phase": phase, "seconds": spent, "mb_per_second": size / 1e6 / max(spent, 1e-9)})
