"""Every form of attention against one written in loops, and no form lets information leak."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.models.layers.attention import attention, blocked, reference, sdpa
from gristmill.models.layers.flex import flex, pays_flex
from gristmill.models.layers.masks import CAUSAL, FULL, Pattern
from tests.models.patterns import PATTERNS, seen

CLOSE = {"atol": 2e-6, "rtol": 0}
FORMS = {"reference": reference, "sdpa": sdpa, "blocked": blocked, "flex": flex,
         "small blocks": lambda *tensors, **options: blocked(*tensors, block=7, **options)}


def tensors(heads, kv_heads, time, dim=8, batch=2, seed=0, keys=None):
    torch.manual_seed(seed)
    q = torch.randn(batch, heads, time, dim)
    k, v = torch.randn(batch, kv_heads, keys or time, dim), torch.randn(batch, kv_heads, keys or time, dim)
    return q, k, v


def in_loops(q, k, v, masks, scale=None, bias=None):
    """One query of one head of one row after the other, over the keys it sees; masks (batch, time, keys) of bool."""
    out = torch.empty_like(q)
    share = q.shape[1] // k.shape[1]
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            for place in range(q.shape[2]):
                chosen = masks[row, place].nonzero()[:, 0]
                scores = k[row, head // share, chosen] @ q[row, head, place] * (scale or 1 / math.sqrt(q.shape[-1]))
                if bias is not None:
                    scores = scores + bias[0, head, place, chosen]
                weights = torch.exp(scores - scores.max())
                out[row, head, place] = weights / weights.sum() @ v[row, head // share, chosen]
    return out


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", PATTERNS)
def test_every_form_computes_the_formula(name):
    """Packed, with a prefix, and neither; grouped heads; a scale and a bias."""
    pattern, time = PATTERNS[name], 17
    q, k, v = tensors(2, 1, time)
    documents = torch.tensor([[0] * 5 + [1] * 12, [0] * 15 + [-1] * 2])
    prefix = torch.zeros(2, time, dtype=torch.bool)
    prefix[0, 5:9] = prefix[1, :3] = True
    bias = torch.randn(1, 2, time, time)
    for given_documents, given_prefix, given_bias in (
        (None, None, None), (documents, None, None), (documents, prefix, None), (documents, None, bias)):
        masks = torch.stack([seen(pattern, time, None if given_documents is None else given_documents[row],
                                  None if given_prefix is None else given_prefix[row]) for row in range(2)])
        expected = in_loops(q, k, v, masks, 0.4, given_bias)
        for form, backend in FORMS.items():
            if form == "flex" and (given_bias is not None or (given_prefix is None and name != "strided")):
                continue  # each call is traced anew, which takes half a second
            found = backend(q, k, v, given_documents, pattern=pattern, prefix=given_prefix, bias=given_bias, scale=0.4)
            torch.testing.assert_close(found, expected, **CLOSE, msg=lambda text, form=form: f"{form}: {text}")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(time=st.integers(1, 300), groups=st.sampled_from([1, 2, 4]), block=st.integers(1, 140), seed=st.integers(0, 99),
       name=st.sampled_from(list(PATTERNS)))
def test_long_rows_in_blocks_equal_the_whole_mask(time, groups, block, seed, name):
    """Long enough that stretches of keys are left out."""
    q, k, v = tensors(4, 4 // groups, time, seed=seed, dim=4)
    documents = torch.randint(0, 3, (2, time), generator=torch.Generator().manual_seed(seed)).cumsum(1).int()
    for ids in (None, documents):
        expected = reference(q, k, v, ids, pattern=PATTERNS[name])
        torch.testing.assert_close(blocked(q, k, v, ids, pattern=PATTERNS[name], block=block), expected, **CLOSE)
        torch.testing.assert_close(sdpa(q, k, v, ids, pattern=PATTERNS[name]), expected, **CLOSE)


def test_cross_attention_by_the_documents_of_queries_and_keys():
    q, k, v = tensors(2, 2, 5, keys=7)
    of_queries, of_keys = torch.tensor([[0, 0, 1, 1, 1]] * 2), torch.tensor([[0, 0, 0, 1, 1, -1, -1]] * 2)
    expected = in_loops(q, k, v, of_queries[:, :, None] == of_keys[:, None])
    for backend in (reference, sdpa, blocked):
        found = backend(q, k, v, of_queries, pattern=FULL, key_document_ids=of_keys)
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("form", "name"), [
    (form, name) for form in FORMS for name in PATTERNS
    if form != "flex" or name in ("causal", "block-sparse")])  # flex is traced anew for each call, which takes long
def test_no_query_sees_a_key_that_is_forbidden(form, name):
    time = 30
    q, k, v = tensors(2, 1, time, batch=1)
    documents = (torch.arange(time) // 17)[None].int()
    mask = seen(PATTERNS[name], time, documents[0])
    before = FORMS[form](q, k, v, documents, pattern=PATTERNS[name])
    for changed in (0, 5, 16, 17, 29):
        other_k, other_v = k.clone(), v.clone()
        other_k[:, :, changed] += 3
        other_v[:, :, changed] -= 3
        moved = (FORMS[form](q, other_k, other_v, documents, pattern=PATTERNS[name]) - before).abs().amax((0, 1, 3)) > 0
        assert torch.equal(moved, mask[:, changed])


@pytest.mark.parametrize("name", ["causal", "sliding window", "block-sparse"])
def test_gradients_equal_those_of_the_reference(name):
    results = []
    for backend in (reference, blocked, sdpa):
        q, k, v = (t.requires_grad_() for t in tensors(4, 2, 33))
        documents = (torch.arange(33) // 10)[None].expand(2, -1).int()
        (backend(q, k, v, documents, pattern=PATTERNS[name]) * torch.arange(8.0)).sum().backward()
        results.append((q.grad, k.grad, v.grad))
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", PATTERNS)
def test_a_stretch_of_queries_gets_its_part_of_the_whole(name):
    """As the shards of context parallelism have it: queries from `first` on, all keys, documents for both."""
    pattern, time = PATTERNS[name], 31
    q, k, v = tensors(2, 1, time)
    documents = (torch.arange(time) // 12)[None].expand(2, -1).int()
    prefix = torch.zeros(2, time, dtype=torch.bool)
    prefix[:, 12:20] = True
    for ids, marked in ((None, None), (documents, None), (documents, prefix)):
        whole = reference(q, k, v, ids, pattern=pattern, prefix=marked)
        for first, stop in ((0, 9), (9, 22), (22, 31)):
            for form, backend in FORMS.items():
                if form == "flex" and (name != "strided" or marked is not None):
                    continue
                found = backend(q[:, :, first:stop], k, v, None if ids is None else ids[:, first:stop], pattern=pattern,
                                key_document_ids=ids, prefix=marked, first=first)
                torch.testing.assert_close(found, whole[:, :, first:stop], **CLOSE,
                                           msg=lambda text, form=form: f"{form}: {text}")


@pytest.mark.parametrize("backend", [reference, sdpa, blocked])
def test_dropout_drops_weights_and_keeps_their_mean(backend):
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 1, 40, 4), torch.zeros(1, 1, 40, 4), torch.ones(1, 1, 40, 4)
    out = torch.stack([backend(q, k, v, pattern=FULL, dropout=0.25) for _ in range(200)])
    assert abs(float(out.mean()) - 1) < 0.01
    assert out.std() > 0.05
    assert torch.equal(backend(q, k, v, pattern=FULL), v) or backend(q, k, v, pattern=FULL).allclose(v)


def test_a_row_of_nothing_but_padding_is_finite():
    q, k, v = tensors(2, 2, 6)
    documents = torch.full((2, 6), -1)
    elsewhere = torch.zeros(2, 6)
    for backend in (reference, sdpa, blocked):
        assert backend(q, k, v, documents, pattern=Pattern(window=1)).isfinite().all()
        assert backend(q, k, v, documents, pattern=FULL, key_document_ids=elsewhere).isfinite().all(), "sees nothing"


def test_rows_of_one_token_and_batches_of_none():
    for batch, time in ((2, 1), (0, 5), (0, 1)):
        q, k, v = tensors(4, 2, time, batch=batch)
        for pattern in (Pattern(), Pattern(window=1), FULL):
            assert attention(q, k, v, pattern=pattern).shape == q.shape
    q, k, v = tensors(4, 2, 1)
    torch.testing.assert_close(attention(q, k, v), v.repeat_interleave(2, dim=1), **CLOSE)


@pytest.mark.parametrize(("pattern", "documents", "time", "size", "pays"), [
    (CAUSAL, False, 4096, 64, False), (CAUSAL, True, 4096, 64, True), (CAUSAL, True, 1023, 64, False),
    (CAUSAL, True, 4096, 48, False), (Pattern(window=64), False, 4096, 64, True),
    (Pattern(window=2048), False, 4096, 64, False), (Pattern(window=2048), True, 4096, 64, True)])
def test_flex_pays_where_torch_would_read_a_mask_of_all_scores(pattern, documents, time, size, pays, monkeypatch):
    class OnGPU:
        device, shape = torch.device("cuda"), (1, 1, time, size)

    monkeypatch.setattr("gristmill.models.layers.flex.HAS_COMPILER", True)
    assert pays_flex(OnGPU(), time, pattern, documents) == pays  # type: ignore[arg-type]


def test_flex_is_for_long_rows_of_which_little_is_seen():
    q = torch.empty(1, 1, 4096, 64, device="meta")
    assert not pays_flex(q, 4096, Pattern(window=64)), "not on this device"
    assert not pays_flex(q, 4096, CAUSAL, documents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="neither a bias nor dropout"):
            flex(*tensors(2, 2, 8), dropout=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention is for CUDA")
@pytest.mark.parametrize("name", ["causal", "sliding window", "strided", "block-sparse"])
@pytest.mark.parametrize("packed", [True, False])
def test_flex_on_a_gpu_equals_the_reference_forwards_and_backwards(name, packed):
    results = []
    for backend in (reference, attention):
        q, k, v = (t.cuda().requires_grad_() for t in tensors(4, 2, 1500, dim=64))
        documents = (torch.arange(1500, device="cuda") // 700)[None].expand(2, -1) if packed else None
        out = backend(q, k, v, documents, pattern=PATTERNS[name])
        out.square().sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)
