"""The compiled attention against the reference in fp32: values, gradients, documents, windows, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.compiler import compiler_problem
from gristmill.models import decoder
from gristmill.models.layers import attention as module
from gristmill.models.layers import cpu_attention as kernel
from gristmill.models.layers.attention import attention, blocked, reference
from gristmill.models.layers.masks import CAUSAL, FULL, Pattern
from gristmill.models.layers.rotary import Rotary, rotate
from tests.models.random_models import random_decoder

pytestmark = pytest.mark.skipif(not kernel.ready(), reason="this machine cannot run it")


def tensors(heads, kv_heads, time, size, batch=2, seed=0):
    """q, k, v in bf16, with time before heads in memory, as projections leave them."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, time, count, size, generator=generator).bfloat16().transpose(1, 2).requires_grad_()
            for count in (heads, kv_heads, kv_heads)]


def with_gradients(backend, inputs, slope, *args, **options):
    out = backend(*inputs, *args, **options)
    return (out, *torch.autograd.grad(out, inputs, slope.to(out.dtype)))


def distance(one, other):
    """Relative to the size of `other`; where that is near nothing (keys of a window of one), to numbers of 1."""
    return float(((one.float() - other).norm() / other.norm().clamp(min=other.numel() ** 0.5)).detach())


def check(inputs, documents, pattern, scale=None, within=0.006):
    slope = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(7)).bfloat16()
    wide = [x.detach().float().requires_grad_() for x in inputs]
    expected = with_gradients(reference, wide, slope.float(), documents, pattern=pattern, scale=scale)
    assert kernel.takes(*inputs[:2], pattern)
    found = with_gradients(attention, inputs, slope, documents, pattern=pattern, scale=scale)
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert ours.isfinite().all()
        assert distance(ours, exact) < within  # bf16 keeps 8 bits: 0.002 to 0.004


@settings(max_examples=40, deadline=None)
@given(time=st.integers(1, 600), size=st.sampled_from([32, 64, 96, 128]), groups=st.sampled_from([1, 2, 4]),
       causal=st.booleans(), window=st.none() | st.integers(1, 200), packed=st.booleans(), seed=st.integers(0, 99))
def test_values_and_gradients_equal_the_reference(time, size, groups, causal, window, packed, seed):
    documents = None
    if packed:  # from none to many boundaries, and not in rising order
        starts = torch.rand(2, time, generator=torch.Generator().manual_seed(seed)) < 0.02
        documents = (starts.cumsum(1) * 7 % 5) - 1
    pattern = Pattern(causal=causal, window=window)
    check(tensors(4, 4 // groups, time, size, seed=seed), documents, pattern, None if seed % 2 else 0.3)


@pytest.mark.parametrize("time", [1, 31, 32, 33, 128, 257, 511])
def test_lengths_around_a_block(time):
    check(tensors(2, 2, time, 64), None, CAUSAL)
    check(tensors(2, 2, time, 64), None, FULL)


def test_large_scores_do_not_overflow_and_hidden_ones_do_not_leak():
    q, k, v = tensors(2, 2, 130, 64)
    with torch.no_grad():
        q.mul_(60)
    # A softmax of nearly one: what its gradient is the difference of was rounded to bf16.
    check([q, k, v], (torch.arange(130) // 33).expand(2, -1), CAUSAL, within=0.02)
    before = attention(q, k, v)
    with torch.no_grad():
        v[:, :, 100] = float("inf")
        k[:, :, 100] = 1000
    after = attention(q, k, v)
    assert torch.equal(before[:, :, :96], after[:, :, :96])  # squares of 32


def test_what_is_packed_with_a_document_changes_no_bit_of_it():
    """Resume and serving rely on it: results do not hang on neighbours in the batch or on the number of threads."""
    q, k, v = tensors(2, 1, 200, 64, batch=3)
    whole = attention(q, k, v)
    assert torch.equal(attention(q[1:2], k[1:2], v[1:2]), whole[1:2])
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        slope = torch.ones_like(whole)
        many = with_gradients(attention, [q, k, v], slope)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(with_gradients(attention, [q, k, v], slope), many, strict=True):
        assert torch.equal(one, other)


def test_any_layout_in_memory_gives_the_same():
    q, k, v = tensors(2, 2, 70, 64)
    expected = attention(q, k, v)
    assert torch.equal(attention(q.contiguous(), k.transpose(2, 3).contiguous().transpose(2, 3), v), expected)
    joined = torch.cat([x.transpose(1, 2).flatten(2) for x in (q, k, v)], dim=-1)
    parts = [x.unflatten(-1, (2, 64)).transpose(1, 2) for x in joined.split(128, dim=-1)]
    assert torch.equal(attention(*parts), expected)


def test_under_autocast_inputs_of_fp32_are_cast():
    q, k, v = (x.detach().float() for x in tensors(2, 2, 50, 64))
    assert not kernel.takes(q, k, CAUSAL)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(q, k, v)
        assert found.dtype == torch.bfloat16
        assert distance(found, reference(q, k, v)) < 0.006


@pytest.mark.parametrize("changes", [
    {"prefix": torch.zeros(2, 40, dtype=torch.bool)}, {"bias": torch.zeros(1, 2, 40, 40)}, {"dropout": 0.1},
    {"pattern": Pattern(stride=4)}, {"pattern": Pattern(window=3, dilation=2)},
    {"pattern": Pattern(window=2, block=4)}, {"pattern": Pattern(window=4, global_tokens=1)}], ids=str)
def test_everything_else_takes_the_way_in_torch(changes, monkeypatch):
    monkeypatch.setattr(module, "cpu_attention", lambda *_: pytest.fail("not for the kernel"))
    q, k, v = tensors(2, 2, 40, 64)
    attention(q, k, v, **changes)
    attention(q[:, :, 10:20], k, v, pattern=CAUSAL, first=10)
    attention(*tensors(2, 2, 40, 24))


@pytest.mark.skipif(compiler_problem() is not None, reason="no compiler")
def test_compiled_it_is_one_graph_and_an_operator_by_the_book():
    inputs = tensors(2, 1, 70, 32)
    documents = (torch.arange(70) // 30).expand(2, -1)
    compiled = torch.compile(attention, fullgraph=True)(*inputs, documents)
    assert torch.equal(compiled, attention(*inputs, documents))
    torch.library.opcheck(torch.ops.gristmill.cpu_attention.default,
                          (*inputs, documents.int(), True, 0, 0.125),
                          test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def test_without_it_blocks_of_torch_do_the_same(monkeypatch):
    inputs = tensors(2, 2, 90, 64)
    ours = attention(*inputs)
    monkeypatch.setattr(kernel, "ready", lambda: False)
    monkeypatch.setattr(module, "cpu_attention", lambda *_: pytest.fail("not ready"))
    assert distance(ours, attention(*inputs).float()) < 0.008
    assert torch.equal(attention(*inputs), blocked(*inputs))


def turned_reference(joined, heads, kv_heads, angles, documents, pattern):
    """What the joined operator computes, in as many steps as it saves."""
    q, k, v = (part.unflatten(-1, (count, -1)).transpose(1, 2) for count, part in zip(
        (heads, kv_heads, kv_heads), joined.unflatten(-1, (heads + 2 * kv_heads, -1)).split(
            [heads, kv_heads, kv_heads], dim=2), strict=True) for part in [part.flatten(2)])
    if angles is not None:
        q, k = rotate(q, *angles), rotate(k, *angles)
    return reference(q, k, v, documents, pattern=pattern).transpose(1, 2).flatten(2)


@settings(max_examples=30, deadline=None)
@given(time=st.integers(1, 200), size=st.sampled_from([32, 64, 96]), groups=st.sampled_from([1, 2]),
       window=st.none() | st.integers(1, 90), packed=st.booleans(), turned=st.sampled_from(["none", "all", "each"]),
       seed=st.integers(0, 99))
def test_side_by_side_and_turned_it_equals_the_steps(time, size, groups, window, packed, turned, seed):
    generator, heads, kv_heads = torch.Generator().manual_seed(seed), 4, 4 // groups
    joined = torch.randn(2, time, (heads + 2 * kv_heads) * size, generator=generator).bfloat16().requires_grad_()
    documents = torch.randint(0, 2, (2, time), generator=generator).cumsum(1) // 9 if packed else None
    angles = None
    if turned != "none":  # positions of all rows, or of each
        positions = torch.randint(0, 1000, (1 if turned == "all" else 2, time), generator=generator)
        angles = Rotary(size, 10_000.0)(positions)
    pattern, slope = Pattern(window=window), torch.randn(2, time, heads * size, generator=generator).bfloat16()
    assert kernel.takes_joined(joined, size, pattern)
    found = kernel.joined_attention(joined, heads, kv_heads, angles, documents, pattern)
    wide = joined.detach().float().requires_grad_()
    exact = turned_reference(wide, heads, kv_heads, angles, documents, pattern)
    assert found.dtype == torch.bfloat16
    assert distance(found, exact) < 0.006
    ours, theirs = torch.autograd.grad(found, joined, slope)[0], torch.autograd.grad(exact, wide, slope.float())[0]
    assert ours.dtype == torch.bfloat16
    assert distance(ours, theirs) < 0.006


def test_side_by_side_in_any_layout_and_an_operator_by_the_book():
    joined, angles = torch.randn(2, 70, 4 * 64).bfloat16(), Rotary(64, 10_000.0)(torch.arange(70)[None])
    expected = kernel.joined_attention(joined, 2, 1, angles, None, CAUSAL)
    wide = torch.cat([joined, joined], dim=-1)[..., :256]
    assert torch.equal(kernel.joined_attention(wide, 2, 1, angles, None, CAUSAL), expected)
    turned = joined.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(kernel.joined_attention(turned, 2, 1, angles, None, CAUSAL), expected)
    inputs = (joined.requires_grad_(), *angles, None, 2, 1, True, 0, 0.125)
    torch.library.opcheck(torch.ops.gristmill.cpu_joined_attention.default, inputs,
                          test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"attention_dropout": 0.1}, {"qkv_bias": True},
                                     {"window": 8}], ids=str)
def test_a_model_takes_it_where_nothing_else_lies_between(changes, monkeypatch):
    model = random_decoder(vocab_size=96, dim=64, heads=2, kv_heads=1, head_dim=32, **changes)
    inputs = torch.randint(0, 96, (4, 40), generator=torch.Generator().manual_seed(1))
    calls = []
    monkeypatch.setattr(decoder, "joined_attention",
                        lambda *given: calls.append(given) or kernel.joined_attention(*given))
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(inputs)
    assert bool(calls) == (not changes.keys() & {"qk_norm", "attention_dropout"})
    if "attention_dropout" in changes:
        return
    exact = model(inputs).detach()
    monkeypatch.setattr(decoder, "takes_joined", lambda *_: False)
    with torch.autocast("cpu", torch.bfloat16):
        apart = model(inputs)
    assert distance(found, exact) < max(0.01, 1.2 * distance(apart, exact))
