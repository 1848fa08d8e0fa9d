"""Penalties on the size of weights: their value, their gradient, and what they do in training."""

from __future__ import annotations

import copy

import pytest
import torch

from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import CausalLM
from gristmill.objectives.penalties import penalise, weight_penalty
from gristmill.training import OptimizerConfig, Trainer, TrainingConfig
from gristmill.training.device import prepare
from gristmill.training.parallel import Layout
from gristmill.training.parallel.apply import parallelise
from tests.training.parallel import parity
from tests.training.parallel.ranks import run_ranks, world_of

TINY = DecoderConfig(vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=32)


def test_value_and_gradient_are_those_of_the_formula():
    weights = [torch.tensor([[1.0, -2.0], [0.0, 3.0]], requires_grad=True), torch.tensor([-4.0], requires_grad=True)]
    found = weight_penalty(weights, l1=0.1, l2=0.01)
    assert found.item() == pytest.approx(0.1 * 10 + 0.005 * 30)
    found.backward()
    torch.testing.assert_close(weights[0].grad, torch.tensor([[0.11, -0.12], [0.0, 0.13]]))
    torch.testing.assert_close(weights[1].grad, torch.tensor([-0.14]))
    assert weight_penalty(weights, l1=0.1).item() == pytest.approx(1.0)
    assert weight_penalty(weights, l2=1.0).item() == pytest.approx(15.0)
    assert weight_penalty(weights).item() == weight_penalty([], l1=1.0, l2=1.0).item() == 0.0


def trainer(folder, **settings) -> Trainer:
    model = Decoder(TINY)
    model.initialise(0)
    config = TrainingConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=0.01), clip=0.0, **settings)
    return Trainer(model=model, objective=CausalLM(), source=None, steps=10, folder=folder, config=config,
                   compute=prepare(Runtime(device="cpu", threads=1, precision="fp32")), checkpoints=folder)


def window(step: int, pieces: int = 1) -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(0, 50, (4, 17), generator=torch.Generator().manual_seed(step))
    return [{"input_ids": part[:, :-1], "targets": part[:, 1:]} for part in ids.chunk(pieces)]


def size(model: torch.nn.Module, power: int) -> float:
    """Sum of |w|^power over what is penalised: matrices but the embedding."""
    return sum(float(p.abs().pow(power).sum()) for name, p in model.named_parameters()
               if p.ndim > 1 and not name.startswith("embedding"))


def test_the_loss_is_reported_without_the_penalty_and_an_update_adds_it_once(tmp_path):
    """However the window is cut."""
    plain = trainer(tmp_path / "0").update(window(0))
    results = []
    for pieces in (1, 2, 4):
        t = trainer(tmp_path / str(pieces), l1=1e-3, l2=0.02)
        expected = 1e-3 * size(t.model, 1) + 0.01 * size(t.model, 2)
        record = t.update(window(0, pieces))
        assert record["loss"] == pytest.approx(plain["loss"], rel=1e-5)
        assert record["penalty"] == pytest.approx(expected, rel=1e-5)
        assert record["grad_norm"] != pytest.approx(plain["grad_norm"], rel=1e-2)
        results.append(record["grad_norm"])
    assert results[1:] == pytest.approx(results[:1] * 2, rel=1e-4)
    assert "penalty" not in plain


def test_penalties_make_matrices_smaller_and_leave_vectors_and_the_embedding_alone(tmp_path):
    def after(**settings):
        t = trainer(tmp_path, **settings)
        penalised = {id(p) for p in t.penalised}
        for name, parameter in t.model.named_parameters():
            assert (id(parameter) in penalised) == (parameter.ndim > 1 and not name.startswith("embedding")), name
        for step in range(10):
            t.update(window(step))
        return t.model

    free, lasso, ridge = after(), after(l1=0.01), after(l2=0.1)
    assert size(lasso, 1) < 0.95 * size(free, 1)
    assert size(ridge, 2) < 0.95 * size(free, 2)


def _penalised(rank: int, text: str) -> tuple[float, float]:
    """Errors of the penalty and of the worst gradient against one process."""
    world, config = world_of(Layout.parse(text)), parity.tiny(moe=True)
    model, data = parity.made(config), parity.rows(config)
    oracle = copy.deepcopy(model)
    parity.alone(oracle, CausalLM(), data, world.data_size)
    passes = parallelise(model, CausalLM(), None, world, parity.COMPUTE)
    parity.together(passes, CausalLM(), data, world)
    values = [float(penalise([p for p in each.parameters() if p.ndim > 1], 1e-3, 0.02, 0.5))
              for each in (oracle, model)]
    errors = parity.compare(parity.gradients(model), parity.gradients(oracle))
    return abs(values[1] / values[0] - 1), max(errors.values())


@pytest.mark.parametrize("layout", ["shard=2", "shard=2,expert=2", "tensor=2", "context=2,expert=2"])
def test_weights_on_two_processes_are_penalised_as_on_one(layout):
    assert max(map(max, run_ranks(_penalised, 2, layout))) < 1e-5


@pytest.mark.parametrize("layout", ["shard=2,tensor=2", "replicate=2,shard=2,expert=2", "tensor=2,shard=2,expert=2"])
def test_weights_on_two_meshes_are_penalised_as_on_one_process(layout):
    assert max(map(max, run_ranks(_penalised, 4, layout))) < 1e-5


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_a_negative_penalty_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}.*must not be negative"):
        TrainingConfig(**{name: -0.1})
