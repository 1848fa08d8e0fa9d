"""Every objective teaches: from equal weights exactly as transformers does, from our own better. benchmarks/learning
holds the contests; the stored results are those of the whole ones."""

from __future__ import annotations

import gzip
import importlib
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.learning import compare, masked_lm
from benchmarks.learning.compare import Contest, Loss, Losses
from gristmill.core.files import read_json
from gristmill.models.spec import ModelSpec
from gristmill.objectives.base import attach
from gristmill.objectives.masking import Masking
from gristmill.objectives.pretraining import (
    KINDS,
    MaskedLanguageModelling,
    MultiTokenPrediction,
    NextSentencePrediction,
    TranslationLanguageModelling,
)
from tests.models.random_encoders import tiny_config
from tests.objectives.parallel_text import NUMBERS, WORDS, masking_tokenizer, shards_of, translated

CONTESTS: dict[str, Contest] = {
    kind: importlib.import_module(f"benchmarks.learning.{kind}").CONTEST for kind in (*KINDS, "moe")}
SMALL = {"depth": 1, "dim": 32, "heads": 2}


def small(contest: Contest, **changes) -> Contest:
    """In seconds: rows of 48 tokens of one module of the standard library, or of a counting rhyme."""
    spec = {**contest.spec, **SMALL} | ({"mlp_dim": 48} if contest.kind == "moe" else {})
    spec = {name: value for name, value in spec.items() if name != "kv_heads"}
    return replace(contest, **{
        "spec": spec, "others": {}, "context": 48, "batch": 8, "vocabulary": 440 if len(contest.special) > 1 else 330,
        **changes})


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    """Files that are read as the shared ones are."""
    folder = tmp_path_factory.mktemp("texts")
    prose = (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_text("utf-8").splitlines()
    lines = [" ".join(prose[start:start + 20]) for start in range(0, 800, 20)]
    pairs = [" ".join(WORDS[(3 * i + j) % 10] for j in range(2 + i % 5)) + "\t" + " ".join(
        NUMBERS[(3 * i + j) % 10] for j in range(2 + i % 5)) for i in range(60)]
    found = {}
    for name, content in (("prose", lines), ("pairs", pairs)):
        found[name] = folder / f"{name}.gz"
        found[name].write_bytes(gzip.compress("\n".join(content).encode()))
    return found


def text_of(contest: Contest, texts: dict[str, Path]) -> Path:
    return texts["pairs" if contest.kind == "translation_lm" else "prose"]


def minimised(loss: Loss) -> Loss:
    """Reports all of what is minimised: the judgement of pairs, the balance of experts."""

    def whole(model, batch) -> Losses:
        return (loss(model, batch)[1],) * 2

    return whole


class Untimed(dict):
    """No time at all: how long it took says more about this computer. The stored results are held to their limit."""

    def __missing__(self, name: str) -> float:
        return 0.0


def masked(**options) -> Contest:
    return replace(CONTESTS["masked_lm"], objective=MaskedLanguageModelling(**options))


TWINS = {
    **{kind: contest for kind, contest in CONTESTS.items() if contest.same},
    "multi_token, further tokens for nothing": replace(
        CONTESTS["multi_token"], objective=MultiTokenPrediction(weight=0.0)),
    "roberta, whole words, full sentences": replace(
        masked(masking=Masking(unit="word"), cross_documents=True), spec={"family": "roberta"}),
    "xlm-roberta, spans": replace(masked(masking=Masking(unit="span")), spec={"family": "xlm-roberta"}),
    "sentence order": replace(CONTESTS["next_sentence"], objective=NextSentencePrediction(negatives="swapped")),
    "denoisers, no sentinels to spare": replace(CONTESTS["denoisers"], special=compare.SPECIAL[4:14]),
}


@pytest.mark.parametrize("name", TWINS)
def test_from_equal_weights_the_curve_is_the_public_one(name, texts):
    """Ten steps of AdamW on the same batches, packed here and padded or masked there; weights are four times as large
    as first ones, so that attention is far from even."""
    pytest.importorskip("transformers")
    contest = small(TWINS[name])
    material = compare.prepare(contest, text_of(contest, texts), 10)
    documents = [batch["document_ids"] for batch in material.batches]
    config = material.configs["ours"]
    torch.manual_seed(1)
    theirs = contest.peer(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 2 and contest.spec["family"] != "t5":
                parameter.mul_(4)
    ours, objective = compare.same_weights(theirs), compare.objective_of(contest, config)
    attach(objective, ours)
    wanted = compare.train(theirs, minimised(lambda model, batch: contest.their_loss(model, batch, config)),
                           material.batches, compare.plain_adamw(theirs))
    found = compare.train(ours, minimised(compare.our_loss(objective)), material.batches, compare.plain_adamw(ours))
    assert found == pytest.approx(wanted, rel=1e-4)
    assert sum(found[-3:]) < sum(found[:3])
    packed = any(len(row[row >= 0].unique()) > 1 for rows in documents for row in rows)
    assert packed or contest.kind == "next_sentence" or "full sentences" in name, "some rows hold several documents"


@pytest.mark.parametrize("kind", CONTESTS)
def test_our_optimizer_from_our_weights_learns_a_few_rows_by_heart(kind, texts):
    contest = small(CONTESTS[kind])
    material = compare.prepare(contest, text_of(contest, texts), 2)
    model, loss, optimizer = compare.fresh(contest, material.configs["ours"], 0)
    curve = compare.train(model, loss, material.batches * 25, optimizer, lambda step: 1 - step / 50)
    assert sum(curve[-4:]) < 0.75 * sum(curve[:4])


@pytest.mark.verify
@pytest.mark.parametrize("kind", CONTESTS)
def test_on_real_text_it_learns_more_than_frequencies_and_more_than_the_public_model(kind):
    pytest.importorskip("transformers")
    path = CONTESTS[kind].file()
    if path is None:
        pytest.skip(f"the shared text {CONTESTS[kind].text} is not here")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        compare.assert_learnt(compare.compare(CONTESTS[kind], path, 300) | {"seconds": Untimed()})
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", CONTESTS)
def test_the_stored_result_shows_it(kind):
    path = compare.RESULTS / f"{kind}.json"
    assert path.is_file(), f"there is no stored result; python -m benchmarks.learning.{kind} makes one"
    stored = read_json(path)
    compare.assert_learnt(stored)
    contest = CONTESTS[kind]
    runs = {"ours", "theirs", *contest.others} | ({"ours_from_their_weights"} if contest.same else set())
    assert stored["curves"].keys() == stored["valid_loss"].keys() == runs
    assert {len(curve) for curve in stored["curves"].values()} == {stored["steps"]}
    settings = stored["settings"]
    assert (settings["ours"], settings["context"], settings["batch"]) == (
        dict(contest.spec), contest.context, contest.batch), "run the contest again"
    assert settings["objective"]["kind"] == contest.objective.kind


def test_a_result_that_shows_nothing_is_refused():
    good = {"valid_loss": {"ours": 3.0, "theirs": 3.5, "ours_from_their_weights": 3.501}, "unigram_entropy": 5.0,
            "seconds": {"ours": 60.0}}
    compare.assert_learnt(good)
    for change in ({"ours": 4.9}, {"ours": 3.6}, {"ours_from_their_weights": 3.6}, {"ours_fine": 3.7}):
        with pytest.raises(AssertionError):
            compare.assert_learnt({**good, "valid_loss": {**good["valid_loss"], **change}, "seconds": {
                "ours": 60.0, "ours_fine": 60.0}})
    with pytest.raises(AssertionError):
        compare.assert_learnt({**good, "seconds": {"ours": 200.0}})


def test_the_mixtures_of_experts_and_the_dense_model_are_about_as_much_work():
    contest = CONTESTS["moe"]
    configs = [ModelSpec(**{**spec, "context": 128}).resolve(2048)[0]
               for spec in (contest.spec, *contest.others.values())]
    work = [config.matmul_parameters for config in configs]
    assert len(work) == 3
    assert max(work) < 1.05 * min(work)


def test_a_packed_row_is_unpacked_token_by_token(tmp_path):
    tokenizer = masking_tokenizer()
    shards = shards_of(tmp_path / "shards", translated(12))
    config = tiny_config("xlm", vocab_size=640, context=64, pad_id=tokenizer.pad_id, languages=("en", "de"))
    batch = TranslationLanguageModelling(languages=["en", "de"], monolingual=0.0).batches(
        shards, tokenizer, context=64, batch=3, seed=0).batch(0)
    made = masked_lm.unpacked(batch, config)
    real = batch["document_ids"] >= 0
    kept = made["attention_mask"].bool()
    assert len(made["input_ids"]) == sum(len(np.unique(row[row >= 0])) for row in batch["document_ids"].numpy()) > 3
    for ours, public in (("input_ids", "input_ids"), ("targets", "labels"), ("langs", "langs"),
                         ("positions", "position_ids")):
        assert torch.equal(batch[ours][real], made[public][kept])
    assert (made["labels"][~kept] == -100).all()
    assert (made["input_ids"][~kept] == tokenizer.pad_id).all()
