"""A layout that is proposed fits, talks least of those that do, and says why."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models import DecoderConfig
from gristmill.models.spec import ModelSpec
from gristmill.objectives import CausalLM
from gristmill.objectives.multi_token import MultiTokenLM
from gristmill.planning.memory import USABLE
from gristmill.training import OptimizerConfig, TrainingConfig, fit_memory
from gristmill.training.device import Compute
from gristmill.training.parallel import Layout
from gristmill.training.parallel.auto import WHY, Workload, check, layouts, memory_of_a_process, predicted, propose
from gristmill.training.parallel.choose import choose_layout

GB = 1e9
SMALL = DecoderConfig(vocab_size=50_304, dim=768, layers=12, heads=12, kv_heads=12, head_dim=64, mlp_dim=2048,
                      context=1024)
SEVENTY = DecoderConfig(vocab_size=128_256, dim=8192, layers=80, heads=64, kv_heads=8, head_dim=128, mlp_dim=28_672,
                        context=8192)


def work(config=SMALL, rows=512, **more) -> Workload:
    return Workload(config=config, rows=rows, context=config.context, **{"micro_batch": 4, **more})


def possible(wanted, layout) -> bool:
    try:
        check(wanted, layout)
    except UserError:
        return False
    return True


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
    tried = [layout for layout, _ in layouts(processes, per_host)]
    assert all(layout.processes == processes and layout.tensor <= per_host for layout in tried)
    fitting = [layout for layout in tried if possible(wanted, layout)
               and predicted(wanted, layout, available=available).fits]
    if fitting:
        found = propose(wanted, processes, per_host=per_host, available=available)
        assert found.layout == fitting[0]
        assert found.layout.replicate * found.layout.shard <= rows
        assert found.why.startswith(tuple(WHY.values()))
    else:
        with pytest.raises(UserError, match="no layout of"):
            propose(wanted, processes, per_host=per_host, available=available)


def test_nothing_fits_says_how_much_is_missing_and_what_helps():
    said = r"no layout of 8 processes fits: context=8 would need .* GB of 1\.8"
    with pytest.raises(UserError, match=said) as caught:
        propose(work(SEVENTY, 8, micro_batch=1), 8, per_host=1, available=2 * GB)
    assert "activation checkpointing" in str(caught.value)


def test_heads_that_do_not_divide_are_never_cut():
    odd = DecoderConfig(vocab_size=512, dim=96, layers=3, heads=3, kv_heads=3, head_dim=32, mlp_dim=256, context=64)
    assert {layout.tensor for layout, _ in layouts(8, 8) if possible(work(odd, 64), layout)} == {1}


TINY = DecoderConfig(vocab_size=512, dim=32, layers=4, heads=4, kv_heads=4, head_dim=8, mlp_dim=64, context=64)


def proposed(rows=2, **more):
    available = more.pop("available", 6 * GB)
    return propose(work(more.pop("config", TINY), rows, **{"micro_batch": rows, **more}), 4, per_host=4,
                   available=available)


def test_fewer_rows_than_processes_cut_matrices_and_the_reason_says_so():
    found = proposed()
    assert found.layout == Layout(shard=2, tensor=2)
    assert found.why == ("matrices are cut over the devices of a computer; "
                         "replicate=4 and shard=4: an update of 2 rows cannot be dealt to 4 processes")


@pytest.mark.parametrize("changes", [
    {"config": dataclasses.replace(TINY, mlp_dim=63)}, {"config": dataclasses.replace(TINY, vocab_size=511)},
    {"config": dataclasses.replace(TINY, heads=3, kv_heads=3)}], ids=["mlp_dim", "vocab_size", "heads"])
def test_what_tensor_cannot_cut_is_cut_along_rows(changes):
    """With all rows at once a pipeline has too few micro-batches; with one row at once it has two."""
    assert proposed(**changes).layout == Layout(shard=2, context=2)
    assert proposed(**changes, rows=3, micro_batch=1).layout == Layout(pipeline=2, shard=2)


def test_rows_of_any_length_are_cut_but_in_a_pipeline():
    wanted = work(TINY, 8, micro_batch=1, shortest=63)
    assert possible(wanted, Layout(tensor=2))
    assert not possible(wanted, Layout(pipeline=2, tensor=2))
    assert possible(wanted, Layout(pipeline=2, tensor=2, sequence=False))


def test_the_objective_says_what_can_be_cut():
    several = MultiTokenLM(2)
    with pytest.raises(UserError, match=r"no layout of 4 processes can train this.*MultiTokenLM reads the") as caught:
        proposed(objective=several)
    assert "1f1b needs one for each" in str(caught.value)
    assert "batch" in str(caught.value.fix)
    assert proposed(objective=several, micro_batch=1, rows=3).layout == Layout(pipeline=2, shard=2)


def test_what_reads_whole_gradients_or_models_is_kept_whole():
    with pytest.raises(UserError, match="noise scale"):
        proposed(noise_scale=True)
    assert proposed(rows=4, noise_scale=True).layout == Layout(replicate=4)
    odd = dataclasses.replace(TINY, mlp_dim=63)
    assert proposed(config=odd, rows=2, micro_batch=1, scores_whole=True).layout == Layout(shard=2, context=2)


def test_eight_bit_states_are_cut_between_blocks():
    """Of matrices with blocks rows alone are dealt out, each process whole blocks."""
    large = dataclasses.replace(TINY, dim=64, head_dim=16, mlp_dim=128)
    assert proposed(config=large).layout == Layout(shard=2, tensor=2)
    assert proposed(config=large, optimizer="adamw8bit").layout == Layout(shard=2, context=2)
    odd = dataclasses.replace(large, vocab_size=510)
    with pytest.raises(UserError, match=r"context=2: adamw8bit shares a scale among \d+ numbers.*embedding.weight"):
        proposed(config=odd, optimizer="adamw8bit")
    assert proposed(config=odd, optimizer="adamw8bit", rows=4).layout == Layout(replicate=4)


def test_sizes_are_divisors():
    found = propose(work(dataclasses.replace(TINY, heads=6, kv_heads=3, mlp_dim=66, vocab_size=513, context=66), 2),
                    6, per_host=6, available=6 * GB)
    assert found.layout == Layout(shard=2, tensor=3)


def test_training_says_how_activations_are_kept_and_what_the_optimizer_holds():
    training = TrainingConfig(activation_checkpointing="full", optimizer=OptimizerConfig(kind="sgd", learning_rate=0.1))
    full = Workload.of(SMALL, training, rows=64, context=1024, micro_batch=None, objective=CausalLM())
    assert (full.checkpointing, full.optimizer, full.micro_batch) == ("full", "momentum", 64)
    plain = dataclasses.replace(full, checkpointing="none")
    budget = dataclasses.replace(full, checkpointing=0.5)
    kept = [predicted(one, Layout()).activations for one in (full, budget, plain)]
    assert kept == sorted(set(kept))
    between = (predicted(full, Layout()).total + predicted(plain, Layout()).total) / 2 / USABLE
    assert propose(full, 2, per_host=2, available=between / 1.9).layout.replicate == 2


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


def test_the_limit_of_a_container_holds_for_its_processes(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(fit_memory, "_number", lambda path: None)
    physical = memory_of_a_process(cpu, 1)
    assert memory_of_a_process(cpu, 4) == physical / 4
    numbers = {"memory.limit_in_bytes": physical / 8, "memory.usage_in_bytes": physical / 16}
    monkeypatch.setattr(fit_memory, "_number", lambda path: numbers.get(path.name))
    assert memory_of_a_process(cpu, 2) == physical / 16
