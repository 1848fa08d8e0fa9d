"""The noise scale of a problem whose noise is known."""

from __future__ import annotations

import math

import pytest
import torch

from gristmill.training.noise_scale import NoiseScale, at_least_two, estimates


def mean_gradients(small, big, count, noise, generator, size=64):
    """Squared norms of the mean gradient of `small` items and of the `big` items that they are part of; the true
    gradient is 0.5 everywhere, and items scatter around it with deviation `noise`."""
    items = 0.5 + noise * torch.randn(count, big, size, generator=generator, dtype=torch.float64)
    return items[:, :small].mean(1).square().sum(1), items.mean(1).square().sum(1)


@pytest.mark.parametrize(("small", "big"), [(1, 8), (4, 32), (5, 12)])
def test_both_estimates_are_unbiased(small, big):
    noise = 3.0
    first, second = mean_gradients(small, big, 4000, noise, torch.Generator().manual_seed(1))
    square, trace = estimates(first, small, second, big)
    for found, true in ((square, 64 * 0.25), (trace, 64 * noise**2)):
        error = float(found.std()) / math.sqrt(len(found))
        assert abs(float(found.mean()) - true) < 4 * error
        assert error < 0.1 * true  # or the line above would say nothing


def test_the_average_finds_the_scale():
    noise, generator, scale = 2.0, torch.Generator().manual_seed(2), NoiseScale()
    for first, second in zip(*mean_gradients(8, 64, 600, noise, generator), strict=True):
        scale.add(first, 8, second, 64)
    true = noise**2 / 0.25
    assert float(scale.value()) == pytest.approx(true, rel=0.25)


def test_processes_share_the_mean_of_their_squares():
    """Of four processes, each with its own part: less noise than one of them has."""
    noise, generator = 2.0, torch.Generator().manual_seed(3)
    items = 0.5 + noise * torch.randn(2000, 4, 8, 16, generator=generator, dtype=torch.float64)
    whole = items.mean((1, 2)).square().sum(1)
    each = items.mean(2).square().sum(2)
    alone, shared = (estimates(small, 8, whole, 32)[1] for small in (each[:, 0], each.mean(1)))
    assert float(shared.mean()) == pytest.approx(16 * noise**2, rel=0.02)
    assert float(shared.std()) < 0.7 * float(alone.std())


def test_it_has_no_value_before_anything_or_where_noise_hides_the_gradient():
    scale = NoiseScale()
    assert math.isnan(float(scale.value()))
    scale.add(torch.tensor(8.0), 1, torch.tensor(0.5), 8)  # 8 x 0.5 - 8 < 0: no |G|² is left
    assert math.isnan(float(scale.value()))
    before = scale.sums.clone()
    scale.add(torch.tensor(math.nan), 1, torch.tensor(0.5), 8)
    scale.add(torch.tensor(1.0), 8, torch.tensor(0.5), 8)  # the same batch twice says nothing
    assert torch.equal(scale.sums, before)


def test_it_goes_through_a_checkpoint():
    whole, cut = NoiseScale(), NoiseScale()
    for at in range(10):
        if at == 5:
            resumed = NoiseScale()
            resumed.load_tensors(cut.tensors())
            cut = resumed
        for scale in (whole, cut):
            scale.add(torch.tensor(2.0 + at), 1, torch.tensor(1.5), 8)
    assert torch.equal(whole.value(), cut.value())


@pytest.mark.parametrize(("pairs", "halves"), [(1, [2]), (2, [2, 2]), (3, [4, 2]), (5, [6, 4])])
def test_pairs_are_never_torn(pairs, halves):
    batch = {"input_ids": torch.arange(4 * pairs).view(2 * pairs, 2)}
    parts = at_least_two([batch], unit=2)
    assert [len(part["input_ids"]) for part in parts] == halves
    assert torch.equal(torch.cat([part["input_ids"] for part in parts]), batch["input_ids"])


def test_a_single_micro_batch_is_cut_in_halves():
    batch = {"input_ids": torch.arange(15).view(5, 3), "targets": torch.arange(15).view(5, 3) + 1}
    halves = at_least_two([batch])
    assert [len(half["input_ids"]) for half in halves] == [3, 2]
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([half[name] for half in halves]), tensor)
    one = [{"input_ids": torch.zeros(1, 3), "targets": torch.zeros(1, 3)}]
    assert at_least_two(one) is one
    assert at_least_two([batch, batch])[0] is batch
