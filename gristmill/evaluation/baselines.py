"""What a model must beat: a compressor, and an n-gram model that counted the very tokens the model was trained on."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.files import read_json
from gristmill.evaluation.ngram import KneserNey
from gristmill.tokens import TokenShards
from gristmill.tokens.seen import stretches_read

PRESET = 9 | lzma.PRESET_EXTREME


def xz_bytes(text: str) -> int:
    """Size of a document packed alone with `xz -9e`, container included."""
    return len(lzma.compress(text.encode(), preset=PRESET))


def xz_overhead() -> int:
    """Bytes of an .xz file that are there whatever it holds: header, block header, check, index, footer."""
    raw = [{"id": lzma.FILTER_LZMA2, "preset": PRESET}]
    return len(lzma.compress(b"a", preset=PRESET)) - len(lzma.compress(b"a", format=lzma.FORMAT_RAW, filters=raw))


def plan_of(model: Artifact) -> dict[str, Any] | None:
    """The pretraining plan of a model (plan.json with steps, batch, context, seed), or None if it has none."""
    path = model.path / "plan.json"
    plan = read_json(path) if path.exists() else {}
    known = {"steps", "batch", "context", "seed"} <= plan.keys()
    return plan if known and {"tokens", "corpus_tokens"} & plan.keys() else None


def pretrained_ancestor(model: Artifact, others: Sequence[Artifact] = ()) -> Artifact | None:
    """The pretrained model that `model` descends from (or is), found through the records of its inputs.

    others: artifacts at hand, looked at before paths are. None where the lineage leaves our own artifacts.
    """
    seen = set()
    current: Artifact | None = model
    while current is not None and current.digest not in seen:
        if plan_of(current) is not None:
            return current
        seen.add(current.digest)
        current = input_artifact(current, "model", others)
    return None


def input_artifact(artifact: Artifact, kind: str, others: Sequence[Artifact] = ()) -> Artifact | None:
    """The input of `artifact` that is of `kind`: among `others` by digest, else where its record says it lies."""
    for entry in artifact.record.get("inputs", {}).values():
        if entry.get("kind") != kind:
            continue
        for other in others:
            if other.digest == entry.get("digest"):
                return other
        written = Path(entry.get("path") or "/nowhere")
        # A relative path starts at the artifact itself; a run that was moved keeps its artifacts side by side.
        for path in (artifact.path / written, artifact.path.parent / written.name):
            if (path / "artifact.json").is_file():
                found = Artifact.open(path)
                if found.digest == entry.get("digest"):
                    return found
    return None


def tokens_seen(model: Artifact, shards: TokenShards, corpus: Artifact | None = None,
                cache: Path | None = None) -> list[np.ndarray]:
    """The stretches of `shards` that a pretrained model was trained on, each once, by its plan.json.

    Each stretch (tokens,) lies within one document. corpus, cache: for models with a mixture or a curriculum. Raises
    UserError where the plan is missing or was made for other tokens.
    """
    plan = plan_of(model)
    if plan is None:
        raise UserError("this model has no pretraining plan, so nobody knows which tokens it saw",
                        where=str(model.path / "plan.json"))
    cached = plan.get("tokens_digest") or plan.get("tokens_cache")
    if plan.get("corpus_tokens", shards.total_tokens) != shards.total_tokens or (cached or shards.digest) not in (
            shards.digest, shards.folder.name, shards.folder.name.removeprefix("tokens-")):
        raise UserError("these are not the tokens that the model was trained on", where=str(shards.folder),
                        fix="evaluate with the corpus and the tokenizer of the pretraining run")
    return stretches_read(plan, shards, corpus, cache)


def ngram_nats(model: KneserNey, documents: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of -log p over each document's tokens but its first: (documents,) in nats."""
    return np.array([-float(model.log_probabilities(tokens).sum()) if len(tokens) > 1 else 0.0 for tokens in documents])
