"""A layout that is proposed fits, talks least of those that do, and says why."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models import DecoderConfig
from gristmill.models.spec import ModelSpec
from gristmill.planning.memory import USABLE
from gristmill.training.device import Compute
from gristmill.training.parallel import Layout
from gristmill.training.parallel.auto import WHY, Workload, layouts, predicted, propose
from gristmill.training.parallel.choose import choose_layout

GB = 1e9
SMALL = DecoderConfig(vocab_size=50_304, dim=768, layers=12, heads=12, kv_heads=12, head_dim=64, mlp_dim=2048,
                      context=1024)
SEVENTY = DecoderConfig(vocab_size=128_256, dim=8192, layers=80, heads=64, kv_heads=8, head_dim=128, mlp_dim=28_672,
                        context=8192)


def work(config=SMALL, rows=512, **more) -> Workload:
    return Workload(config=config, rows=rows, context=config.context, **{"micro_batch": 4, **more})


def test_whole_copies_where_they_fit():
    found = propose(work(), 8, per_host=8, available=141 * GB)
    assert found.layout == Layout(replicate=8)
    assert "whole copies talk least" in found.line()
    assert "parallel: replicate=8, " in found.line()
    assert found.memory.fits


def test_shares_where_copies_do_not_fit():
    whole = predicted(work(), Layout(replicate=8)).total
    found = propose(work(), 8, per_host=8, available=0.9 * whole)
    assert found.layout == Layout(shard=8)
    assert found.memory.total <= USABLE * 0.9 * whole < whole


def test_copies_of_shares_over_computers():
    """Weights are gathered inside a computer where that is enough, and gradients alone go between them."""
    whole = predicted(work(), Layout(replicate=16)).total
    found = propose(work(), 16, per_host=8, available=0.9 * whole)
    assert found.layout == Layout(replicate=2, shard=8)


def test_seventy_billion_on_512_need_shares_and_more():
    found = propose(work(SEVENTY, 1024, micro_batch=1, checkpointing="full"), 512, per_host=8, available=80 * GB)
    assert found.layout.processes == 512
    assert found.layout.shard > 1
    assert found.memory.total < 80 * GB


@settings(max_examples=60, deadline=None)
@given(processes=st.integers(1, 96), per_host=st.sampled_from([1, 2, 4, 8]), rows=st.integers(1, 64),
       share=st.floats(0.02, 2.0), config=st.sampled_from([SMALL, SEVENTY]))
def test_what_is_proposed_fits_and_comes_before_all_others_that_do(processes, per_host, rows, share, config):
    wanted = work(config, rows, micro_batch=1)
    available = share * predicted(wanted, Layout()).total
    tried = list(layouts(wanted, processes, per_host))
    for layout, why in tried:
        assert math.prod((layout.pipeline, layout.replicate, layout.shard, layout.tensor)) == processes
        assert layout.tensor <= per_host
        assert layout.replicate * layout.shard <= rows
        assert why in WHY.values()
    fitting = [layout for layout, _ in tried if predicted(wanted, layout, available=available).fits]
    if fitting:
        assert propose(wanted, processes, per_host=per_host, available=available).layout == fitting[0]
    else:
        with pytest.raises(UserError, match=r"no layout of|cannot be dealt"):
            propose(wanted, processes, per_host=per_host, available=available)


def test_nothing_fits_says_how_much_is_missing_and_what_helps():
    said = r"no layout of 8 processes fits: pipeline=2,shard=4 would need .* GB of 1\.8"
    with pytest.raises(UserError, match=said) as caught:
        propose(work(SEVENTY, 8, micro_batch=1), 8, per_host=1, available=2 * GB)
    assert "activation checkpointing" in str(caught.value)


def test_heads_that_do_not_divide_are_never_cut():
    odd = DecoderConfig(vocab_size=512, dim=96, layers=3, heads=3, kv_heads=3, head_dim=32, mlp_dim=256, context=64)
    assert {layout.tensor for layout, _ in layouts(work(odd, 64), 8, 8)} == {1}


def test_what_is_written_out_is_taken_as_it_is(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    compute = Compute(torch.device("cpu"), torch.float32, 1)
    tiny, _ = ModelSpec(family="llama", depth=1, dim=32, context=32).resolve(64)
    assert choose_layout("shard=2,tensor=2", work(tiny, 8), compute) == (Layout(shard=2, tensor=2), None)
    assert choose_layout("none", work(tiny, 8), compute) == (Layout(), None)
    layout, why = choose_layout("auto", work(tiny, 8, precision="fp32"), compute)
    assert layout == Layout(replicate=4)
    assert why is not None
    assert why.layout == layout
    assert choose_layout("auto") == (Layout(shard=4), None)
    assert choose_layout("auto", work(tiny, 8), compute, processes=1) == (Layout(shard=1), None)
