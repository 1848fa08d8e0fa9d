"""Every fast attention against the slow reference, and no backend lets information leak."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.models.layers.attention import blocked, reference, sdpa


def tensors(heads, kv_heads, time, dim=8, batch=2, seed=0):
    torch.manual_seed(seed)
    q = torch.randn(batch, heads, time, dim)
    k, v = torch.randn(batch, kv_heads, time, dim), torch.randn(batch, kv_heads, time, dim)
    return q, k, v


@settings(max_examples=30, deadline=None)
@given(time=st.integers(1, 70), groups=st.sampled_from([1, 2, 4]), block=st.integers(1, 80), seed=st.integers(0, 99))
def test_fast_forms_equal_the_reference(time, groups, block, seed):
    q, k, v = tensors(4, 4 // groups, time, seed=seed)
    documents = torch.randint(0, 3, (2, time), generator=torch.Generator().manual_seed(seed)).cumsum(1).int()
    for ids in (None, documents):
        expected = reference(q, k, v, ids)
        torch.testing.assert_close(blocked(q, k, v, ids, block=block), expected, atol=2e-6, rtol=0)
        torch.testing.assert_close(sdpa(q, k, v, ids), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", [reference, sdpa, blocked])
def test_no_position_sees_the_future_or_another_document(backend):
    q, k, v = tensors(2, 2, 40)
    documents = (torch.arange(40) // 13)[None].expand(2, -1).int()
    before = backend(q, k, v, documents)
    for changed in (5, 20, 39):
        other_k, other_v = k.clone(), v.clone()
        other_k[:, :, changed] += 3
        other_v[:, :, changed] -= 3
        moved = (backend(q, other_k, other_v, documents) - before).abs().amax(dim=(0, 1, 3)) > 0
        expected = (torch.arange(40) >= changed) & (torch.arange(40) // 13 == changed // 13)
        assert torch.equal(moved, expected)


def test_gradients_equal_the_reference():
    results = []
    for backend in (reference, blocked):
        q, k, v = (t.requires_grad_() for t in tensors(4, 2, 33))
        documents = (torch.arange(33) // 10)[None].expand(2, -1).int()
        weights = torch.arange(8.0)
        (backend(q, k, v, documents) * weights).sum().backward()
        results.append((q.grad, k.grad, v.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
