"""Which tokens a training run has read, from the plan that it left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.tokens.arrangement import arrange
from gristmill.tokens.batches import PackedBatches
from gristmill.tokens.curriculum import Curriculum, MixturePoint
from gristmill.tokens.mixture import Mixture
from gristmill.tokens.positions import BatchWarmup, Positions
from gristmill.tokens.shards import TokenShards
from gristmill.tokens.whole_documents import WholeBatches, laid_out, text_batches


def stretches_read(plan: Mapping[str, Any], shards: TokenShards, corpus: Artifact | None = None,
                   cache: Path | None = None) -> list[np.ndarray]:
    """The stretches of text that a run with this plan.json (steps, batch, context, seed, reading) has read, each once:
    token ids (tokens,) within one document each.

    corpus: where mixtures and curricula find the documents' metadata. cache: where their tables are kept.
    """
    reading, context = plan.get("reading", {}), plan["context"]
    mixture, curriculum, warmup = _settings(reading)
    packing = reading.get("packing", "concatenate")
    rows = Positions(plan["batch"], context, warmup).span(plan["steps"])[0]
    if mixture is None and (curriculum is None or not (curriculum.by or curriculum.mixtures)):
        text = laid_out(shards, context, cache) if packing == "best_fit" else shards
        return _read(text, text_batches(text, context=context, batch=plan["batch"], seed=plan["seed"]), rows)
    if corpus is None:
        raise ValueError("corpus: needed for a run with a mixture")
    arrangement = arrange(shards, corpus, "train", context=context, mixture=mixture, curriculum=curriculum,
                          packing=packing, cache=cache)
    arranged = arrangement.rows(lambda text, seed: text_batches(text, context=context, batch=1, seed=seed), rows,
                                plan["seed"])
    return [stretch for text, batches, draws in arranged.visited()
            for stretch in _read(text, batches, draws)]  # type: ignore[arg-type]


def _settings(reading: Mapping[str, Any]) -> tuple[Mixture | None, Curriculum | None, BatchWarmup | None]:
    """The settings out of a plan's JSON."""
    mixture = Mixture(**reading["mixture"]) if "mixture" in reading else None
    curriculum = None
    if "curriculum" in reading:
        curriculum = Curriculum(**{**reading["curriculum"],
                                   "mixtures": [MixturePoint(**one) for one in reading["curriculum"]["mixtures"]]})
    warmup = BatchWarmup(**reading["batch_warmup"]) if "batch_warmup" in reading else None
    return mixture, curriculum, warmup


def _read(text: TokenShards, batches: PackedBatches | WholeBatches, draws: int) -> list[np.ndarray]:
    """The stretches of one text in so many draws of its rows."""
    rows = np.arange(batches.epoch_rows)
    if draws < batches.epoch_rows:
        rows = np.unique(batches.order.rows_at(np.arange(draws)))
    if isinstance(batches, WholeBatches):
        spans = [span for row in rows.tolist() for span in text.layout.spans(text, row)]
    else:  # windows that touch are one
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        spans = [(int(run[0]) * batches.context, (int(run[-1]) + 1) * batches.context + 1) for run in runs if len(run)]
    return [part for start, stop in spans for part in _within_documents(text, start, stop)]


def _within_documents(text: TokenShards, start: int, stop: int) -> list[np.ndarray]:
    """Tokens start:stop cut at the borders of documents."""
    tokens = text.slice(start, stop)
    first, last = np.searchsorted(text.offsets, [start, stop - 1], side="right")
    borders = np.asarray(text.offsets[first:last]) - start
    return [np.asarray(part) for part in np.split(tokens, borders) if len(part)]

