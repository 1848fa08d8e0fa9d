"""The compiled pass between a head's products, as a GPU runs it, against the plain form on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gristmill.core.compiler import compiler_problem
from gristmill.objectives import gpu_head
from gristmill.objectives.base import IGNORED
from gristmill.objectives.cross_entropy import head_loss
from gristmill.objectives.known_targets import Known, counted_rows, knows
from gristmill.objectives.r_drop import symmetric_divergence

OPTIONS = {"plain": {}, "smoothed": {"label_smoothing": 0.1, "z_loss": 1e-2}, "capped": {"soft_cap": 3.0}}


@pytest.fixture
def as_on_gpu(monkeypatch):
    """A CPU that takes this way, not compiled; says which shapes it was given."""
    shapes = []

    def rows(logits, *args, **kwargs):
        shapes.append(tuple(logits.shape))
        return gpu_head.rows(logits, *args, **kwargs)

    monkeypatch.setattr(gpu_head, "takes", lambda hidden, head: True)
    monkeypatch.setattr(gpu_head, "compiled_rows", lambda: rows)
    return shapes


def numbers(tokens=50, vocab=33, ignored=0.3, seed=0):
    torch.manual_seed(seed)
    hidden, head = torch.randn(tokens, 16, requires_grad=True), nn.Parameter(torch.randn(vocab, 16))
    targets = torch.randint(0, vocab, (tokens,))
    targets[torch.rand(tokens) < ignored] = IGNORED
    return hidden, head, targets


def found_by(numbers, chunk, bias=None, known=None, **options):
    hidden, head, targets = numbers
    with knows(known):
        parts = head_loss(hidden, head, targets, chunk, bias=bias, **options)
        with torch.no_grad():
            again = head_loss(hidden, head, targets, chunk, bias=bias, **options)
    for one, other in zip(parts, again, strict=True):
        torch.testing.assert_close(one.detach(), other)
    leaves = [hidden, head] if bias is None else [hidden, head, bias]
    return [part.detach() for part in parts], torch.autograd.grad(2.5 * parts.total, leaves)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("told", ["nothing", "rows", "weights"])
@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_it_is_the_plain_form(options, told, ignored, monkeypatch, request):
    given = numbers(ignored=ignored)
    bias = torch.randn(33, requires_grad=True)
    known = {"nothing": None, "rows": Known(given[2], counted_rows(given[2])), "weights": Known(given[2], weighed=True)}
    plain = found_by(given, 16, bias, **options)
    shapes = request.getfixturevalue("as_on_gpu")
    fused = found_by(given, 16, bias, known[told], **options)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    assert set(shapes) == ({(16, 33)} if ignored < 1 or told == "weights" else set()), "the last chunk is as long"


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 40), vocab=st.integers(2, 60), ignored=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_bf16_logits_become_their_gradient(tokens, vocab, ignored, seed):
    hidden, head, targets = numbers(tokens, vocab, ignored, seed)
    kept = targets != IGNORED
    logits = (2 * hidden @ head.t()).detach().bfloat16()
    wide = logits.float().requires_grad_()
    loss = torch.nn.functional.cross_entropy(wide, targets, reduction="none", ignore_index=IGNORED)
    loss.sum().backward()
    right = wide.argmax(-1) == targets
    found = gpu_head.rows(logits, targets.masked_fill(~kept, 0), kept.float(), None, label_smoothing=0.0, z_loss=0.0,
                          soft_cap=None, slopes=True)
    torch.testing.assert_close(found.losses[kept], loss[kept].detach())
    assert torch.equal(found.hits[kept], right[kept])
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits, wide.grad.bfloat16(), rtol=1e-2, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem() is not None, reason="no compiler")
def test_compiled_in_one_graph_it_is_the_same():
    hidden, head, targets = numbers(ignored=0)
    found = []
    for rows in (gpu_head.rows, torch.compile(gpu_head.rows, dynamic=False, fullgraph=True)):
        logits = (hidden @ head.t()).detach()
        found.append([logits, *rows(logits, targets, torch.arange(50.0), None, label_smoothing=0.1, z_loss=1e-2,
                                    soft_cap=3.0, slopes=True)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_chunks_are_bounded_by_tokens_and_by_bytes():
    assert gpu_head.chunk_of(16_384, 50_304, torch.bfloat16) == 8192
    assert gpu_head.chunk_of(4096, 50_304, torch.bfloat16) == 4096
    assert gpu_head.chunk_of(16_384, 250_000, torch.bfloat16) * 250_000 * 2 <= 2**30
    assert gpu_head.chunk_of(16_384, 50_304, torch.float32) * 50_304 * 4 <= 2**30


@pytest.mark.parametrize("fused", [False, True])
def test_a_sum_of_gradients_that_fp16_cannot_hold_is_scaled_before_it_is_rounded(fused, monkeypatch, request):
    """Every token wants the same word: the head's row gets the sum of all states, 160,000, times 1 / tokens."""
    if fused:
        request.getfixturevalue("as_on_gpu")
    hidden, head = torch.full((2000, 4), 80.0, requires_grad=True), nn.Parameter(torch.zeros(4, 4))
    with torch.autocast("cpu", torch.float16):
        loss = head_loss(hidden, head, torch.zeros(2000, dtype=torch.int64), 500).total
    (loss * 65_536.0 / 2000 * 2).backward()
    assert torch.isfinite(head.grad).all()
    torch.testing.assert_close(head.grad[0], torch.full((4,), -0.75 * 80.0 * 65_536 * 2), rtol=1e-3, atol=0)
    assert head.grad.dtype == torch.float32


def test_r_drop_keeps_the_head_s_gradient_in_fp32(monkeypatch):
    from gristmill.objectives.cross_entropy import head_calls

    head, calls = nn.Parameter(torch.randn(5, 4)), []
    for seed in range(2):
        torch.manual_seed(seed)
        with head_calls() as noted, torch.autocast("cpu", torch.float16):
            head_loss(torch.randn(3000, 4, requires_grad=True), head, torch.zeros(3000, dtype=torch.int64))
        calls += noted
    gradient, = torch.autograd.grad(1e5 * symmetric_divergence(*calls), head)
    assert gradient.dtype == torch.float32
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().max()) > torch.finfo(torch.float16).max
