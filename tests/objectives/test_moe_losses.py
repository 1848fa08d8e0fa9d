"""Losses of routers against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config import MoEConfig
from gristmill.models.layers.moe import Routing, rebalance
from gristmill.objectives import CausalLM
from gristmill.objectives.moe_losses import RouterLosses, balance_loss, with_router_losses, z_loss
from gristmill.training.reading import nothing


def routing(logits: torch.Tensor, active: int, real=None) -> Routing:
    scores = logits.softmax(-1)
    return Routing(logits, scores, scores.topk(active).indices, real)


def random_routings(layers: int = 3, tokens: int = 40, experts: int = 6, active: int = 2, real=None) -> list[Routing]:
    generator = torch.Generator().manual_seed(0)
    return [routing(torch.randn(tokens, experts, generator=generator) * 2, active, real) for _ in range(layers)]


@pytest.mark.parametrize("padded", [False, True])
def test_the_pooled_balance_loss_is_that_of_transformers(padded):
    oracle = pytest.importorskip("transformers.models.mixtral.modeling_mixtral").load_balancing_loss_func
    real = torch.arange(40).view(2, 20) % 20 < torch.tensor([[20], [7]]) if padded else None
    routings = random_routings(real=None if real is None else real.flatten())
    expected = oracle(tuple(r.logits for r in routings), 6, 2, None if real is None else real.long())
    assert float(balance_loss(routings, pooled=True)) == pytest.approx(float(expected), abs=1e-6)
    assert float(balance_loss(routings)) != pytest.approx(float(expected), abs=1e-3)
    alone = [float(oracle((r.logits,), 6, 2, None if real is None else real.long())) for r in routings]
    assert float(balance_loss(routings)) == pytest.approx(sum(alone) / 3, abs=1e-6)


def test_equal_loads_have_the_least_balance_loss():
    even = torch.eye(4).repeat(5, 1) * 3
    assert float(balance_loss([routing(even, 1)])) == pytest.approx(1.0, abs=1e-6)
    leaning = even.clone()
    leaning[:, 0] += 5
    assert float(balance_loss([routing(leaning, 1)])) > 3


def test_the_z_loss_is_the_sum_of_squared_log_partitions_of_real_tokens():
    logits = torch.tensor([[0.0, 0.0], [1.0, 2.0], [9.0, 9.0]])
    expected = math.log(2) ** 2 + (math.log(math.exp(1) + math.exp(2))) ** 2
    real = torch.tensor([True, True, False])
    assert float(z_loss([routing(logits, 1, real)] * 2)) == pytest.approx(expected, rel=1e-6)


CONFIG = {"vocab_size": 50, "dim": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp_dim": 16,
          "context": 32}


def model(**moe) -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(family="moe", **CONFIG, moe=MoEConfig(experts=4, active=2, **moe)))


def batch(rows: int = 4, padded: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 50, (rows, 12), generator=torch.Generator().manual_seed(rows))
    real = torch.arange(12) < (torch.arange(rows)[:, None] + 6 if padded else torch.full((rows, 1), 12))
    return {"input_ids": ids, "targets": ids.where(real, -100), "document_ids": torch.where(real, 0, -1)}


def test_models_without_experts_and_coefficients_of_zero_change_nothing():
    objective = CausalLM()
    for config in (DecoderConfig(**CONFIG), model().config, model(selection_bias=True).config):
        assert with_router_losses(objective, config) is objective
    objective = with_router_losses(objective, model(z_loss=0.2).config)
    assert set(objective.terms(model(), batch()).sums) == set(objective.weights) == {"loss", "router_z"}


def test_terms_reach_the_routers_and_z_adds_over_micro_batches():
    config = model(balance_loss=0.1, z_loss=0.2).config
    objective = with_router_losses(CausalLM(), config)
    assert isinstance(objective, RouterLosses)
    assert objective.weights == {"loss": 1.0, "router_balance": 0.1, "router_z": 0.2}
    whole = batch(4)
    one = model(balance_loss=0.1, z_loss=0.2)
    terms = objective.terms(one, whole)
    counts = objective.counts(whole)
    assert counts["router_z"] == int((whole["document_ids"] >= 0).sum()) == 30
    assert counts["router_balance"] == 1
    for name in ("router_balance", "router_z"):
        gradient, = torch.autograd.grad(terms.sums[name], one.blocks[1].mlp.router.weight, retain_graph=True)
        assert float(gradient.abs().sum()) > 0
    halves = [objective.terms(one, {n: t[i : i + 2] for n, t in whole.items()}).sums["router_z"] for i in (0, 2)]
    assert sum(halves).item() == pytest.approx(terms.sums["router_z"].item(), rel=1e-5)
    assert one.blocks[1].mlp.routing is None


def test_a_micro_batch_of_padding_teaches_routers_nothing():
    """What a process runs whose rows are used up while others still have some."""
    one, empty = model(balance_loss=0.1, z_loss=0.2), nothing(batch(4))
    objective = with_router_losses(CausalLM(), one.config)
    assert set(objective.counts(empty).values()) == {0}
    sums = objective.terms(one, empty).sums
    assert {name: value.item() for name, value in sums.items()} == {"loss": 0, "router_balance": 0, "router_z": 0}
    sum(sums.values()).backward()
    assert all(not weight.grad.any() for weight in one.parameters() if weight.grad is not None)


def test_a_balance_loss_evens_leaning_routers():
    """Gradient descent on nothing but the loss makes every expert busy."""
    one = model(balance_loss=1.0)
    with torch.no_grad():
        one.embedding.weight.add_(1.0)  # what all tokens have in common, and one expert likes
        for block in one.blocks:
            block.mlp.router.weight.mul_(0.1)
            block.mlp.router.weight[0] += 0.2
    objective = with_router_losses(CausalLM(), one.config)
    routers = [block.mlp.router.weight for block in one.blocks]
    optimizer = torch.optim.Adam(routers, lr=0.02)
    data = batch(16, padded=False)
    one.train()
    loads = []
    for _ in range(140):
        terms = objective.terms(one, data)
        loads.append(rebalance(one)["router_max_load"])
        optimizer.zero_grad()
        terms.sums["router_balance"].backward()
        optimizer.step()
    assert loads[0] > 1.9  # of 2, where all tokens choose it
    assert loads[-1] < 1.25
