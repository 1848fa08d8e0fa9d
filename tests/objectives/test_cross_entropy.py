"""The chunked head against the plain one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gristmill.core.compiler import compiler_problem
from gristmill.objectives import cpu_head
from gristmill.objectives.cross_entropy import (
    IGNORED,
    head_loss,
    linear_cross_entropy,
    output_loss,
    sequence_log_probabilities,
)

BF16 = torch.empty(1, 1, dtype=torch.bfloat16)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 40), chunk=st.integers(1, 50), ignored=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_sum_accuracy_and_gradients_equal_the_plain_form(tokens, chunk, ignored, seed):
    torch.manual_seed(seed)
    targets = torch.randint(0, 17, (tokens,))
    targets[torch.rand(tokens) < ignored] = IGNORED
    hidden, head = torch.randn(tokens, 6, requires_grad=True), torch.randn(17, 6, requires_grad=True)
    total, correct = linear_cross_entropy(hidden, head, targets, chunk)
    (2.5 * total).backward()
    ours = hidden.grad.clone(), head.grad.clone()
    hidden.grad = head.grad = None
    logits = hidden @ head.t()
    plain = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    (2.5 * plain).backward()
    torch.testing.assert_close(total, plain, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours, (hidden.grad, head.grad), atol=1e-4, rtol=1e-5)
    assert int(correct) == int(((logits.argmax(-1) == targets) & (targets != IGNORED)).sum())


def test_without_gradients_the_same_sum():
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(30, 6), torch.randn(17, 6), torch.randint(0, 17, (30,))
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, head, targets, 7)
    torch.testing.assert_close(total, F.cross_entropy(hidden @ head.t(), targets, reduction="sum"))


def test_sequence_log_probabilities_sum_over_the_kept_targets():
    torch.manual_seed(0)
    hidden, head = torch.randn(3, 5, 6), torch.randn(17, 6)
    targets = torch.randint(0, 17, (3, 5))
    targets[1, 2:] = IGNORED
    targets[2] = IGNORED
    logs = (hidden @ head.t()).log_softmax(-1)
    expected = torch.stack([
        sum((logs[b, t, targets[b, t]] for t in range(5) if targets[b, t] != IGNORED), torch.zeros(()))
        for b in range(3)
    ])
    torch.testing.assert_close(sequence_log_probabilities(hidden, head, targets), expected)


def plain(hidden, head, targets, bias, smoothing, z, cap):
    """The same by the book: all logits at once."""
    logits = hidden @ head.t() + (0 if bias is None else bias)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    kept = targets != IGNORED
    total = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing)
    pure = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    squares = logits.logsumexp(-1)[kept].square().sum()
    return total + z * squares, pure, squares


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 40), chunk=st.integers(1, 50), ignored=st.floats(0, 1), seed=st.integers(0, 99),
       smoothing=st.sampled_from([0.0, 0.1, 0.9]), z=st.sampled_from([0.0, 1e-4, 0.3]), biased=st.booleans(),
       cap=st.sampled_from([None, 2.0, 30.0]))
def test_smoothing_z_loss_bias_and_cap_equal_the_plain_formula(tokens, chunk, ignored, seed, smoothing, z, biased, cap):
    torch.manual_seed(seed)
    targets = torch.randint(0, 17, (tokens,))
    targets[torch.rand(tokens) < ignored] = IGNORED
    hidden, head = torch.randn(tokens, 6, requires_grad=True), torch.randn(17, 6, requires_grad=True)
    bias = torch.randn(17, requires_grad=True) if biased else None
    leaves = [t for t in (hidden, head, bias) if t is not None]
    found = head_loss(hidden, head, targets, chunk, bias=bias, label_smoothing=smoothing, z_loss=z, soft_cap=cap)
    ours = torch.autograd.grad(2.5 * found.total, leaves)
    total, pure, squares = plain(hidden, head, targets, bias, smoothing, z, cap)
    expected = torch.autograd.grad(2.5 * total, leaves)
    assert close(found.total, total)
    assert close(found.cross_entropy, pure)
    assert close(found.z_squares, squares) if z else found.z_squares == 0
    assert all(close(one, other) for one, other in zip(ours, expected, strict=True))
    with torch.no_grad():
        again = head_loss(hidden, head, targets, chunk, bias=bias, label_smoothing=smoothing, z_loss=z, soft_cap=cap)
    assert close(again.total, total)
    assert close(again.cross_entropy, pure)
    assert again.correct == found.correct


def close(one, other):
    """Within 1e-6 of the largest magnitude, but not of less than 1."""
    return float((one - other).detach().abs().max()) <= 1e-6 * max(1.0, float(other.detach().abs().max()))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, torch.Tensor):
                self.elements = max(self.elements, made.numel())
        return result


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3, "soft_cap": 5.0}])
@pytest.mark.parametrize("gradients", [True, False])
def test_all_logits_never_exist_at_once(options, gradients):
    tokens, vocab, chunk = 600, 211, 50
    hidden, head = torch.randn(tokens, 8, requires_grad=gradients), torch.randn(vocab, 8, requires_grad=gradients)
    bias, targets = torch.zeros(vocab, requires_grad=gradients), torch.randint(0, vocab, (tokens,))
    targets[::7] = IGNORED
    with Largest() as seen:
        total, _ = linear_cross_entropy(hidden, head, targets, chunk, bias=bias, **options)
        if gradients:
            total.backward()
    assert vocab * chunk <= seen.elements < vocab * chunk + chunk
    assert seen.elements < vocab * tokens / 5


def test_ties_go_to_the_first_as_argmax_has_it():
    hidden, head = torch.eye(3, dtype=torch.float32), torch.tensor([[1., 0, 0], [1, 1, 0], [0, 1, 1]])
    for targets, right in (([0, 1, 2], 3), ([1, 2, 2], 1), ([1, 1, 1], 1)):
        _, correct = linear_cross_entropy(hidden, head, torch.tensor(targets))
        assert int(correct) == int(((hidden @ head.t()).argmax(-1) == torch.tensor(targets)).sum()) == right


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}])
def test_nothing_to_score_is_zero_with_zero_gradients(options):
    for tokens in (0, 5):
        hidden, head = torch.randn(tokens, 6, requires_grad=True), torch.randn(17, 6, requires_grad=True)
        total, correct = linear_cross_entropy(hidden, head, torch.full((tokens,), IGNORED), **options)
        total.backward()
        assert float(total) == int(correct) == 0
        assert not hidden.grad.any()
        assert not head.grad.any()


def test_under_autocast_products_are_narrow_and_sums_are_not():
    torch.manual_seed(0)
    hidden, head = torch.randn(300, 64, requires_grad=True), torch.randn(97, 64, requires_grad=True)
    targets = torch.randint(0, 97, (300,))
    with torch.autocast("cpu", torch.bfloat16):
        found = head_loss(hidden, head, targets, 64, bias=torch.randn(97), label_smoothing=0.1, z_loss=1e-4)
    found.total.backward()
    assert found.total.dtype == hidden.grad.dtype == head.grad.dtype == torch.float32
    narrow = hidden.bfloat16() @ head.bfloat16().t()
    assert narrow.dtype == torch.bfloat16
    exact = head_loss(hidden, head, targets, 64, label_smoothing=0.1, z_loss=1e-4).total
    assert float(found.total) == pytest.approx(float(exact), rel=0.05)


def test_a_frozen_head_gets_no_gradient_and_the_states_get_theirs():
    hidden, head, targets = torch.randn(9, 6, requires_grad=True), torch.randn(17, 6), torch.randint(0, 17, (9,))
    linear_cross_entropy(hidden, head, targets)[0].backward()
    logits = hidden.detach().requires_grad_()
    F.cross_entropy(logits @ head.t(), targets, reduction="sum").backward()
    torch.testing.assert_close(hidden.grad, logits.grad)
    assert head.grad is None


@pytest.mark.slow
def test_a_model_may_bring_its_own_head_loss():
    class Plain(nn.Module):
        head_weight = torch.eye(5)

    class Split(Plain):
        def head_loss(self, states, head, targets, **options):
            called.append(options)
            return head_loss(states, head, targets, **options)

    called: list = []
    states, targets = torch.randn(2, 3, 5), torch.tensor([[0, 1, 2], [3, IGNORED, 4]])
    plain = output_loss(Plain(), states, targets, z_loss=0.1)
    assert not called
    split = output_loss(Split(), states, targets, z_loss=0.1)
    assert called == [{"bias": None, "soft_cap": None, "label_smoothing": 0.0, "z_loss": 0.1}]
    assert plain == split


@pytest.mark.skipif(not cpu_head.takes(BF16, BF16), reason="this machine cannot run the compiled rows")
@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(1, 60), vocab=st.integers(2, 300), chunk=st.integers(1, 70), ignored=st.floats(0, 0.9),
       seed=st.integers(0, 99))
def test_rows_in_place_equal_the_plain_form(tokens, vocab, chunk, ignored, seed):
    """In bf16: loss, hits and gradients are those of the same logits in torch."""
    torch.manual_seed(seed)
    targets = torch.randint(0, vocab, (tokens,))
    targets[torch.rand(tokens) < ignored] = IGNORED
    hidden, head = (torch.randn(n, 16).mul_(2).bfloat16().requires_grad_() for n in (tokens, vocab))
    found = head_loss(hidden, head, targets, chunk)
    ours = torch.autograd.grad(1.5 * found.total, (hidden, head))
    logits = (hidden @ head.t()).float()
    plain = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    expected = torch.autograd.grad(1.5 * plain, (hidden, head))
    assert close(found.total, plain)
    assert torch.equal(found.total, found.cross_entropy)
    assert int(found.correct) == int(((logits.argmax(-1) == targets) & (targets != IGNORED)).sum())
    for one, other in zip(ours, expected, strict=True):
        assert float((one - other).float().norm()) <= 0.01 * float(other.float().norm()) + 1e-3
    with torch.no_grad():
        again = head_loss(hidden, head, targets, chunk)
    assert torch.equal(again.total, found.total)
    assert again.correct == found.correct


@pytest.mark.skipif(not cpu_head.takes(BF16, BF16), reason="this machine cannot run the compiled rows")
def test_rows_in_place_refuse_targets_that_do_not_exist():
    for wrong in (-1, 5):
        with pytest.raises(IndexError, match="from 0 to 4"):
            cpu_head.head_rows(torch.zeros(2, 5, dtype=torch.bfloat16), torch.tensor([0, wrong]), slopes=True)
    losses, hits = cpu_head.head_rows(torch.zeros(0, 5, dtype=torch.bfloat16), torch.zeros(0, dtype=torch.int64), False)
    assert losses.shape == hits.shape == (0,)


@pytest.mark.skipif(not cpu_head.takes(BF16, BF16), reason="this machine cannot run the compiled rows")
def test_rows_in_place_hold_for_extreme_logits_and_ties():
    logits = torch.tensor([[300.0, -300, 0, 300], [-1e30, -1e30, -1e30, -1e30], [0, 0, 1, 0]]).bfloat16()
    targets = torch.tensor([0, 0, 1])
    losses, hits = cpu_head.head_rows(logits.clone(), targets, slopes=False)
    torch.testing.assert_close(losses, F.cross_entropy(logits.float(), targets, reduction="none"), atol=1e-5, rtol=1e-5)
    assert hits.tolist() == [1, 1, 0]
    assert cpu_head.head_rows(logits.clone(), torch.tensor([3, 1, 2]), slopes=False)[1].tolist() == [0, 0, 1]


@pytest.mark.skipif(not cpu_head.takes(BF16, BF16), reason="this machine cannot run the compiled head")
@settings(max_examples=30, deadline=None)
@given(tokens=st.integers(0, 150), blocks=st.integers(1, 9), inner=st.sampled_from([32, 64, 1024]),
       chunk=st.integers(1, 170), ignored=st.floats(0, 0.9), wide=st.booleans(), seed=st.integers(0, 99))
def test_the_whole_head_in_place_equals_the_plain_form(tokens, blocks, inner, chunk, ignored, wide, seed):
    """A head of fp32 is rounded where its products are made, and its gradient is not rounded at all."""
    torch.manual_seed(seed)
    vocab = 32 * blocks
    targets = torch.randint(0, vocab, (tokens,))
    targets[torch.rand(tokens) < ignored] = IGNORED
    hidden = torch.randn(tokens, inner).mul_(2).bfloat16().requires_grad_()
    head = torch.randn(vocab, inner).mul_(inner**-0.5).to(torch.float32 if wide else torch.bfloat16).requires_grad_()
    assert cpu_head.takes_whole(hidden, head)
    with torch.autocast("cpu", torch.bfloat16, enabled=wide):
        found = head_loss(hidden, head, targets, chunk)
        ours = torch.autograd.grad(1.5 * found.total, (hidden, head))
        with torch.no_grad():
            again = head_loss(hidden, head, targets, chunk)
    exact = [tensor.detach().bfloat16().double().requires_grad_() for tensor in (hidden, head)]
    logits = exact[0] @ exact[1].t()
    plain = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    expected = torch.autograd.grad(1.5 * plain, exact)
    assert float(found.total) == pytest.approx(float(plain), rel=3e-3, abs=1e-2)
    assert torch.equal(again.total, found.total)
    assert again.correct == found.correct
    right = (logits.argmax(-1) == targets) & (targets != IGNORED)
    assert abs(int(found.correct) - int(right.sum())) <= 2  # logits that are equal in bf16
    for one, other, given_ in zip(ours, expected, (hidden, head), strict=True):
        assert one.dtype == given_.dtype
        assert float((one.double() - other).norm()) <= 0.01 * float(other.norm()) + 1e-3


@pytest.mark.skipif(not cpu_head.takes(BF16, BF16), reason="this machine cannot run the compiled head")
def test_the_whole_head_gives_what_is_asked_for_and_refuses_targets_that_do_not_exist():
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(70, 32).bfloat16(), torch.randn(64, 32), torch.randint(0, 64, (70,))
    losses, hits, of_hidden, of_head = cpu_head.head_loss(hidden, head, targets, 32, of_hidden=True, of_head=True)
    for asked in ({"of_hidden": True, "of_head": False}, {"of_hidden": False, "of_head": True},
                  {"of_hidden": False, "of_head": False}):
        found = cpu_head.head_loss(hidden, head, targets, 50, **asked)
        assert torch.equal(found[0], losses)
        assert torch.equal(found[1], hits)
        assert (found[2] is None) is not asked["of_hidden"]
        assert found[2] is None or torch.equal(found[2], of_hidden)
        assert (found[3] is None) is not asked["of_head"]
        if found[3] is not None:  # chunks are added in another order
            torch.testing.assert_close(found[3], of_head, rtol=1e-5, atol=1e-5)
    turned = cpu_head.head_loss(hidden.t().contiguous().t(), head.t().contiguous().t(), targets, 32, of_hidden=True,
                                of_head=True)
    assert all(map(torch.equal, turned, (losses, hits, of_hidden, of_head)))
    apart = cpu_head.head_loss(torch.cat([hidden, hidden[:, :1]], dim=1)[:, :-1], head, targets, 32, of_hidden=True,
                               of_head=True)
    assert all(map(torch.equal, apart, (losses, hits, of_hidden, of_head)))
    for wrong in (-1, 64):
        targets[3] = wrong
        with pytest.raises(IndexError, match="from 0 to 63"):
            cpu_head.head_loss(hidden, head, targets, 32, of_hidden=False, of_head=False)
    assert not cpu_head.takes_whole(hidden, torch.randn(65, 32))
    assert not cpu_head.takes_whole(hidden.float(), head)


@pytest.mark.skipif(compiler_problem() is not None, reason="no compiler")
def test_compiled_it_is_one_graph_with_the_same_result():
    torch.manual_seed(0)
    targets = torch.randint(0, 97, (130,))
    targets[::3] = IGNORED
    results = []
    for compiled in (False, True):
        hidden = torch.randn(130, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        head = torch.randn(97, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()

        def loss(hidden, head):
            return linear_cross_entropy(hidden, head, targets, 64, label_smoothing=0.1, z_loss=1e-2)

        total, correct = (torch.compile(loss, fullgraph=True) if compiled else loss)(hidden, head)
        total.backward()
        results.append((total.detach(), correct, hidden.grad, head.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
