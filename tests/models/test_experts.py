"""The expert layer against a loop over experts, its edges, and its balance."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.models.config import MoEConfig
from gristmill.models.layers.experts import Experts, can_group, grouped, looped, reference
from gristmill.models.layers.mlp import ACTIVATIONS, GATES, GatedMLP
from gristmill.models.layers.moe import MoE, rebalance, recorded


def stacks(experts: Experts) -> list[torch.Tensor]:
    return [weight for weight in (experts.gate, experts.up, experts.down) if weight is not None]


def gradients(out: torch.Tensor, given: list[torch.Tensor]) -> list[torch.Tensor]:
    total = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
    found = torch.autograd.grad(total, given, allow_unused=True)  # where every choice is dropped nothing is used
    return [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(given, found, strict=True)]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


@given(tokens=st.integers(1, 40), experts=st.integers(1, 9), data=st.data(), used=st.integers(1, 9),
       dim=st.sampled_from([4, 8, 7]), inner=st.sampled_from([4, 12, 5]),
       activation=st.sampled_from([*GATES, *ACTIVATIONS]), dropping=st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_path_and_its_gradients_equal_the_sum_written_out(
    tokens, experts, data, used, dim, inner, activation, dropping,
):
    """Any number of tokens and experts, experts that nobody chose included."""
    active = data.draw(st.integers(1, experts))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    layer = Experts(experts, dim, inner, activation)
    x = torch.randn(tokens, dim, generator=generator, requires_grad=True)
    ranked = torch.rand(tokens, experts, generator=generator)
    ranked[:, max(active, min(used, experts)):] -= 2  # the last ones stay empty
    chosen = ranked.topk(active).indices
    weights = torch.rand(tokens, active, generator=generator).requires_grad_()
    kept = torch.rand(tokens, active, generator=generator) < 0.7 if dropping else None
    inputs = [x, weights, *layer.parameters()]
    found = layer(x, chosen, weights, kept)
    expected = reference(x, chosen, weights if kept is None else weights * kept, stacks(layer), activation)
    close(found, expected)
    for mine, theirs in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        assert torch.isfinite(mine).all()
        close(mine, theirs)


@pytest.mark.parametrize("counts", [[0, 3, 0, 2], [5, 0, 0, 0], [0, 0, 0, 1], [2, 2, 2, 2]])
def test_the_grouped_product_equals_the_loop(counts):
    layer = Experts(4, 8, 12, "swiglu")
    rows, number = torch.randn(sum(counts), 8, requires_grad=True), torch.tensor(counts)
    assert can_group(rows, stacks(layer))
    outs = [path(rows, number, stacks(layer), "swiglu") for path in (grouped, looped)]
    close(*outs)
    for mine, theirs in zip(*(gradients(out, [rows, *stacks(layer)]) for out in outs), strict=True):
        close(mine, theirs)
        assert torch.isfinite(mine).all()


def test_widths_that_the_grouped_product_cannot_take_go_through_the_loop():
    assert not can_group(torch.randn(3, 6), stacks(Experts(2, 6, 8, "swiglu")))
    assert not can_group(torch.randn(3, 8), stacks(Experts(2, 8, 6, "swiglu")))
    assert not can_group(torch.randn(0, 8), stacks(Experts(2, 8, 8, "swiglu")))
    assert not can_group(torch.randn(3, 4).bfloat16(), stacks(Experts(2, 4, 8, "swiglu").bfloat16()))
    assert Experts(2, 8, 8, "swiglu")(torch.randn(0, 8), torch.zeros(0, 1).long(), torch.zeros(0, 1)).shape == (0, 8)


def test_one_expert_is_a_dense_feed_forward():
    torch.manual_seed(0)
    dense, sparse = GatedMLP(16, 24), MoE(16, MoEConfig(experts=1, active=1, mlp_dim=24), "swiglu")
    with torch.no_grad():
        for role in ("gate", "up", "down"):
            getattr(sparse.experts, role)[0] = getattr(dense, role).weight
    x = torch.randn(2, 5, 16)
    close(sparse(x), dense(x))


def test_all_experts_chosen_is_the_softmax_mixture():
    torch.manual_seed(0)
    layer = MoE(16, MoEConfig(experts=4, active=4, mlp_dim=24), "swiglu")
    x = torch.randn(1, 6, 16)
    every = torch.stack([reference(x[0], torch.full((6, 1), e), torch.ones(6, 1), stacks(layer.experts), "swiglu")
                         for e in range(4)], dim=1)
    close(layer(x)[0], (layer.router(x[0]).softmax(-1)[..., None] * every).sum(1))


def test_renormalised_softmax_is_the_softmax_over_the_chosen():
    torch.manual_seed(0)
    layer = MoE(16, MoEConfig(experts=6, active=2, mlp_dim=8), "swiglu")
    x = torch.randn(5, 16)
    logits, scores, chosen = layer.route(x)
    weights = scores.gather(1, chosen)
    close(weights / weights.sum(1, keepdim=True), logits.gather(1, chosen).softmax(-1))


def test_the_selection_bias_moves_choices_and_never_weights():
    torch.manual_seed(0)
    settings = MoEConfig(experts=5, active=1, mlp_dim=8, score="sigmoid", selection_bias=True, renormalise=False)
    layer = MoE(16, settings, "swiglu").eval()
    x = torch.randn(1, 7, 16)
    layer.selection_bias[3] = 100.0
    weight = layer.router(x[0]).sigmoid()[:, 3:4]
    close(layer(x)[0], reference(x[0], torch.full((7, 1), 3), weight, stacks(layer.experts), "swiglu"))
    layer(x).sum().backward()
    assert torch.isfinite(layer.router.weight.grad).all()
    assert layer.selection_bias.grad is None


def test_the_bias_moves_against_the_load_of_real_tokens_in_training_only():
    torch.manual_seed(0)
    layer = MoE(8, MoEConfig(experts=4, active=1, mlp_dim=8, selection_bias=True, bias_rate=0.5), "swiglu")
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[1] = 1.0
    x = torch.ones(1, 6, 8)
    x[:, 4:] = -1  # padding that would go elsewhere
    documents = torch.tensor([[0, 0, 0, 0, -1, -1]])
    layer.eval()(x, documents)
    assert layer.load.tolist() == [0, 0, 0, 0]
    layer.train()(x, documents)
    layer(x, documents)
    assert layer.load.tolist() == [0, 8, 0, 0]
    assert rebalance(layer) == {"router_max_load": 4, "router_min_load": 0}
    assert layer.selection_bias.tolist() == [0.5, -0.5, 0.5, 0.5]
    assert layer.load.tolist() == [0, 0, 0, 0]
    assert rebalance(layer) == {}, "nothing was computed"
    layer(x, documents)
    seen = rebalance(layer, total=lambda counts: torch.full_like(counts, 9))  # what other processes saw
    assert seen == {"router_max_load": 1, "router_min_load": 1}
    assert layer.selection_bias.tolist() == [0.5, -0.5, 0.5, 0.5]
    layer.reset_balance()
    assert layer.selection_bias.tolist() == [0.0] * 4


def test_capacity_drops_the_last_choices_in_training_and_none_elsewhere():
    torch.manual_seed(0)
    layer = MoE(8, MoEConfig(experts=4, active=2, mlp_dim=8, capacity=1.0), "swiglu")
    x = torch.randn(2, 9, 8)
    whole = layer.eval()(x)
    chosen = layer.route(x.flatten(0, 1))[2]
    kept = layer.within_capacity(chosen, None)
    short = layer.train()(x)
    room = 9  # 18 tokens x 2 / 4 experts
    for expert in range(4):
        mine = chosen == expert
        assert int((mine & kept).sum()) == min(room, int(mine.sum()))
        assert bool(kept[mine][:room].all()), "the first ones are kept"
    lost = ~kept.all(1)
    assert rebalance(layer)["router_dropped"] == pytest.approx(int((~kept).sum()) / 36)
    assert 0 < int(lost.sum()) < 18
    close(short.flatten(0, 1)[~lost], whole.flatten(0, 1)[~lost])
    assert not torch.allclose(short.flatten(0, 1)[lost], whole.flatten(0, 1)[lost])
    short.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_nothing_later_is_the_reason_that_a_token_is_dropped():
    torch.manual_seed(0)
    layer = MoE(8, MoEConfig(experts=4, active=2, mlp_dim=8, capacity=0.7), "swiglu").train()
    x = torch.randn(1, 12, 8)
    before = layer(x)
    x[:, 8:] = torch.randn(1, 4, 8)
    torch.testing.assert_close(layer(x)[:, :8], before[:, :8], atol=1e-6, rtol=1e-6)


def test_padding_takes_no_room():
    layer = MoE(8, MoEConfig(experts=2, active=1, mlp_dim=8, capacity=1.0), "swiglu").train()
    with torch.no_grad():
        layer.router.weight.zero_()  # all go to the same one
    documents = torch.tensor([[-1, -1, 0, 0, 0, 0, -1, -1]])
    x = torch.randn(1, 8, 8)
    out = layer(x, documents)
    kept = layer.within_capacity(layer.route(x[0])[2], documents[0] >= 0)[:, 0]
    assert kept.tolist() == [False, False, True, True, False, False, False, False]
    assert rebalance(layer) == {"router_max_load": 2, "router_min_load": 0, "router_dropped": 0.5}
    assert torch.isfinite(out).all()
    assert not out[0, ~kept].any()


def test_records_are_kept_inside_only_and_the_layer_can_be_copied():
    layer = MoE(8, MoEConfig(experts=3, active=2, mlp_dim=8), "swiglu")
    with recorded(layer) as routings:
        layer(torch.randn(1, 4, 8))
        assert routings()[0].logits.requires_grad
    assert layer.routing is None
    layer(torch.randn(1, 4, 8))
    assert layer.routing is None
    copy.deepcopy(layer)


def test_routing_is_in_full_precision_under_autocast():
    torch.manual_seed(0)
    layer = MoE(32, MoEConfig(experts=16, active=4, mlp_dim=16, shared=1), "swiglu")
    x = torch.randn(1, 50, 32)
    with torch.autocast("cpu", torch.bfloat16), recorded(layer) as routings:
        out = layer(x)
        inside = routings()[0]
    logits, _, chosen = layer.route(x[0])
    assert torch.equal(inside.logits, logits)
    assert torch.equal(inside.chosen, chosen)
    torch.testing.assert_close(out.float(), layer(x), atol=2e-2, rtol=5e-2)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.verify),
                                   pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_compiled_layer_computes_the_same(dtype, tmp_path, monkeypatch):
    from gristmill.core.compiler import compiler_problem

    if compiler_problem():
        pytest.skip(str(compiler_problem()))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # another's half-written files would be read
    torch.manual_seed(0)
    layer = MoE(16, MoEConfig(experts=4, active=2, mlp_dim=8, selection_bias=True, shared=1), "swiglu").train()
    fast = copy.deepcopy(layer)
    fast.compile(dynamic=False)
    enabled = dtype == "bfloat16"
    for seed in range(3):  # other loads every time
        x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(seed))
        results = []
        for one in (layer, fast):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled), recorded(one) as routings:
                out = one(x)
                results.append((out.float(), routings()[0].logits))
            (out.float().square().sum() + results[-1][1].square().sum()).backward()
            rebalance(one)
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs, atol=2e-2 if enabled else 1e-5, rtol=1e-2)
    assert torch.equal(layer.selection_bias, fast.selection_bias)
    for mine, theirs in zip(layer.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=5e-2 if enabled else 1e-4, rtol=5e-2)


def test_the_loop_is_left_out_of_compiled_graphs_and_never_traced_again():
    layer = Experts(4, 7, 5, "swiglu")  # widths that are not grouped
    graphs = []

    def kept(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(lambda x, chosen, weights: layer(x.sin(), chosen, weights).cos(), backend=kept)
    counts = []
    for experts in ([0, 1], [2, 2], [3, 0]):  # other loads every time, and experts that nobody chose
        x, weights = torch.randn(6, 7, requires_grad=True), torch.rand(6, 2)
        chosen = torch.tensor([experts] * 6)
        found, expected = compiled(x, chosen, weights), layer(x.sin(), chosen, weights).cos()
        assert torch.equal(found, expected)
        assert torch.equal(*(torch.autograd.grad(out.sum(), x)[0] for out in (found, expected)))
        counts.append(len(graphs))
    assert counts == [counts[0]] * 3


@pytest.mark.parametrize("room", ["models.layers.experts", "models", "training"])
def test_importing_does_not_load_the_compiler(room):
    asked = f"import sys, gristmill.{room}; print('torch._dynamo' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
