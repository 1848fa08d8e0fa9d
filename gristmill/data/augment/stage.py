"""The stage `augment`: a corpus with more training documents, made from its own.

Held-out shards and the training shards themselves are copied byte for byte; the made documents of `train-00003.parquet`
are `train-00003-augmented.parquet` beside it. A made document has its original's cluster and split.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gristmill.core.config import CorpusRef, require
from gristmill.core.errors import InternalError, UserError
from gristmill.core.files import read_json, write_json
from gristmill.core.stage import StageContext, stage
from gristmill.core.writer import Writer
from gristmill.data.augment.gates import Gates
from gristmill.data.augment.making import Found, Making, Setting
from gristmill.data.augment.method import method_names
from gristmill.data.augment.methods import AnyMethod
from gristmill.data.augment.report import Account, augment_json, card_json, examples_json, funnel_json
from gristmill.data.augment.units import tally_row
from gristmill.data.documents import REJECTS_SCHEMA, SCHEMA, SPLITS
from gristmill.data.funnel import Grams, Tally, leakage, merge
from gristmill.data.read import LEAKAGE_SAMPLED, Rows


@stage(kind="augment", produces="corpus")
class Augment:
    """Add made documents to the training split of a corpus."""

    corpus: CorpusRef
    """The corpus whose training documents texts are made from."""
    methods: list[AnyMethod]
    """How, each method by itself: `edits`, `synonyms`, `counterfactual`, `paraphrase`, `back_translation`,
    `variations`."""
    gates: Gates = field(default_factory=Gates)
    """What a made text must be like to stay."""

    def __post_init__(self) -> None:
        require(bool(self.methods), "methods", "name at least one method")
        method_names(self.methods)

    def fingerprint(self) -> list[Any] | None:
        """Digests of the files besides the corpus that are read (a WordNet, word vectors, evaluation sets)."""
        found: list[Any] = [method.source.fingerprint() for method in self.methods if method.kind == "synonyms"]
        if self.gates.evaluations:
            found.append(self.gates.fingerprint())
        return found or None

    def run(self, context: StageContext) -> Mapping[str, Any]:
        """Make the corpus in `context.work`."""
        corpus = context.inputs[self.corpus].path
        opened: dict[str, Writer] = {}

        def open_model(reference: str) -> Writer:
            if context.open_writer is None:
                raise InternalError("nobody said how a model is opened", where="open_writer",
                                    fix="run this stage by `gristmill run`")
            if reference not in opened:
                opened[reference] = context.open_writer(context.inputs[reference])
            return opened[reference]

        making = Making(self.methods, self.gates, Setting(
            corpus, context.scratch, context.cache, context.seed, open_model, context.runtime, context.progress))
        found = making.run()
        written = write_corpus(found, making, corpus, context)
        write_json(context.telemetry / "augment.json", {
            name: {"new_requests": asked.new, "tries": asked.tries, "failed": len(asked.failed)}
            for name, asked in found.asked.items()})
        made = ", ".join(f"{count:,} by {name}" for name, count in written["by_method"].items())
        context.progress.say(f"  made {made}; rejected {written['rejected']:,}")
        return written


def write_corpus(found: Found, making: Making, corpus: Path, context: StageContext) -> dict[str, Any]:
    """The payload: documents, rejects, augment.json, funnel.json, card.json, examples.json; gives the metrics."""
    for name in ("documents", "rejects"):
        shutil.rmtree(context.work / name, ignore_errors=True)
        (context.work / name).mkdir(parents=True)
    for path in sorted((corpus / "documents").glob("*.parquet")):
        if path.name.partition("-")[0] in SPLITS:
            shutil.copyfile(path, context.work / "documents" / path.name)
    account, tally = Account(making.methods, context.seed), Tally()
    merge(tally, found.tally)
    grams: list[np.ndarray] = []
    with context.progress.bar("write", len(found.made), "shards") as bar:
        for number, (shard, tables) in enumerate(itertools.groupby(found.tables(), key=lambda pair: pair[0])):
            target = context.work / "documents" / f"{shard.stem}-augmented.parquet"
            rejects = context.work / "rejects" / f"rejects-{number:05d}.parquet"
            kept, gone = _Lazily(target, SCHEMA), _Lazily(rejects, REJECTS_SCHEMA)
            with kept, gone:
                for _, table in tables:
                    account.add(shard, table)
                    stays = pc.equal(table["reason"], "")
                    good = table.filter(stays)
                    kept.write(good.select(SCHEMA.names))
                    gone.write(table.filter(pc.invert(stays)).select(REJECTS_SCHEMA.names))
                    for row in good.select(SCHEMA.names).to_pylist():
                        tally_row(tally, row)
                    grams += [np.frombuffer(one, np.uint64) for one in good["ngrams"].to_pylist()]
            bar.advance(1)
    examples = account.chosen()
    before = {name: _if_there(corpus / f"{name}.json") for name in ("funnel", "card")}
    leaked = {"unit": "share of word 13-grams of a split that also occur in made documents",
              "sampled": LEAKAGE_SAMPLED, **leakage(lambda: _grams(grams, found), LEAKAGE_SAMPLED)}
    augment = augment_json(account, found, examples)
    funnel = funnel_json(tally, found.tally, account, leaked, before["funnel"])
    write_json(context.work / "augment.json", augment)
    write_json(context.work / "funnel.json", funnel)
    write_json(context.work / "examples.json", examples_json(examples))
    write_json(context.work / "card.json", card_json(tally, before["card"], funnel, augment))
    made = augment["made"]
    if not made["documents"]:
        raise UserError("not one made document stays", where=f"{context.name}: methods",
                        fix=f"rejected: {funnel['reasons'] or 'nothing was made'}; look at share, languages and gates")
    return {
        "documents": sum(c["documents"] for c in tally["kept"].values()),
        "bytes": sum(c["bytes"] for c in tally["kept"].values()), "splits": funnel["splits"],
        "reasons": funnel["reasons"], "leakage_of_made": leaked, "made": made,
        "by_method": {one["name"]: one["made"]["documents"] for one in augment["methods"]},
        "rejected": sum(counts["documents"] for counts in funnel["reasons"].values()),
        "requests": sum(asked.requests for asked in found.asked.values()),
        "tokens": sum(asked.tokens for asked in found.asked.values()),
    }


def _grams(made: Sequence[np.ndarray], found: Found) -> Iterator[Grams]:
    """The n-grams of made documents, as if they were train, and of held-out ones."""
    if made:
        yield np.concatenate(made), np.array([len(one) for one in made]), np.full(len(made), SPLITS.index("train"))
    for path, split in zip(found.arrays, found.splits, strict=True):
        if split != "train":
            arrays = np.load(path)
            yield arrays["grams"], arrays["sizes"], np.full(len(arrays["sizes"]), SPLITS.index(split))


def _if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


class _Lazily:
    """Rows into a Parquet file that is made with the first of them."""

    def __init__(self, path: Path, schema: Any) -> None:
        self.path, self.schema = path, schema
        self.file: Rows | None = None

    def __enter__(self) -> _Lazily:
        return self

    def write(self, table: Any) -> None:
        if len(table):
            if self.file is None:
                self.file = Rows(self.path, self.schema).__enter__()
            self.file.write_table(table)

    def __exit__(self, *about: Any) -> None:
        if self.file is not None:
            self.file.__exit__(*about)
