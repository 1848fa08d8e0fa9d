"""Stages whose rows are cut in training: held-out losses, predictions and fine-tuning are those of one process."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gristmill.core.artifact import Artifact
from gristmill.core.files import read_jsonl
from gristmill.core.stage import Runtime, StageContext
from gristmill.data.documents import Document, row, write_shard
from gristmill.finetuning.instructions import InstructionFile
from gristmill.finetuning.stage import Finetune, Replay
from gristmill.models.config.moe import MoEConfig
from gristmill.models.spec import ModelSpec
from gristmill.objectives import CausalLM
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.tokenizer.train import train_bpe
from gristmill.training.loop import TrainingConfig
from gristmill.training.optimizers import OptimizerConfig
from gristmill.training.parallel import Layout
from gristmill.training.parallel.apply import parallelise
from gristmill.training.predictions import Prompt
from gristmill.training.pretrain import Budget, Pretrain
from gristmill.training.validation import validate
from tests.training.parallel.parity import COMPUTE, cut, made, rows, tiny
from tests.training.parallel.ranks import run_ranks, world_of

TEXTS = [f"the mill turns {number % 7} times and grinds {number} grains of wheat " * 3 for number in range(60)]
TRAINING = TrainingConfig(evaluations=2, checkpoint_seconds=0.0, optimizer=OptimizerConfig(kind="adamw"))
EXPERTS: dict[str, Any] = {"family": "moe", "moe": MoEConfig(experts=4, active=2, mlp_dim=16)}


# -- on the ranks ------------------------------------------------------------------------------------------------------


def evaluated(rank: int, text: str, changes: dict[str, Any]) -> list[str]:
    """What differs from one process: before an update and after it, with fewer rows than processes and with more."""
    config, world, task, wrong = tiny(**changes), world_of(Layout.parse(text)), CausalLM(), []
    model = made(config)
    oracle = copy.deepcopy(model).eval()
    passes = parallelise(model, task, None, world, COMPUTE)
    assert passes.whole
    for again in range(2):
        model.eval()
        held_out = [rows(config, count, seed=count) for count in (1, 3, 8)]
        found = passes.within(lambda inner, data=held_out: validate(inner, data, COMPUTE, world=world))
        expected = validate(oracle, held_out, COMPUTE)
        assert found.keys() == expected.keys()
        wrong += [f"{again}, {name}: {found[name]} and {value}" for name, value in expected.items()
                  if abs(found[name] - value) > 1e-6 * abs(value)]
        logits = passes.within(lambda inner, data=held_out: inner(data[1]["input_ids"]))
        far = float((logits - oracle(held_out[1]["input_ids"])).detach().abs().max())
        if far > 1e-5:
            wrong.append(f"{again}, logits: {far:.1e}")
        model.train()  # rows are cut again: a whole one would be noticed, and gradients would be counted twice
        data = rows(config, 8)
        sums, _ = passes.run(cut(data, world), {"loss": 1.0})
        with torch.no_grad():
            whole = float(task.terms(oracle, data).sums["loss"])
        if abs(float(world.sum(sums["loss"], "updates")) - whole) > 1e-6 * whole:
            wrong.append(f"{again}, update")
    return wrong


def losses_of_experts(rank: int, text: str) -> dict[str, float]:
    """Of copies of one row, more of them than processes and fewer."""
    config = tiny(**EXPERTS | {"moe": dataclasses.replace(EXPERTS["moe"], balance_loss=0.1, z_loss=0.1)})
    model, task = made(config), with_router_losses(CausalLM(), config)
    data = [{name: tensor[1:2].repeat(count, 1) for name, tensor in rows(config).items()} for count in (3, 1)]
    if text == "none":
        return validate(model, data, COMPUTE, task)
    world = world_of(Layout.parse(text))
    passes = parallelise(model, task, None, world, COMPUTE)
    score = None if passes.whole else passes.score
    model.eval()
    within = passes.within if passes.whole else lambda use: use(model)
    return within(lambda inner: validate(inner, data, COMPUTE, task, score=score, world=world))


def runtime(text: str, precision: Any = "fp32") -> Runtime:
    return Runtime(device="cpu", threads=1, compile="never", precision=precision, parallel=text)


def stages(rank: int, text: str, folder: str, precision: str = "fp32") -> None:
    """A model from text, and conversations after it."""
    place = Path(folder)
    inputs = {name: artifact(place / name, name) for name in ("corpus", "tokenizer")}
    base = Pretrain(
        corpus="corpus", tokenizer="tokenizer", budget=Budget(steps=4), batch=4, validation_tokens=400,
        model=ModelSpec(depth=1, dim=32, heads=2, context=64), training=TRAINING,
        prompts=[Prompt(text="the mill turns", true=" 3 times"), Prompt(text="and grinds", true=" 5 grains")])
    tuned = Finetune(
        model="base", data=InstructionFile(path=str(place / "conversations.jsonl"), valid=0.3), steps=4, batch=4,
        context=64, replay=Replay(corpus="corpus", share=0.25), training=TRAINING)
    for name, stage in (("base", base), ("tuned", tuned)):
        work = place / precision / text / name
        work.mkdir(parents=True, exist_ok=True)
        stage.run(StageContext(name=f"r/{name}@1", seed=5, work=work, cache=place / precision / text / "cache",
                               inputs=inputs, runtime=runtime(text, precision)))
        if Layout.parse(text).processes > 1:
            dist.barrier()  # until the first process has written the model
        inputs[name] = artifact(work, "model")


def artifact(path: Path, kind: str) -> Artifact:
    return Artifact(path, {"kind": kind, "name": kind, "digest": f"{kind} 1", "version": 1})


# -- here --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "text", "changes"), [
    (2, "context=2", {}), (2, "context=2,context_method=ring", {}), (2, "context=2,expert=2", EXPERTS),
    (4, "context=2,shard=2", {}), (4, "context=2,tensor=2", {"kv_heads": 2})])
def test_held_out_losses_and_logits_are_those_of_one_process(size, text, changes):
    assert run_ranks(evaluated, size, text, changes) == [[]] * size


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("stages")
    for split, part in (("train", TEXTS[:50]), ("valid", TEXTS[50:])):
        write_shard(place / "corpus" / "documents" / f"{split}-00000.parquet", [
            row(Document(id=f"{split}{i}", text=text, source="mill", metadata={}), split=split)
            for i, text in enumerate(part)])
    train_bpe([TEXTS], vocab_size=290).save(place / "tokenizer")
    (place / "conversations.jsonl").write_text("".join(json.dumps(
        {"prompt": f"what grinds {n} grains?", "completion": f"the mill grinds {n}"}) + "\n" for n in range(60)))
    for precision in ("fp32", "bf16"):
        stages(0, "none", str(place), precision)
    return place


@pytest.mark.parametrize("text", ["replicate=2", "shard=2", "context=2", "tensor=2", "pipeline=2"])
def test_held_out_losses_of_experts_are_those_of_one_process(text):
    expected = losses_of_experts(0, "none")
    assert {"router_balance", "router_z"} < expected.keys()
    for found in run_ranks(losses_of_experts, 2, text):
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("text", "precision"), [
    ("context=2", "fp32"), ("context=2,context_method=ring", "fp32"), ("tensor=2", "fp32"), ("shard=2", "bf16"),
    ("shard=2,tensor=2", "bf16")])
def test_pretraining_and_fine_tuning_are_those_of_one_process(folder, text, precision):
    run_ranks(stages, Layout.parse(text).processes, text, str(folder), precision)
    folder, far = folder / precision, 1 if precision == "fp32" else 2000
    for stage in ("base", "tuned"):
        alone, together = folder / "none" / stage, folder / text / stage
        for file in ("trace", "evaluations"):
            expected, found = read_jsonl(alone / f"{file}.jsonl"), read_jsonl(together / f"{file}.jsonl")
            assert len(found) == len(expected) >= 2
            for mine, theirs in zip(found, expected, strict=True):
                assert mine.keys() == theirs.keys()
                numbers = [name for name, value in theirs.items() if isinstance(value, (int, float))]
                assert [mine[name] for name in numbers] == pytest.approx(
                    [theirs[name] for name in numbers], rel=1e-5 * far)
    predictions = [read_jsonl(folder / layout / "base" / "evaluations.jsonl")[-1] for layout in ("none", text)]
    assert len(predictions[0]["prompts"]) == 2
    if precision == "fp32":
        assert predictions[0]["samples"] == predictions[1]["samples"]
    for mine, theirs in zip(*(found["prompts"] for found in predictions), strict=True):
        assert mine["true_probability"] == pytest.approx(theirs["true_probability"], abs=2e-6 * far)


def test_fine_tuning_asks_for_a_layout_of_whole_models_with_all_that_it_keeps(folder, monkeypatch):
    def chosen(text, work, compute):
        raise KeyboardInterrupt(work)

    monkeypatch.setattr("gristmill.finetuning.stage.choose_layout", chosen)
    tuned = Finetune(
        model="base", data=InstructionFile(path=str(folder / "conversations.jsonl"), valid=0.3), batch=4, context=64,
        training=TrainingConfig(activation_checkpointing="full", optimizer=OptimizerConfig(kind="sgd")))
    with pytest.raises(KeyboardInterrupt) as caught:
        tuned.run(StageContext(
            name="r/tuned@1", seed=5, work=folder, cache=folder / "cache", runtime=runtime("auto"),
            inputs={"base": artifact(folder / "fp32" / "none" / "base", "model")}))
    work = caught.value.args[0]
    assert (work.checkpointing, work.optimizer, work.scores_whole, work.micro_batch) == ("full", "momentum", True, 4)
