"""The chunked head against the plain one."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.objectives.cross_entropy import IGNORED, linear_cross_entropy, sequence_log_probabilities


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
