"""Baselines: xz by its own rules, lineage to the pretrained model, and the very tokens that it saw."""

import lzma

import numpy as np
import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.files import write_json
from gristmill.evaluation.baselines import (
    input_artifact,
    pretrained_ancestor,
    tokens_seen,
    xz_bytes,
    xz_overhead,
)
from gristmill.tokens import PackedBatches, materialise


@pytest.fixture
def shards(world):
    return materialise(world.artifacts["corpus"], world.tokenizer, "train", world.folder / "cache")


def test_xz_is_what_the_library_gives_and_can_be_undone():
    text = "für alle Fälle\n" * 50
    packed = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
    assert lzma.decompress(packed).decode() == text
    assert xz_bytes(text) == len(packed)
    assert 32 <= xz_overhead() <= 80


def test_a_tuned_model_leads_back_to_the_pretrained_one_and_its_corpus(world):
    base = pretrained_ancestor(world.artifacts["aligned"])
    assert base is not None
    assert base.digest == world.artifacts["base"].digest
    corpus = input_artifact(base, "corpus")
    assert corpus is not None
    assert corpus.path.samefile(world.artifacts["corpus"].path)


def test_lineage_ends_where_an_input_is_gone(world, tmp_path):
    write_json(tmp_path / "artifact.json", {
        "kind": "model", "name": "x/y", "version": 1, "digest": "d", "inputs": {
            "m": {"kind": "model", "digest": "gone", "path": "../nowhere@1"}}})
    assert pretrained_ancestor(Artifact.open(tmp_path)) is None


def test_tokens_seen_are_exactly_those_of_the_training_batches(world, shards):
    stretches = tokens_seen(world.artifacts["base"], shards)
    batches = PackedBatches(shards, context=64, batch=2, seed=11)
    visited = np.zeros(shards.total_tokens, dtype=bool)
    for step in range(5):
        for start in batches.order.at(step) * 64:
            visited[start:start + 65] = True
    assert sum(map(len, stretches)) == visited.sum()
    everything = shards.slice(0, shards.total_tokens)
    np.testing.assert_array_equal(np.concatenate(stretches), everything[visited])
    bos, eos = world.tokenizer.document_start_id, world.tokenizer.document_end_id
    for stretch in stretches:  # no stretch leaves its document
        assert not (stretch[1:] == bos).any()
        assert not (stretch[:-1] == eos).any()


def test_a_model_that_saw_everything_saw_every_window_once(world, shards, tmp_path):
    plan = {"steps": 500, "batch": 2, "context": 64, "seed": 1, "tokens": 64000, "corpus_tokens": shards.total_tokens}
    write_json(tmp_path / "plan.json", plan)
    model = Artifact(tmp_path, {"kind": "model", "name": "x", "digest": "d"})
    assert sum(map(len, tokens_seen(model, shards))) == (shards.total_tokens - 1) // 64 * 64 + 1


@pytest.mark.parametrize("change", [{"corpus_tokens": 5}, {"tokens_digest": "of other tokens"}])
def test_tokens_of_another_corpus_are_refused(world, shards, tmp_path, change):
    plan = {"steps": 5, "batch": 2, "context": 64, "seed": 11, "tokens": 1, "corpus_tokens": shards.total_tokens}
    write_json(tmp_path / "plan.json", plan | change)
    with pytest.raises(UserError, match="not the tokens that the model was trained on"):
        tokens_seen(Artifact(tmp_path, {"kind": "model", "name": "x", "digest": "d"}), shards)


def test_a_model_without_plan_says_so(world, shards):
    with pytest.raises(UserError, match="no pretraining plan"):
        tokens_seen(world.artifacts["aligned"], shards)
