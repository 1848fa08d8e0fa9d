"""What benchmarks/pretrain_cpu.py compares is the same work: sizes, losses, updates."""

from __future__ import annotations

import argparse
import importlib.util
import json

import pytest
import torch

from benchmarks import pretrain_cpu
from benchmarks.training_steps import SHAPES, Ours, Shape, hugging_face, plain
from gristmill.training.device import prepare

TINY = Shape(64, 2, 2, 32, 2)


@pytest.fixture(autouse=True)
def settings_of_the_process():
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_all_contestants_have_equal_parameters_and_count_equal_flops():
    ours = Ours(TINY, compiled=False)
    for other in (hugging_face(TINY, bf16=False, compiled=False), plain(TINY, bf16=False, compiled=False)):
        assert parameters(other.model) == parameters(ours.model)
    head_and_blocks = parameters(ours.model) - TINY.dim * 8192 - (2 * TINY.layers + 1) * TINY.dim
    attention = 6 * TINY.layers * TINY.dim * TINY.context
    assert TINY.flops == pytest.approx(TINY.tokens * (6 * head_and_blocks + attention), rel=0.01)
    assert [shape.mlp_dim for shape in SHAPES.values()] == [704, 1408]


def test_every_contestant_learns_a_batch_and_starts_at_the_entropy_of_its_vocabulary():
    batch = pretrain_cpu.random_batches(TINY, 1)[0]
    for model in (Ours(TINY, bf16=False, compiled=False), hugging_face(TINY, bf16=False, compiled=False),
                  plain(TINY, bf16=False, compiled=False)):
        model.settle()
        losses = [float(model.step(*batch)) for _ in range(6)]
        assert losses[0] == pytest.approx(9.01, abs=0.35)
        assert losses[-1] < losses[0] - 0.05


def test_from_equal_weights_ours_and_the_plain_model_take_equal_steps():
    """The comparison of speed is one of equal mathematics."""
    ours, other = Ours(TINY, bf16=False, compiled=False), plain(TINY, bf16=False, compiled=False)
    with torch.no_grad():
        other.model.embedding.weight.copy_(ours.model.embedding.weight)
        other.model.head.weight.copy_(ours.model.head.weight)
        for mine, block in zip(ours.model.blocks, other.model.blocks, strict=True):
            for parameter in mine.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.1)
            block.qkv.weight.copy_(torch.cat([mine.attention.query.weight, mine.attention.key.weight,
                                              mine.attention.value.weight]))
            block.out.weight.copy_(mine.attention.output.weight)
            block.gate_up.weight.copy_(torch.cat([mine.mlp.gate.weight, mine.mlp.up.weight]))
            block.down.weight.copy_(mine.mlp.down.weight)
    for norm in other.model.modules():
        if isinstance(norm, torch.nn.RMSNorm):
            norm.eps = ours.model.config.norm_eps
    batch = pretrain_cpu.random_batches(TINY, 1)[0]
    torch.set_float32_matmul_precision("highest")
    losses = [(float(ours.gradients(*batch)), float(other.gradients(*batch)))]
    assert losses[0][0] == pytest.approx(losses[0][1], abs=2e-5)
    ours_norm, other_norm = (
        torch.nn.utils.get_total_norm([p.grad for p in model.model.parameters()]) for model in (ours, other))
    torch.testing.assert_close(ours_norm, other_norm, atol=0, rtol=1e-4)


def test_settings_of_the_process_are_switched_with_each_contestant():
    other = hugging_face(TINY, bf16=True, compiled=False)
    ours = Ours(TINY, compiled=False)
    ours.settle()
    assert torch.get_float32_matmul_precision() == "medium"
    other.settle()
    assert torch.get_float32_matmul_precision() == "highest"
    assert prepare is not None


def test_a_peer_that_is_not_there_is_left_out_with_a_reason(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = pretrain_cpu.contestants(TINY, ["litgpt, bf16", "ours, not compiled"])
    assert list(found) == ["ours, not compiled"]
    assert "litgpt cannot be imported (see --peers)" in capsys.readouterr().err


def test_turns_measure_everyone_in_every_round(monkeypatch):
    found = pretrain_cpu.contestants(TINY, ["ours, not compiled", "hugging face, bf16"])
    monkeypatch.setattr(pretrain_cpu, "yardsticks", lambda shape: {"square 64": pretrain_cpu.matmul(64, 64, 64)})
    seconds, rates = pretrain_cpu.turns(TINY, found, 3)
    assert {name: len(steps) for name, steps in seconds.items()} == {"ours, not compiled": 3, "hugging face, bf16": 3}
    assert rates["square 64"] > 0


def test_rows_are_stored_one_a_name_and_peer(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_cpu, "RESULTS", dict.fromkeys(("amx", "avx512"), tmp_path / "stored.json"))
    pretrain_cpu.store("speed", {"name": "a", "peer": "x", "ratio": 1})
    pretrain_cpu.store("speed", {"name": "a", "peer": "y", "ratio": 2})
    pretrain_cpu.store("speed", {"name": "a", "peer": "x", "ratio": 3})
    rows = json.loads((tmp_path / "stored.json").read_text())["speed"]
    assert [(row["peer"], row["ratio"]) for row in rows] == [("x", 3), ("y", 2)]


class Falling:
    """A contestant whose loss falls by a fixed amount with each update."""

    def __init__(self, by: float) -> None:
        self.loss, self.by = 9.0, by

    def settle(self) -> None:
        pass

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        self.loss -= self.by
        return self.loss


def test_a_race_ends_for_each_where_it_reaches_the_loss():
    batch = pretrain_cpu.random_batches(TINY, 1)[0]
    found = pretrain_cpu.race(lambda step: batch, {"fast": Falling(0.5), "slow": Falling(0.25), "never": Falling(0.0)},
                              5.0, 60)
    assert found["fast"][1] < found["slow"][1] < 60
    assert found["never"][1] is None


@pytest.mark.slow
def test_bf16_learns_as_fp32_does(monkeypatch):
    monkeypatch.setattr(pretrain_cpu, "SMALL", Shape(64, 2, 2, 64, 4))
    bf16, fp32 = (pretrain_cpu.learn(arm, 0, 60) for arm in ("bf16", "fp32"))
    assert sum(fp32[-10:]) / 10 < fp32[0] - 1
    assert abs(sum(bf16[-10:]) - sum(fp32[-10:])) / 10 < 0.02


@pytest.mark.slow
def test_a_step_is_divided_into_products_attention_and_the_rest(monkeypatch):
    monkeypatch.setattr(pretrain_cpu, "SHAPES", {"tiny": TINY})
    names = {name: maker for name, maker in pretrain_cpu.MAKERS.items() if name == "ours"}
    monkeypatch.setattr(pretrain_cpu, "MAKERS", names)
    row, = pretrain_cpu.where(argparse.Namespace(shapes=["tiny"], rounds=1))
    assert row["products"] > 0
    assert row["attention"] > 0
    assert row["rest"] > 0
    assert row["ratio"] == 1
