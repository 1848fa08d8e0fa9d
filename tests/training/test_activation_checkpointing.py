"""Made again, activations take less memory and gradients keep every bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gristmill.models import Decoder, DecoderConfig
from gristmill.models.config import MoEConfig
from gristmill.objectives import CausalLM
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.training.activation_checkpointing import check_checkpointing, checkpoint_activations

NOISY = {"dropout": 0.1, "attention_dropout": 0.1, "stochastic_depth": 0.2}
DENSE = DecoderConfig(vocab_size=64, dim=32, layers=4, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=64,
                      **NOISY)
SPARSE = DecoderConfig(family="moe", vocab_size=64, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64,
                       context=64, moe=MoEConfig(experts=4, active=2, mlp_dim=48, selection_bias=True, capacity=1.0,
                                                 balance_loss=0.01, z_loss=0.001), **NOISY)
CHOICES = ("selective", "full", 0.5, 0.0)


@pytest.fixture
def compiler():
    import torch._functorch.config as settings

    yield settings
    settings.activation_memory_budget = 1.0


def passed(config, choice, seed=3, **options):
    """Terms and gradients of one batch of rows with several documents."""
    model = Decoder(config)
    model.initialise(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)))
    model.train()
    checkpoint_activations(model, choice, **options)
    torch.manual_seed(seed)
    ids = torch.randint(0, 64, (4, 65), generator=torch.Generator().manual_seed(1))
    documents = (torch.arange(64) // 24).to(torch.int32).expand(4, -1)
    terms = with_router_losses(CausalLM(), config).terms(
        model, {"input_ids": ids[:, :-1], "targets": ids[:, 1:], "document_ids": documents})
    sum(terms.sums.values()).backward()
    drawn = torch.rand(())
    found = {name: p.grad for name, p in model.named_parameters()}
    found |= {name: value.detach() for name, value in terms.sums.items()}
    loads = {f"{n}.{k}": b for n, m in model.named_modules() for k, b in m.named_buffers(recurse=False)}
    return {**found, **loads, "next random number": drawn}, model


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("config", [DENSE, SPARSE], ids=["dense", "experts"])
def test_gradients_terms_loads_and_random_numbers_keep_every_bit(config, choice):
    expected, plain = passed(config, "none")
    found, model = passed(config, choice)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    for name, value in expected.items():
        assert (value is None and found[name] is None) or torch.equal(found[name], value), name


def test_another_draw_gives_other_gradients():
    """Or the test above would say nothing of dropout."""
    assert not torch.equal(passed(DENSE, "full")[0]["embedding.weight"],
                           passed(DENSE, "full", seed=4)[0]["embedding.weight"])


def peak(choice):
    """Bytes that a forward and backward pass allocate at most, beyond what is there before."""
    config = DecoderConfig(vocab_size=64, dim=64, layers=8, heads=4, kv_heads=4, head_dim=16, mlp_dim=256, context=128)
    model = Decoder(config)
    model.train()
    checkpoint_activations(model, choice)
    ids = torch.randint(0, 64, (8, 128), generator=torch.Generator().manual_seed(1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model.hidden(ids).sum().backward()
    held = largest = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            largest = max(largest, held)
    return largest


def test_memory_falls_in_the_order_of_what_is_kept():
    found = {choice: peak(choice) for choice in ("none", "selective", 0.5, "full")}
    assert found["full"] < 0.45 * found["none"]
    assert found["full"] < found["selective"] < 0.85 * found["none"]
    assert found["full"] < found[0.5] < 0.85 * found["none"]


def test_another_choice_takes_the_place_of_the_first():
    model = Decoder(DENSE)
    checkpoint_activations(model, "full")
    assert all("forward" in vars(block) for block in model.blocks)
    checkpoint_activations(model, 0.5)
    assert ["forward" in vars(block) for block in model.blocks] == [True, True, False, False]
    checkpoint_activations(model, "none")
    assert not any("forward" in vars(block) for block in model.blocks)


def test_without_gradients_nothing_is_made_again():
    model = Decoder(DENSE)
    checkpoint_activations(model, "full")
    calls = []
    model.blocks[0].attention.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.zeros(1, 8, dtype=torch.int64))
    assert calls == [1]


def test_a_budget_of_compiled_blocks_is_left_to_the_compiler(compiler):
    model = Decoder(DENSE)
    checkpoint_activations(model, 0.3, compiled=True)
    assert compiler.activation_memory_budget == 0.3
    assert not any("forward" in vars(block) for block in model.blocks)
    checkpoint_activations(model, "full", compiled=True)
    assert compiler.activation_memory_budget == 1.0
    assert all("forward" in vars(block) for block in model.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["selective", "full", 0.5])
def test_compiled_blocks_have_the_same_gradients(choice, compiler):
    """By the compiler's own partition into forward and backward, without generating code."""
    config = DecoderConfig(vocab_size=64, dim=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=16)
    ids = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))
    gradients = []
    for one in ("none", choice):
        torch._dynamo.reset()
        model = Decoder(config)
        torch.manual_seed(0)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
        checkpoint_activations(model, one, compiled=one != "none")
        if one != "none":
            for block in model.all_blocks:
                block.compile(dynamic=False, backend="aot_eager_decomp_partition")
        model.hidden(ids).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [-0.1, 1.5])
def test_a_budget_is_a_share(bad):
    with pytest.raises(ValueError, match="from 0"):
        check_checkpointing(bad)
