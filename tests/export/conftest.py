"""A small trained-looking model artifact with ancestors, made without training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gristmill.core.artifact import Artifact
from gristmill.core.hashing import digest_folder
from gristmill.models.saving import save_model
from gristmill.tokenizer import Tokenizer
from tests.models.random_models import random_decoder


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def byte_level() -> Tokenizer:
    from gristmill.tokenizer.alphabet import BYTE_OF

    letters = sorted(BYTE_OF, key=lambda letter: BYTE_OF[letter])
    return Tokenizer.from_bpe(["<|bos|>", "<|eos|>", *letters], [], split="gpt-2", special=["<|bos|>", "<|eos|>"],
                              bos="<|bos|>", eos="<|eos|>")


def finish(folder: Path, kind: str, name: str, inputs: dict[str, Artifact], **metrics) -> Artifact:
    """Write the record that the pipeline would write."""
    (folder / "artifact.json").write_text(json.dumps({
        "kind": kind, "name": name, "version": 1, "digest": digest_folder(folder), "config": {}, "metrics": metrics,
        "seed": 5, "inputs": {reference: {"name": a.record["name"], "version": 1, "kind": a.kind, "digest": a.digest,
                                          "path": f"../{a.path.name}"} for reference, a in inputs.items()}}))
    return Artifact.open(folder)


@pytest.fixture
def lineage(tmp_path) -> dict[str, Artifact]:
    """corpus -> base -> tuned, and scores that evaluate both."""
    folders = {name: tmp_path / "artifacts" / f"{name}@1" for name in ("corpus", "base", "tuned", "scores")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    (folders["corpus"] / "card.json").write_text(json.dumps({
        "documents": 1234, "sources": {"python_stdlib": {"licence": "PSF-2.0"}}, "splits": ["train", "valid"]}))
    corpus = finish(folders["corpus"], "corpus", "toy/corpus", {})
    save_model(random_decoder(vocab_size=320, seed=1), folders["base"], tokenizer=byte_level())
    base = finish(folders["base"], "model", "toy/base", {"corpus": corpus}, steps=50, valid_bits_per_byte=1.7312)
    save_model(random_decoder(vocab_size=320, seed=2), folders["tuned"], tokenizer=byte_level())
    tuned = finish(folders["tuned"], "model", "toy/tuned", {"base": base}, steps=9)
    (folders["scores"] / "results.json").write_text(json.dumps({
        "models": [{"name": "base", "digest": base.digest}, {"name": "tuned", "digest": tuned.digest}],
        "tasks": [{"task": "perplexity", "metric": "bits per byte", "unit": "bits", "better": "lower", "n": 77,
                   "rows": [{"model": "base", "value": 1.7312, "low": 1.71, "high": 1.75},
                            {"model": "tuned", "value": 1.65, "low": None, "high": None}],
                   "baselines": [{"name": "5-gram", "value": 1.86}]}],
        "gains": [{"text": "tuned improves on base"}]}))
    scores = finish(folders["scores"], "evaluation", "toy/scores", {"tuned": tuned})
    return {"corpus": corpus, "base": base, "tuned": tuned, "scores": scores}
