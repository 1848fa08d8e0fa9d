"""Cross-entropy of a head whose vocabulary is cut over processes (Shoeybi et al. 2019, arXiv:1909.08053, section 3).

Each process has the logits of its own tokens. For every target they exchange a maximum and five sums, never logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate

from gristmill.objectives.cross_entropy import CHUNK, IGNORED, HeadLoss, Options, logits_of, scaled


class VocabularyLoss:
    """`cross_entropy.head_loss` for a head of DTensors, cut along the vocabulary."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def __call__(
        self, hidden: Tensor, head: Tensor, targets: Tensor, chunk: int | None = None, *, bias: Tensor | None = None,
        label_smoothing: float = 0.0, z_loss: float = 0.0, soft_cap: float | None = None,
    ) -> HeadLoss:
        """hidden (tokens, dim), the same on all processes, plain or a DTensor; head (vocab, dim) and bias (vocab,)
        DTensors; targets (tokens,). The same result on all processes."""
        assert isinstance(head, DTensor)
        if not isinstance(hidden, DTensor):
            hidden = DTensor.from_local(hidden, head.device_mesh, [Replicate()], run_check=False)
        # What a process finds for the states' gradient comes from its own part of the vocabulary.
        hidden, weight = hidden.to_local(grad_placements=[Partial()]), head.to_local()
        own_bias = bias.to_local() if isinstance(bias, DTensor) else None
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        kept = targets != IGNORED
        if not bool(kept.all()):
            hidden, targets = hidden[kept], targets[kept]
        # Logits of a chunk take the memory that they take in one process.
        options = Options(label_smoothing, z_loss, soft_cap, (chunk or CHUNK) * self.size)
        return HeadLoss(*_Loss.apply(hidden, weight, targets, own_bias, options, self))


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, targets, bias, options, over):  # type: ignore[no-untyped-def]
        to_hidden, to_head, _, to_bias, *_ = ctx.needs_input_grad
        vocabulary = head.shape[0] * over.size
        sums = torch.zeros(3, dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden) if to_hidden else None
        head_gradient = torch.zeros(head.shape, dtype=torch.float32, device=head.device) if to_head else None
        bias_gradient = torch.zeros(head.shape[0], dtype=torch.float32, device=head.device) if to_bias else None
        near = head.to(hidden.dtype)
        for start in range(0, hidden.shape[0], options.chunk):
            part = slice(start, start + options.chunk)
            logits = logits_of(hidden[part], near, bias, options.soft_cap)
            found = _Chunk(logits, targets[part], over)
            correct += found.correct
            sums += found.sums(vocabulary)
            if not (to_hidden or to_head or to_bias):
                continue
            slope = found.slope(vocabulary, options)
            if bias_gradient is not None:
                bias_gradient += slope.sum(0)
            slope = slope.to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient[part] = slope @ near
            if head_gradient is not None:
                head_gradient += slope.t() @ hidden[part]
        ctx.save_for_backward(hidden_gradient, None if head_gradient is None else head_gradient.to(head.dtype),
                              None if bias_gradient is None else bias_gradient.to(bias.dtype))
        cross_entropy, smoothed, z_squares = sums.unbind()
        total = (1 - options.label_smoothing) * cross_entropy + options.label_smoothing * smoothed
        total = total + options.z_loss * z_squares
        made = (total, cross_entropy.clone(), correct, z_squares if options.z_loss else torch.zeros_like(z_squares))
        ctx.mark_non_differentiable(*made[1:])
        return made

    @staticmethod
    def backward(ctx, total_gradient, *_):  # type: ignore[no-untyped-def]
        hidden, head, bias = (None if saved is None else scaled(saved, total_gradient) for saved in ctx.saved_tensors)
        return hidden, head, None, bias, None, None


class _Chunk:
    """What the processes together know about some targets; logits (tokens, own vocabulary) fp32."""

    def __init__(self, logits: Tensor, targets: Tensor, over: VocabularyLoss) -> None:
        self.logits, width = logits, logits.shape[1]
        owner = targets // width
        self.mine = owner == over.rank
        self.wanted = torch.where(self.mine, targets - over.rank * width, 0)
        self.largest = logits.amax(-1)
        dist.all_reduce(self.largest, dist.ReduceOp.MAX, group=over.group)
        first = logits == self.largest[:, None]
        # The first of equal logits counts as the most likely: none of a process before, and none before it here.
        leading = first.any(-1)
        right = self.mine & leading & (torch.argmax(first.to(torch.int8), -1) == self.wanted)
        picked = logits.gather(1, self.wanted[:, None]).squeeze(1)
        shared = torch.stack([
            (logits - self.largest[:, None]).exp().sum(-1),
            torch.where(self.mine, picked, 0),
            logits.sum(-1),
            right.float(),
            (leading & (over.rank < owner)).float(),
        ])
        dist.all_reduce(shared, group=over.group)
        self.log_z = self.largest + shared[0].log()
        self.picked, self.added = shared[1], shared[2]
        self.correct = ((shared[3] > 0) & (shared[4] == 0)).sum()

    def sums(self, vocabulary: int) -> Tensor:
        """Cross-entropy, its part of even targets, and log(Z)²."""
        return torch.stack([(self.log_z - self.picked).sum(), (self.log_z - self.added / vocabulary).sum(),
                            self.log_z.square().sum()])

    def slope(self, vocabulary: int, options: Options) -> Tensor:
        """The gradient of the total by the own logits (before the soft cap), (tokens, own vocabulary)."""
        slope = (self.logits - self.log_z[:, None]).exp_()
        if options.z_loss:
            slope *= (1 + 2 * options.z_loss * self.log_z)[:, None]
        if options.label_smoothing:
            slope -= options.label_smoothing / vocabulary
        true = torch.where(self.mine, options.label_smoothing - 1, 0.0).to(slope.dtype)
        slope.scatter_add_(1, self.wanted[:, None], true[:, None])
        if options.soft_cap is not None:
            slope *= 1 - (self.logits / options.soft_cap).square_()
        return slope
