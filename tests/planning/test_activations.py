"""Predicted activation memory against what autograd really keeps, on real blocks of every family."""

from __future__ import annotations

import dataclasses

import pytest
from saved_tensors import really_saved, small

from gristmill.models.families import FAMILIES
from gristmill.planning.activations import CHECKPOINTING, _count, activations


def tiny(family: str):
    presets = FAMILIES[family].presets
    return small(presets.get("tiny", next(iter(presets.values()))))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_predictions_are_what_autograd_keeps(family, precision):
    config = tiny(family)
    for mode in CHECKPOINTING:
        for rows, time, documents in ((3, 160, False), (2, 136, True)):
            predicted = activations(config, time, precision=precision, device="cpu", documents=documents)
            real = really_saved(config, rows, time, precision, mode, documents)
            assert predicted.saved(rows, mode) == pytest.approx(real, rel=0.05), (mode, documents)


def test_fused_attention_needs_no_square_of_the_row():
    config = tiny("llama")
    short, long = (activations(config, time, device="cuda").saved(1, "none") for time in (1024, 2048))
    assert long == pytest.approx(2 * short, rel=0.02)
    masked = activations(config, 2048, device="cuda", documents=True).saved(1, "none")
    assert masked - long == pytest.approx(config.layers * 2048**2 * 2, rel=0.2)  # a mask in bf16 for every layer


def test_checkpointing_trades_memory_for_computation():
    found = activations(tiny("llama"), 256)
    kept = [found.saved(4, mode) for mode in CHECKPOINTING]
    assert kept[0] > 2 * kept[1] > 4 * kept[2]
    assert found.recomputed(4, "none") == 0
    assert found.recomputed(4, "full") == pytest.approx((kept[0] - kept[2]) / len(found.blocks), rel=0.3)


def test_half_the_blocks_keep_half():
    found = activations(tiny("llama"), 256)
    outside = found.outside_row + found.outside_fixed
    whole, half = found.saved(1, "none") - outside, found.saved(1, "none", slice(0, 2)) - outside
    assert half == pytest.approx(whole / 2, rel=0.1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_few_blocks_stand_for_all(family):
    config = tiny(family)
    both = {"decoder_layers": 6} if hasattr(config, "decoder_layers") else {}
    deep = dataclasses.replace(config, layers=9, **both)
    found = activations(deep, 64, precision="bf16", device="cuda", documents=True)
    one, two = (_count(deep, rows, 64, "bf16", "cuda", True) for rows in (1, 2))
    assert len(found.blocks) == len(one.blocks)
    for block, first, second in zip(found.blocks, one.blocks, two.blocks, strict=True):
        for mode in CHECKPOINTING:
            assert block.row[mode] == second.whole[mode] - first.whole[mode]
            assert block.fixed[mode] == 2 * first.whole[mode] - second.whole[mode]
            assert block.experts_row[mode] == second.experts[mode] - first.experts[mode]
    assert any(block.experts_row["none"] for block in found.blocks) == (getattr(config, "moe", None) is not None)
    assert found.outside_row == two.outside - one.outside
