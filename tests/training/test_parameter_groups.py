"""Exceptions by name among the parameters, and matrices that are stacked."""

from __future__ import annotations

import pytest
import torch

from gristmill.core.errors import UserError
from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config import MoEConfig
from gristmill.training.optimizers import GroupRule, Muon, OptimizerConfig, build_optimizer

TINY = DecoderConfig(vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=32)
EXPERTS = DecoderConfig(family="moe", vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64,
                        context=32, moe=MoEConfig(experts=4, active=2, mlp_dim=16, shared=1, shared_gate=True))


def settings_by_name(model: Decoder, config: OptimizerConfig) -> dict[str, dict]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, config).param_groups
    return {names[p]: group for group in groups for p in group["params"]}


@pytest.mark.parametrize("kind", ["muon", "adamw", "adam", "sgd", "adafactor", "lion", "adamw8bit"])
def test_the_first_rule_that_fits_a_name_holds_and_the_others_stay_as_they_were(kind):
    model = Decoder(TINY)
    rules = [GroupRule(pattern="blocks.0.mlp.*", weight_decay=0.5), GroupRule(pattern="blocks.*.mlp.*", weight_decay=0),
             GroupRule(pattern="*norm.weight", learning_rate=0.0), GroupRule(pattern="embedding.*", weight_decay=0.3)]
    plain = settings_by_name(model, OptimizerConfig(kind=kind, weight_decay=0.1, learning_rate=0.02))
    found = settings_by_name(model, OptimizerConfig(kind=kind, weight_decay=0.1, learning_rate=0.02, groups=rules))
    assert found.keys() == plain.keys() == {name for name, _ in model.named_parameters()}
    for name, group in found.items():
        decay, rate = plain[name]["weight_decay"], plain[name]["peak_lr"]
        if ".mlp." in name:
            decay = 0.5 if name.startswith("blocks.0.") else 0.0
        elif name.endswith("norm.weight"):
            rate = 0.0
        elif name.startswith("embedding"):
            decay = 0.3
        assert (group["weight_decay"], group["peak_lr"]) == (decay, rate), name
        assert group["decays"] == plain[name]["decays"]
    assert found["blocks.0.mlp.up.weight"]["name"] == "matrices: blocks.0.mlp.*"


def test_a_rate_of_zero_leaves_the_weights_as_they_are():
    torch.manual_seed(0)
    model = Decoder(TINY)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(groups=[GroupRule(pattern="blocks.0.*", learning_rate=0.0)]))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("blocks.0."), name


@pytest.mark.parametrize(("rule", "said"), [
    ({"pattern": " ", "weight_decay": 0.1}, "pattern.*must not be empty"),
    ({"pattern": "*"}, "say what is to differ"),
    ({"pattern": "*", "learning_rate": -1.0}, "learning_rate.*must not be negative"),
    ({"pattern": "*", "weight_decay": -1.0}, "weight_decay.*must not be negative"),
])
def test_rules_that_say_nothing_or_the_impossible_are_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        GroupRule(**rule)


def test_a_pattern_that_fits_no_name_is_refused_with_the_names():
    config = OptimizerConfig(groups=[GroupRule(pattern="blocks.*", weight_decay=0.1),
                                     GroupRule(pattern="layers.*", weight_decay=0.1)])
    with pytest.raises(UserError, match=r"'layers\.\*'") as caught:
        build_optimizer(Decoder(TINY), config)
    assert caught.value.where == "optimizer.groups.1.pattern"
    assert "embedding.weight" in caught.value.fix


def test_stacked_experts_are_updated_as_that_many_matrices():
    """Each expert has its own direction: what another's gradient is changes nothing."""
    torch.manual_seed(0)
    values, gradient = torch.randn(3, 8, 12), torch.randn(3, 8, 12)
    stacked = torch.nn.Parameter(values.clone())
    alone = [torch.nn.Parameter(value.clone()) for value in values]
    stacked.grad = gradient.clone()
    for parameter, part in zip(alone, gradient, strict=True):
        parameter.grad = part.clone()
    Muon([stacked], lr=0.1).step()
    Muon(alone, lr=0.1).step()
    for ours, theirs in zip(stacked, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)
    assert float((stacked.detach() - values).abs().max()) > 1e-3


def test_experts_and_routers_are_matrices():
    model = Decoder(EXPERTS)
    found = settings_by_name(model, OptimizerConfig(weight_decay=0.1))
    for name in ("experts.gate", "experts.down", "shared.up.weight", "router.weight", "shared_gate.weight"):
        group = found[f"blocks.1.mlp.{name}"]
        assert group["name"] == "matrices", name
        assert group["weight_decay"] == 0.1
