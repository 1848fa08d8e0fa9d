"""The stage `data`: from sources to a corpus artifact.

Phases: collect (read the sources once) -> annotate (normal form, signals, hashes; shards in parallel) -> filter ->
exact and near duplicates -> split -> write. The first two leave finished shards under `.scratch` and are continued
after a crash; the others are quick functions of them and are simply done again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import xxhash

from gristmill.core.config import config, require, to_plain
from gristmill.core.files import read_json, write_json
from gristmill.core.hashing import digest
from gristmill.core.stage import StageContext, stage
from gristmill.data.annotate import JOB
from gristmill.data.collect import Listing, Sample, collect
from gristmill.data.decide import Filter
from gristmill.data.normalise import Normalise
from gristmill.data.selection import Selection
from gristmill.data.sources import Source, source_names
from gristmill.data.sources.files import common_folder
from gristmill.data.split import Split
from gristmill.data.workers import run_tasks
from gristmill.data.write import write_corpus


@config
class Dedup:
    """Which duplicates are removed; the longest of a set of duplicates stays, then the one with the smallest id."""

    exact: bool = True
    """Texts that are equal but for white space."""
    near: float | None = 0.8
    """Texts whose sets of word 5-grams have at least this Jaccard similarity (0.3 to 1); null leaves them in."""

    def __post_init__(self) -> None:
        require(self.near is None or 0.3 <= self.near <= 1, "near", "must be between 0.3 and 1, or null")


@stage(kind="data", produces="corpus", semantics_version=1)
class Data:
    """Read sources, clean, filter and deduplicate them, and split them for training and evaluation."""

    sources: list[Source]
    """Where the text comes from, in order."""
    normalise: Normalise = field(default_factory=Normalise)
    """The normal form of text."""
    languages: Literal["detect", "none"] = "detect"
    """detect: find the language of texts whose source does not say it; none: call it undetermined."""
    filter: Filter = field(default_factory=Filter)
    """Which documents are good enough."""
    dedup: Dedup = field(default_factory=Dedup)
    """Which duplicates go."""
    split: Split = field(default_factory=Split)
    """Which part is held out."""
    sample: float = 1.0
    """Share of the documents that is taken, chosen by the hash of their ids."""
    limit_mb: float | None = None
    """Take about this many MB of text: lowers `sample` accordingly. null takes all."""

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sources", "name at least one source")
        require(0 < self.sample <= 1, "sample", "must be above 0 and at most 1")
        require(self.limit_mb is None or self.limit_mb > 0, "limit_mb", "must be above 0, or null")
        source_names(self.sources)

    def fingerprint(self) -> str:
        """Digest of the names and contents of everything the sources would read now.

        For the stage's identity: the same recipe over changed files is not the same corpus.
        """
        contents = []
        for name, _, files in Listing(self.sources).parts:
            base = common_folder(files)
            contents.append([name, {file.relative_to(base).as_posix(): _file_digest(file) for file in files}])
        return digest(contents)

    def run(self, context: StageContext) -> Mapping[str, Any]:
        """Make the corpus in `context.work`.

        Raises UserError for missing files, for sources without a document, and when the rules leave nothing.
        """
        listing = Listing(self.sources)
        sample = self._sample(listing, context.seed)
        folder = self._scratch(context, listing)
        clock = _Clock()
        counts = collect(listing, folder / "collected", sample, context.progress)
        clock.lap("collect", counts["bytes"])
        steps = self._annotate(folder, counts, context)
        clock.lap("annotate", counts["bytes"])
        selection = Selection(folder / "annotated", counts["shards"])
        with context.progress.bar("deduplicate", None, "pairs") as bar:
            selection.decide(self.filter)
            clock.lap("filter", counts["bytes"])
            if self.dedup.exact:
                selection.remove_exact()
            if self.dedup.near is not None:
                selection.remove_near(self.dedup.near, bar)
            clock.lap("dedup", counts["bytes"])
            selection.split(self.split, context.seed)
        clock.lap("split", counts["bytes"])
        metrics = write_corpus(self, context, selection, counts, folder)
        clock.lap("write", counts["bytes"])
        write_json(context.telemetry / "data.json", {"phases": clock.laps, "annotate_steps": steps})
        return metrics

    def _sample(self, listing: Listing, seed: int) -> Sample:
        limit = int(self.limit_mb * 1e6) if self.limit_mb is not None else None
        share = min(self.sample, limit / max(listing.bytes, 1)) if limit is not None else self.sample
        return Sample(share, limit, seed)

    def _scratch(self, context: StageContext, listing: Listing) -> Path:
        """The folder of unfinished work; what was begun with another config or other files is thrown away."""
        version = type(self).semantics_version  # type: ignore[attr-defined]
        plan = digest([version, to_plain(self), context.seed, listing.marks()])
        mark = context.scratch / "plan.json"
        if not mark.exists() or read_json(mark) != plan:
            shutil.rmtree(context.scratch)
            write_json(context.scratch / "plan.json", plan)
        return context.scratch

    def _annotate(self, folder: Path, counts: dict[str, Any], context: StageContext) -> dict[str, float]:
        near = self.dedup.near is not None
        options = {"normalise": to_plain(self.normalise), "languages": self.languages, "near": near}
        tasks = []
        for number in range(counts["shards"]):
            target = folder / "annotated" / f"{number:05d}.parquet"
            if not target.exists():
                source = folder / "collected" / f"documents-{number:05d}.parquet"
                tasks.append({"source": str(source), "target": str(target), "options": options})
        seconds: dict[str, float] = {}

        def done(task: dict[str, Any], result: dict[str, Any]) -> None:
            bar.advance(result["bytes"] / 1e6)
            for step, spent in result["seconds"].items():
                seconds[step] = seconds.get(step, 0.0) + spent

        with context.progress.bar("normalise and measure", counts["bytes"] / 1e6, "MB") as bar:
            run_tasks(JOB, tasks, context.runtime.workers, done)
        return seconds


class _Clock:
    """Seconds and MB/s of each phase, for telemetry."""

    def __init__(self) -> None:
        self.laps: list[dict[str, Any]] = []
        self.last = time.perf_counter()

    def lap(self, phase: str, size: int) -> None:
        now = time.perf_counter()
        spent, self.last = now - self.last, now
        self.laps.append({"phase": phase, "seconds": spent, "mb_per_second": size / 1e6 / max(spent, 1e-9)})


def _file_digest(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
