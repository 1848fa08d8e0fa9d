"""Memory of a device: what each way of spreading a model saves, and what it does not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models.families import FAMILIES
from gristmill.planning.anatomy import anatomy
from gristmill.planning.depth import shallow
from gristmill.planning.layout import Layout, candidates
from gristmill.planning.memory import OPTIMIZERS, Batch, memory

LLAMA = dataclasses.replace(FAMILIES["llama"].presets["tiny"], heads=8, kv_heads=4, head_dim=32, dim=256, mlp_dim=768,
                            layers=8, vocab_size=1024)
MIXTRAL = FAMILIES["mixtral"].presets["tiny"]
BATCH = Batch(context=256, rows=64, micro_batch=2)


def planned(config=LLAMA, **options):
    return memory(config, BATCH, **{"layout": Layout(), **options})


def test_one_device_holds_sixteen_bytes_a_parameter():
    found, size = planned(), anatomy(LLAMA).total
    assert (found.weights, found.gradients, found.optimizer) == (4 * size, 4 * size, 8 * size)
    assert found.total == sum(getattr(found, n) for n in
                              ("weights", "gradients", "optimizer", "activations", "logits", "buffers"))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_states_of_optimizers(optimizer):
    found, one = anatomy(LLAMA), planned(optimizer=optimizer)
    matrix, other = OPTIMIZERS[optimizer]
    assert one.optimizer == pytest.approx(matrix * found.matrices + other * (found.total - found.matrices))
    averaged = planned(optimizer=optimizer, average=True)
    assert averaged.optimizer - one.optimizer == pytest.approx(4 * found.total)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("bert", "roberta", "xlm", "xlm-roberta")])
def test_muon_updates_the_matrices_of_blocks(family):
    """What is counted is what the optimizer gets; poolers and transforms outside of blocks belong to encoders only."""
    from gristmill.training.optimizers import OptimizerConfig, build_optimizer

    config = FAMILIES[family].presets[next(iter(FAMILIES[family].presets))]
    small = shallow(dataclasses.replace(config, vocab_size=128), 2)
    with torch.device("meta"):
        model = FAMILIES[family].body(small)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    groups = build_optimizer(model, OptimizerConfig(kind="muon")).parts[0].param_groups
    assert sum(p.numel() for group in groups for p in group["params"]) == anatomy(small).matrices


@pytest.mark.parametrize(("zero", "divided"), [
    (1, {"optimizer"}), (2, {"optimizer", "gradients"}), (3, {"optimizer", "gradients", "weights"})])
def test_zero_divides_what_it_says(zero, divided):
    one, eight = planned(), planned(layout=Layout(shard=8, zero=zero))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(eight, part) == pytest.approx(getattr(one, part) / (8 if part in divided else 1))
    replicas = planned(layout=Layout(replicate=8))
    assert replicas.weights == one.weights


def test_tensor_pipeline_and_context_divide_what_they_split():
    one = planned()
    tensor = planned(layout=Layout(tensor=4))
    assert tensor.weights == pytest.approx(one.weights / 4, rel=0.01)  # norms are whole everywhere
    pipeline = planned(layout=Layout(pipeline=4))
    assert one.weights / 4 < pipeline.weights < one.weights / 2
    assert planned(layout=Layout(context=2)).activations == pytest.approx(one.activations / 2, rel=0.3)


def test_experts_are_divided_once():
    """Experts split over all replicas are held once, whatever shard splits besides."""
    whole = planned(MIXTRAL)
    layout = Layout(shard=MIXTRAL.experts, expert=MIXTRAL.experts)
    spread = planned(MIXTRAL, layout=layout)
    assert spread.weights == pytest.approx(whole.weights / MIXTRAL.experts, rel=1e-6)
    sharded = planned(MIXTRAL, layout=dataclasses.replace(layout, expert=1))
    assert sharded.weights == pytest.approx(spread.weights, rel=1e-6)
    kept = planned(MIXTRAL, layout=dataclasses.replace(layout, zero=1))
    experts = anatomy(MIXTRAL).parameters["experts"]
    assert kept.weights == pytest.approx(whole.weights - 4 * experts * (1 - 1 / MIXTRAL.experts), rel=1e-6)


@pytest.mark.parametrize("expert", [1, 2, 4])
def test_the_devices_of_a_row_share_weights_and_experts_as_shard_does(expert):
    shard, context = (planned(MIXTRAL, layout=Layout(**{axis: 8}, expert=expert)) for axis in ("shard", "context"))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(context, part) == getattr(shard, part)


def test_checkpointing_keeps_less_and_buffers_more():
    none, selective, full = (planned(checkpointing=mode) for mode in ("none", "selective", "full"))
    assert none.activations > selective.activations > full.activations
    assert none.buffers < selective.buffers <= full.buffers


@settings(max_examples=15, deadline=None)
@given(micro=st.integers(1, 4), rows=st.integers(4, 64), shard=st.sampled_from([1, 2, 4]))
def test_more_never_takes_less(micro, rows, shard):
    def of(micro_batch, context):
        return memory(LLAMA, Batch(context=context, rows=rows, micro_batch=micro_batch), layout=Layout(
            shard=shard)).total

    assert of(micro, 128) < of(micro + 1, 128)
    assert of(micro, 128) < of(micro, 256)


def test_what_does_not_fit_says_so():
    assert planned().fits is None
    assert planned(available=1e12).fits is True
    assert planned(available=1e6).fits is False


@pytest.mark.parametrize(("wrong", "said"), [
    (Layout(tensor=3), "cannot be split 3 ways"), (Layout(pipeline=9), "8 blocks cannot be split"),
    (Layout(shard=2, expert=2), "no experts")])
def test_impossible_layouts_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        planned(layout=wrong)


def test_layouts_are_read_and_written():
    assert Layout.parse("shard=8,tensor=2") == Layout(shard=8, tensor=2)
    assert Layout.parse(Layout(shard=4, pipeline=2, zero=1).text()) == Layout(shard=4, pipeline=2, zero=1)
    assert Layout.parse("").text() == "one device"
    for text, said in (("shrad=8", "no kind"), ("shard=x", "whole number"), ("shard=0", "at least 1"),
                       ("shard=-1", "whole number"), ("shard=2,zero=5", "choose 1, 2 or 3"),
                       ("expert=4", "do not fit")):
        with pytest.raises(UserError, match=said):
            Layout.parse(text)


@settings(max_examples=20, deadline=None)
@given(devices=st.sampled_from([1, 2, 3, 6, 8, 24, 64]))
def test_candidates_use_every_device(devices):
    found = list(candidates(devices, 8, anatomy(LLAMA)))
    assert found
    assert all(layout.devices == devices and layout.problem(anatomy(LLAMA)) is None for layout in found)
