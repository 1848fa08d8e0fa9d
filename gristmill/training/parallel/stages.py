"""A decoder in stages of blocks, one after another: where to cut, and what a stage runs (GPipe, arXiv:1811.06965).

The embedding belongs to the first stage, the last norm, the head and the loss to the last. Names of parameters stay the
model's own: block 7 is `blocks.7` wherever it lies.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from gristmill.core.errors import UserError
from gristmill.models.decoder import Decoder
from gristmill.models.layers.moe import expert_layers, recorded
from gristmill.objectives.base import Batch, Objective
from gristmill.objectives.moe_losses import BALANCE, RouterLosses, Z, balance_loss, z_loss
from gristmill.planning.anatomy import anatomy
from gristmill.training.accumulate import Everything, Part, add
from gristmill.training.device import Compute
from gristmill.training.micro_batch import Metrics, Sums

SHARED = "embedding"
"""What the last stage may need a copy of: as its head, or to look up the tokens that it has just predicted."""


# -- where to cut ------------------------------------------------------------------------------------------------------


def block_costs(config: Any) -> tuple[list[float], float]:
    """Forward FLOPs of a token in each block, and in the head; rows are as long as the config's context. The embedding
    is a lookup and costs nothing."""
    found = anatomy(config)
    costs = [0.0] * config.layers
    for product in found.products:
        if product.layer is not None:
            costs[product.layer] += 2 * product.parameters * product.share
    for attention in found.attentions:
        if attention.layer is not None:
            costs[attention.layer] += attention.pair * config.keys_seen(attention.layer, config.context)
    return costs, sum(2.0 * product.parameters for product in found.products if product.part == "head")


def cuts(costs: Sequence[float], sizes: Sequence[float], stages: int) -> list[range]:
    """Which consecutive items each of `stages` gets, at least one each: the most expensive stage costs as little as can
    be, and where several cuts are as good, the largest has the least `sizes`."""
    cheapest, _ = _cut(costs, [0.0] * len(costs), stages, float("inf"))
    _, chosen = _cut(sizes, costs, stages, cheapest * (1 + 1e-9))
    return chosen


def _cut(costs: Sequence[float], limited: Sequence[float], stages: int, limit: float) -> tuple[float, list[range]]:
    """The cut whose largest stage costs least, among those where no stage passes `limit` in `limited`."""
    sums, limits = ([0.0, *accumulate(values)] for values in (costs, limited))
    count, endless = len(costs), float("inf")
    best = [0.0] + [endless] * count  # by how many of the first items are dealt: the largest cost so far
    begins: list[list[int]] = []  # of each stage, by where it ends
    for _ in range(stages):
        found = [min(((max(best[start], sums[end] - sums[start]), start) for start in range(end)
                      if limits[end] - limits[start] <= limit), default=(endless, 0)) for end in range(count + 1)]
        best = [cost for cost, _ in found]
        begins.append([start for _, start in found])
    chosen, end = [], count
    for starts in reversed(begins):
        chosen.append(range(starts[end], end))
        end = starts[end]
    return best[count], chosen[::-1]


def stages_of(config: Any, attached: nn.Module | None, count: int) -> list[range]:
    """The layers of each stage, balanced by FLOPs and, where that leaves a choice, by parameters. attached: what the
    objective trains beside the model, which runs in the last stage."""
    costs, head = block_costs(config)
    sizes = [float(size) for size in anatomy(config).per_block]
    own = [p.numel() for p in attached.parameters() if p.ndim >= 2] if attached is not None else []
    again = len(list(attached.children())) if attached is not None else 0
    costs[-1] += head * (1 + again) + 2.0 * sum(own)
    embedding = float(config.vocab_size * config.dim)
    sizes[0] += embedding
    sizes[-1] += embedding + sum(own)
    return cuts(costs, sizes, count)


# -- what a stage is ---------------------------------------------------------------------------------------------------


class Scored:
    """An objective as the last stage needs it: what it makes of states, and the losses of experts in any stage."""

    def __init__(self, objective: Objective) -> None:
        """Raises UserError for an objective that does not score the states of one forward pass."""
        self.experts = objective.settings if isinstance(objective, RouterLosses) else None
        self.objective: Any = objective.objective if isinstance(objective, RouterLosses) else objective
        self.weights: Mapping[str, float] = objective.weights
        name = type(self.objective).__name__
        if not hasattr(self.objective, "score"):
            raise UserError(f"{name} cannot be trained in a pipeline: it runs the model in a way of its own",
                            where="parallel: pipeline",
                            fix="use the axes replicate, shard or tensor instead; pipelines train causal_lm, "
                                "multi_token, prefix_lm and fill_in_the_middle, without R-Drop")
        if self.experts is not None and self.experts.pooled_balance and BALANCE in self.weights:
            raise UserError("a balance loss that pools all layers' experts cannot be taken stage by stage",
                            where="parallel: pipeline", fix="set pooled_balance: false, or use other axes")

    @property
    def looks_up(self) -> bool:
        """Whether it needs the embedding beside the states."""
        return getattr(self.objective, "looks_up_tokens", False)

    def of_experts(self, routings: Sequence[Any], share: float) -> Sums:
        """The terms of these layers, which are `share` of all that have experts."""
        if self.experts is None or not routings:
            return {}
        found: Sums = {}
        if BALANCE in self.weights:
            found[BALANCE] = balance_loss(routings) * share
        if Z in self.weights:
            found[Z] = z_loss(routings) * share
        return found


class Stage(nn.Module):
    """Some of the blocks, and what stands before or behind them: runs the micro-batches of an update one by one.

    It is told of all of them by `begin`; every call of `forward` is the next one. Each is computed with the rows that
    it has. Only what is sent has the number of rows that all agree on, filled with zeros.
    """

    def __init__(self, model: Decoder, objective: Scored, attached: nn.Module | None, *, index: int, count: int,
                 share: float, compute: Compute) -> None:
        """model: as `part_of` gives it. index, count: which stage, of how many. share: how many of the layers with
        experts are here, over all."""
        super().__init__()
        self.model, self.attached = model, attached
        self.objective, self.compute, self.share = objective, compute, share
        self.first, self.last = index == 0, index == count - 1
        self.index = index
        self.part: Part = Everything()
        """What of a batch this process sees (context parallelism)."""
        self.begin((), {})

    def begin(self, batches: Sequence[Batch], factors: Mapping[str, Tensor | float]) -> None:
        """What the next calls are of."""
        self.batches, self.factors, self.at = [self.part(batch) for batch in batches], factors, 0
        self.sums: Sums = {}
        self.metrics: Metrics = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows that are sent each time, and tokens of each."""
        shapes = [batch["input_ids"].shape for batch in self.batches]
        return max(shape[0] for shape in shapes), shapes[0][1]

    def forward(self, given: Tensor) -> Tensor:
        """given (rows, time, dim), what the stage before sent; the first stage looks at none. Returns what the next one
        reads, of the same shape, or, last, what is minimised, (1,)."""
        batch = self.batches[self.at]
        self.at += 1
        count = len(batch["input_ids"])
        with self.compute.autocast(), recorded(self.model) as routings:
            x = self._through(given if self.first or len(given) == count else given[:count], batch)
            found, metrics = self.objective.of_experts(routings(), self.share), Metrics()
            if self.last:
                terms = self.objective.objective.score(self.model, self.model.leave(x), batch)
                found, metrics = {**terms.sums, **found}, terms.metrics
        add(self.sums, self.metrics, found, metrics)
        losses = [self.factors[name] * value for name, value in found.items() if name in self.factors]
        if self.last:
            # Not a view: zero-bubble schedules detach it in place.
            return torch.stack([*losses, x.new_zeros((), dtype=torch.float32)]).sum(0, keepdim=True)
        if losses and torch.is_grad_enabled():
            x = _Beside.apply(x, torch.stack(losses).sum())
        missing = self.shape[0] - count
        return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x

    def _through(self, given: Tensor, batch: Batch) -> Tensor:
        ids, documents = batch["input_ids"], batch.get("document_ids")
        places = self.model.placed(ids, documents, batch.get("position_ids"))
        x = self.model.enter(ids, places) if self.first else given
        return self.model.through(x, ids, places, document_ids=documents, prefix=batch.get("prefix"))


class _Beside(torch.autograd.Function):
    """The states as they are, and a loss of this stage: it takes part in the backward pass of what follows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.options = {"dtype": loss.dtype, "device": loss.device}
        return x.clone()  # not a view: zero-bubble schedules detach it in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return gradient, torch.ones((), **ctx.options)


def goes_back_from_functions() -> bool:
    """Whether torch can begin a backward pass at the node of an `autograd.Function`: 2.11 cannot."""
    x = torch.ones((), requires_grad=True)
    node = _Beside.apply(x, x).grad_fn
    try:
        torch.autograd.grad([GradientEdge(node, 0)], [x], [torch.ones(())])
    except RuntimeError:
        return False
    return True


# -- cutting a model ---------------------------------------------------------------------------------------------------


def part_of(model: Decoder, layers: Iterable[int], *, first: bool, last: bool, shared: bool) -> Decoder:
    """A decoder of some of the blocks, which are those of `model` themselves. shared: the last stage keeps the
    embedding too."""
    part = copy.deepcopy(model, {id(child): child for child in model.children()})
    keep_only(part, layers, first=first, last=last, shared=shared)
    return part


def keep_only(model: Decoder, layers: Iterable[int], *, first: bool, last: bool, shared: bool) -> None:
    """Take everything else from `model`, in place."""
    blocks = nn.ModuleList()
    for layer in layers:
        blocks.add_module(str(layer), model.blocks[layer])
    model.blocks = blocks
    if not first:
        model.positions = None
        if not (last and shared):
            model.embedding = None  # type: ignore[assignment]
    if not last:
        model.norm = model.head = None  # type: ignore[assignment]


def empty(module: nn.Module) -> None:
    """Take all parameters from a module that another stage runs."""
    for name in [name for name, _ in module.named_children()]:
        delattr(module, name)
    for name in [name for name, _ in module.named_parameters(recurse=False)]:
        module.register_parameter(name, None)


def expert_share(model: Decoder, layers: Iterable[int]) -> float:
    """How many of the layers with experts are among these."""
    everywhere = len(expert_layers(model))
    return sum(len(expert_layers(model.blocks[layer])) for layer in layers) / everywhere if everywhere else 0.0
