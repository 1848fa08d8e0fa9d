"""One process as the oracle of many: the same model on the same rows, loss and every gradient."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gristmill.models.config import DecoderConfig
from gristmill.models.config.moe import MoEConfig
from gristmill.models.decoder import Decoder
from gristmill.objectives.causal_lm import CausalLM
from gristmill.training.accumulate import Accumulation, Passes
from gristmill.training.device import Compute
from gristmill.training.micro_batch import MicroBatch
from gristmill.training.parallel import Layout, World
from gristmill.training.parallel.apply import Settings, parallelise
from tests.training.parallel.ranks import world_of

COMPUTE = Compute(torch.device("cpu"), torch.float32, 1)
Batch = dict[str, Tensor]


def tiny(**changes: Any) -> DecoderConfig:
    """A decoder of 32 channels; `moe=True` for experts."""
    values: dict[str, Any] = {"vocab_size": 64, "dim": 32, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 8,
                              "mlp_dim": 48, "context": 64} | changes
    if values.get("moe") is True:
        values |= {"family": "moe", "moe": MoEConfig(experts=4, active=2, mlp_dim=16)}
    return DecoderConfig(**values)


def scattered(model: nn.Module, seed: int = 1) -> nn.Module:
    """All weights random, so that none hides an error by being zero or one; matrices keep the size of what they are
    given, so that rounding is not blown up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1 else noise * parameter.shape[-1] ** -0.5)
    return model


def made(config: DecoderConfig, seed: int = 1) -> Decoder:
    return scattered(Decoder(config), seed)  # type: ignore[return-value]


def rows(config: Any, count: int = 8, time: int = 16, seed: int = 2, documents: bool = True) -> Batch:
    """Rows with documents of unequal length, padding in some rows, and more ignored targets in later rows."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (count, time + 1), generator=generator)
    targets = ids[:, 1:].clone()
    for row in range(count):
        targets[row, : row % time] = -100
    batch = {"input_ids": ids[:, :-1].contiguous(), "targets": targets}
    if documents:
        edges = torch.randint(2, time - 2, (count, 2), generator=generator)
        numbers = (torch.arange(time) >= edges[:, :1]).long() + (torch.arange(time) >= edges[:, 1:]).long()
        numbers[0, -3:] = -1
        targets[0, -3:] = -100
        batch["document_ids"] = numbers
    return batch


def cut(batch: Mapping[str, Tensor], world: World, micro: int = 1) -> list[Batch]:
    """This process's rows, in micro-batches."""
    per = len(batch["targets"]) // (world.data_size * micro)
    starts = [world.data_rank * per * micro + at * per for at in range(micro)]
    return [{name: tensor[start:start + per] for name, tensor in batch.items()} for start in starts]


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def alone(model: nn.Module, objective: Any, batch: Mapping[str, Tensor], micro: int = 1) -> tuple[float, Any]:
    """Loss per token and gradients in one process, over all rows."""
    passes = Accumulation(MicroBatch(model, objective), COMPUTE)
    window = cut(batch, World.alone(), micro)
    count = max(objective.counts(batch)["loss"], 1)
    sums, _ = passes.run(window, {name: weight / count for name, weight in objective.weights.items()})
    return float(sums["loss"]) / count, gradients(model)


def together(passes: Passes, objective: Any, batch: Mapping[str, Tensor], world: World, micro: int = 1) -> float:
    """The same over all processes; gradients are left in the parameters."""
    count = max(objective.counts(batch)["loss"], 1)
    sums, _ = passes.run(cut(batch, world, micro), {n: weight / count for n, weight in objective.weights.items()})
    return float(world.sum(sums["loss"].clone(), "updates")) / count


def differences(layout: Layout, config: DecoderConfig, micro: int = 1, objective: Any = None, count: int = 8,
                settings: Settings = Settings(), rounds: int = 1, **batch: Any) -> dict[str, float]:
    """Errors of the loss and of each gradient, see `compare`. rounds: how often the update
    is run; gradients are those of the last one."""
    objective = objective or CausalLM()
    data = rows(config, count, **batch)
    model = made(config)
    oracle = copy.deepcopy(model)
    loss, expected = alone(oracle, objective, data, micro * world_of(layout).data_size if config.moe else 1)
    world = world_of(layout)
    passes = parallelise(model, objective, None, world, COMPUTE, settings)
    for _ in range(rounds):
        model.zero_grad()
        found = together(passes, objective, data, world, micro)
    return {"loss": abs(found - loss) / abs(loss)} | compare(gradients(model), expected)


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Error of each gradient relative to the largest magnitude of all; and a tenth of its error relative to its own,
    where that is more than rounding (the bias of keys has no gradient at all, but for that)."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    errors = {}
    for name, value in expected.items():
        error, own = float((found[name] - value).abs().max()), float(value.abs().max())
        errors[name] = max(error / largest, 0.1 * error / own if own > 1e-3 * largest else 0.0)
    return errors


def worst(results: Sequence[Mapping[str, float]]) -> tuple[str, float]:
    """The largest error of all ranks, with its name."""
    errors = {name: max(result[name] for result in results) for name in results[0]}
    name = max(errors, key=lambda key: errors[key])
    return name, errors[name]
