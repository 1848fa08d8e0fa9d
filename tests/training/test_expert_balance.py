"""Experts in the training loop: their balance over accumulation windows, kills, the best weights, and on real text."""

from __future__ import annotations

import dataclasses
import sysconfig
from pathlib import Path

import pytest
import torch

from gristmill.core.files import read_jsonl
from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config import MoEConfig
from gristmill.models.layers.moe import expert_layers
from gristmill.models.spec import ModelSpec
from gristmill.objectives import CausalLM
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.tokenizer.train import train_bpe
from gristmill.training import OptimizerConfig, Trainer, TrainingConfig, loop
from gristmill.training.device import prepare

EXPERTS = MoEConfig(experts=5, active=2, mlp_dim=16, shared=1, score="sigmoid", selection_bias=True, bias_rate=0.05,
                    z_loss=0.01)
TINY = DecoderConfig(family="moe", vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64,
                     context=32, moe=EXPERTS)


class Rows:
    """Windows of padded rows, a pure function of the step, cut into `pieces` micro-batches."""

    def __init__(self, pieces: int = 1, killed_at: int | None = None) -> None:
        self.pieces, self.killed_at = pieces, killed_at

    def window(self, step):
        if step == self.killed_at:
            raise KilledError
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 50, (4, 25), generator=generator)
        real = torch.arange(24) < torch.tensor([24, 9, 17, 3])[:, None]
        batch = {"input_ids": ids[:, :-1], "targets": ids[:, 1:].where(real, -100),
                 "document_ids": torch.where(real, 0, -1)}
        size = 4 // self.pieces
        return [{n: t[i : i + size] for n, t in batch.items()} for i in range(0, 4, size)]


class KilledError(Exception):
    pass


def trainer(folder: Path, config: DecoderConfig = TINY, *, steps: int = 8, source=None, evaluate=None, seed: int = 0,
            **settings) -> Trainer:
    model = Decoder(config)
    model.initialise(seed)
    with torch.no_grad():  # not zero as at the start of training, or no gradient would reach the routers
        for name, parameter in model.named_parameters():
            if name.endswith("down"):
                parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(seed))
    optimizer = OptimizerConfig(learning_rate=0.02, embedding_learning_rate=0.1)
    settings = {"optimizer": optimizer, "evaluations": 2, "checkpoint_seconds": 0.0} | settings
    return Trainer(model=model, objective=with_router_losses(CausalLM(), config), source=source or Rows(), steps=steps,
                   compute=prepare(Runtime(device="cpu", threads=1, precision="fp32")), folder=folder,
                   checkpoints=folder / "checkpoints", config=TrainingConfig(**settings), evaluate=evaluate)


def state(t: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in t.model.state_dict().items()}


def biases(found: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [tensor for name, tensor in found.items() if name.endswith("selection_bias")]


def test_one_window_is_the_same_however_it_is_cut(tmp_path):
    """Loads are counted over the whole window, so the bias moves by the same amount to the bit; the z-loss adds."""
    results = []
    for pieces in (1, 2, 4):
        t = trainer(tmp_path / str(pieces), source=Rows(pieces))
        records = [t.update(t.source.window(step)) for step in range(3)]
        results.append((records, state(t)))
    (expected, whole), *others = results
    assert all(float(bias.abs().max()) > 0 for bias in biases(whole))
    assert {"router_z", "router_max_load", "router_min_load"} <= expected[0].keys()
    for records, found in others:
        for mine, theirs in zip(records, expected, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
        for mine, theirs in zip(biases(found), biases(whole), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("capacity", [None, 0.8])
@pytest.mark.parametrize("cuts", [[1], [3, 6], [7]])
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path, cuts, capacity):
    config = dataclasses.replace(TINY, moe=dataclasses.replace(EXPERTS, capacity=capacity))
    whole = trainer(tmp_path / "whole", config)
    expected = whole.fit()
    for cut in cuts:
        with pytest.raises(KilledError):
            trainer(tmp_path / "cut", config, source=Rows(killed_at=cut)).fit()
    t = trainer(tmp_path / "cut", config, seed=9)
    assert t.fit() == expected
    for (name, mine), theirs in zip(state(t).items(), state(whole).values(), strict=True):
        assert torch.equal(mine, theirs), name
    lines = (tmp_path / "cut" / "trace.jsonl").read_bytes()
    assert lines == (tmp_path / "whole" / "trace.jsonl").read_bytes()
    dropped = [record.get("router_dropped") for record in read_jsonl(tmp_path / "cut" / "trace.jsonl")]
    assert dropped == [None] * 8 if capacity is None else all(0 < share < 0.5 for share in dropped)


def test_the_best_weights_come_with_their_bias_and_evaluation_moves_nothing(tmp_path):
    seen = {}

    def evaluate(model, step):
        before = [(layer.selection_bias.clone(), layer.load.clone()) for layer in expert_layers(model)]
        model(torch.randint(0, 50, (2, 20)))
        for layer, (bias, load) in zip(expert_layers(model), before, strict=True):
            assert torch.equal(layer.selection_bias, bias)
            assert torch.equal(layer.load, load)
        seen[step] = [bias for bias, _ in before]
        return {"score": abs(step - 4)}

    t = trainer(tmp_path, evaluate=evaluate, keep_best=True)
    t.fit()
    assert sorted(seen) == [0, 4, 8]
    for found, best, last in zip(biases(state(t)), seen[4], seen[8], strict=True):
        assert torch.equal(found, best)
        assert not torch.equal(found, last)


class Text:
    """Random windows of the standard library's source."""

    def __init__(self) -> None:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:40]
        texts = [file.read_text(errors="ignore") for file in files]
        tokenizer = train_bpe([texts], vocab_size=768)
        self.ids = torch.tensor([number for text in texts for number in tokenizer.encode(text)])

    def window(self, step):
        starts = torch.randint(0, len(self.ids) - 129, (8,), generator=torch.Generator().manual_seed(step))
        rows = torch.stack([self.ids[start : start + 129] for start in starts.tolist()])
        return [{"input_ids": rows[:, :-1], "targets": rows[:, 1:]}]


@pytest.mark.slow
def test_real_text_loads_all_experts_alike_without_a_loss_for_it(tmp_path, monkeypatch):
    """Within 10 % of the even share over the last 40 of 120 updates, and at no cost; without the bias one expert takes
    more than twice its share."""
    text, results = Text(), {}
    for rate in (0.01, 0.0):
        options = {"moe": {"experts": 8, "active": 2, "bias_rate": rate}}
        config, _ = ModelSpec(family="moe", depth=2, dim=64, context=128, options=options).resolve(768)
        loads: list[torch.Tensor] = []

        def counted(model, *how, loads=loads, rebalance=loop.rebalance):
            loads.append(torch.stack([layer.load.double() for layer in expert_layers(model)]))
            return rebalance(model, *how)

        t = trainer(tmp_path / str(rate), config, steps=120, source=text, evaluations=1)
        assert t.objective.weights == {"loss": 1.0}
        with monkeypatch.context() as patched:
            patched.setattr(loop, "rebalance", counted)
            final = t.fit()
        late = torch.stack(loads[-40:]).sum(0)
        results[rate] = final["final_loss"], late / late.mean(1, keepdim=True)
    (balanced_loss, balanced), (free_loss, free) = results[0.01], results[0.0]
    assert float((balanced - 1).abs().max()) < 0.1, balanced
    assert float(free.max()) > 2
    assert balanced_loss < free_loss + 0.03
