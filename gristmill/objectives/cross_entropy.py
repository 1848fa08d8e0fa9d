"""Cross-entropy of a linear head, without ever holding the logits of the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.objectives import cpu_head, gpu_head
from gristmill.objectives.base import IGNORED as IGNORED
from gristmill.objectives.known_targets import counted_rows, known_of

CHUNK = 512
"""Tokens whose logits exist at one time."""
LOGITS = 2**24
"""Logits that exist at one time where they are bf16 and become their own gradient, 32 MB, if that is more: a product
over few tokens writes all of the head's gradient for little work."""


class HeadLoss(NamedTuple):
    """What a head's chunks add up to; scalars. Only `total` carries gradients."""

    total: Tensor
    """What is to be minimised: the cross-entropy (smoothed where asked for) plus the z-loss, fp32."""
    cross_entropy: Tensor
    """The pure cross-entropy in nats: what is reported, so that scores stay comparable."""
    correct: Tensor
    """Targets whose most likely token is the true one, int64."""
    z_squares: Tensor
    """Sum of log(Z)², 0 unless there is a z-loss."""


class HeadCall(NamedTuple):
    """What a head was given: the states (tokens, dim) of the targets that are not ignored, and its own numbers, which
    may be of another type than the states."""

    states: Tensor
    head: Tensor
    bias: Tensor | None
    soft_cap: float | None


_calls: ContextVar[list[HeadCall] | None] = ContextVar("head calls", default=None)


@contextlib.contextmanager
def head_calls() -> Iterator[list[HeadCall]]:
    """Inside, every call of a head is noted in the list that is given: how R-Drop reaches the predictions of any
    objective."""
    noted: list[HeadCall] = []
    token = _calls.set(noted)
    try:
        yield noted
    finally:
        _calls.reset(token)


class Options(NamedTuple):
    """What may be changed about the plain form."""

    label_smoothing: float
    z_loss: float
    soft_cap: float | None
    chunk: int
    fused: bool = False
    """Whether `gpu_head` does the work between the matrix products."""

    @property
    def plain(self) -> bool:
        return not self.label_smoothing and not self.z_loss


def linear_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    chunk: int | None = None,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of -log softmax(hidden @ headᵀ + bias)[target] over the targets that are not ignored.

    hidden (tokens, dim); head (vocab, dim); bias (vocab,); targets (tokens,) int64. Returns the sum (scalar, fp32,
    differentiable in hidden, head and bias) and the number of targets whose most likely token is the true one (scalar,
    no gradient). Chunks of `chunk` tokens (`CHUNK`, or what `LOGITS` allows) are pushed through the head one after
    another and their gradients taken at once, so the memory is chunk x vocab instead of tokens x vocab, and nothing is
    computed twice. Options: `head_loss`.
    """
    found = head_loss(hidden, head, targets, chunk, bias=bias, label_smoothing=label_smoothing, z_loss=z_loss,
                      soft_cap=soft_cap)
    return found.total, found.correct


def head_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    chunk: int | None = None,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
) -> HeadLoss:
    """`linear_cross_entropy` with its parts.

    label_smoothing ε: the target is (1 - ε) of the true token and ε / vocab of every token (Szegedy et al. 2016,
    arXiv:1512.00567, section 7). z_loss ζ: adds ζ log(Z)², Z being the softmax's denominator, which keeps logits near
    zero (Chowdhery et al. 2022, arXiv:2204.02311, section 5: ζ = 1e-4). soft_cap c: logits become c tanh(logits / c)
    (Gemma 2, arXiv:2408.00118, section 2).
    """
    options = Options(label_smoothing, z_loss, soft_cap, chunk or CHUNK)
    cast = torch.is_autocast_enabled(hidden.device.type)
    if cast:
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    if gpu_head.takes(hidden, head):  # the same size whatever counts: what is compiled for it is met again
        options = options._replace(
            chunk=chunk or gpu_head.chunk_of(len(hidden), len(head), hidden.dtype), fused=True)
    compiling = torch.compiler.is_compiling()
    weights, known = None, None if compiling else known_of(targets)
    if compiling or (known is not None and known.weighed):  # no shape may hang on the data: ignored rows are zeroed
        kept = targets != IGNORED
        weights, targets = kept.float(), targets.masked_fill(~kept, 0)
    else:  # left out rather than masked: with loss on answers only, most rows are
        rows = counted_rows(targets) if known is None else known.rows
        if rows is not None:
            hidden, targets = hidden.index_select(0, rows), targets.index_select(0, rows)
    noted = None if compiling else _calls.get()
    if noted is not None:
        noted.append(HeadCall(hidden, head, bias, soft_cap))
    if (chunk is None and not _whole(hidden, head, bias, weights, options)
            and _in_place(hidden, head, bias, weights, options)):
        options = options._replace(chunk=max(CHUNK, LOGITS // head.shape[0]))
    learnt = hidden.requires_grad or head.requires_grad or (bias is not None and bias.requires_grad)
    if not torch.is_grad_enabled() or not learnt:
        return _forward_only(hidden, head, targets, bias, weights, options)
    return HeadLoss(*_HeadLoss.apply(hidden, head, targets, bias, weights, options))


def output_loss(model: nn.Module, states: Tensor, targets: Tensor, *, label_smoothing: float = 0.0,
                z_loss: float = 0.0) -> HeadLoss:
    """The loss of a body's own head, with its bias and soft cap where it has them.

    states (batch, time, dim): of the body's `hidden`; targets (batch, time). A model may bring a `head_loss` of its
    own, with the arguments of the one here: a head that is split over devices does.
    """
    loss = getattr(model, "head_loss", None) or head_loss
    return loss(
        states.flatten(0, 1), model.head_weight, targets.flatten(), bias=getattr(model, "head_bias", None),  # type: ignore[arg-type]
        soft_cap=getattr(model, "logit_soft_cap", None), label_smoothing=label_smoothing, z_loss=z_loss)


def logits_of(states: Tensor, head: Tensor, bias: Tensor | None, soft_cap: float | None) -> Tensor:
    """states (tokens, dim), head (vocab, dim), bias (vocab,) -> (tokens, vocab) in fp32."""
    logits = F.linear(states, head).float()
    if bias is not None:
        logits += bias.float()
    return logits if soft_cap is None else logits.div_(soft_cap).tanh_().mul_(soft_cap)


def _hits(logits: Tensor, wanted: Tensor, weights: Tensor | None) -> Tensor:
    """How many of `wanted` (tokens,) are the first largest of their row of `logits` (tokens, vocab)."""
    if logits.device.type != "cpu" or weights is not None:
        right = logits.argmax(-1) == wanted
        return (right if weights is None else right & (weights > 0)).sum()
    # On a CPU argmax costs more than the softmax and max a tenth of it; argmax then settles ties.
    rows = (logits.gather(1, wanted[:, None]).squeeze(1) == logits.amax(-1)).nonzero().squeeze(1)
    return (logits[rows].argmax(-1) == wanted[rows]).sum()


def _log_z(logits: Tensor, logs: Tensor) -> Tensor:
    """log of the softmax's denominator, (tokens,), from what log_softmax gave."""
    return logits.amax(-1) - logs.amax(-1)


def _simple(bias: Tensor | None, weights: Tensor | None, options: Options) -> bool:
    return (options.plain and bias is None and options.soft_cap is None and weights is None
            and not torch.compiler.is_compiling())


def _whole(hidden: Tensor, head: Tensor, bias: Tensor | None, weights: Tensor | None, options: Options) -> bool:
    """Whether `cpu_head` does all the work."""
    return _simple(bias, weights, options) and cpu_head.takes_whole(hidden, head)


def _in_place(hidden: Tensor, head: Tensor, bias: Tensor | None, weights: Tensor | None, options: Options) -> bool:
    """Whether `cpu_head` does the work between the matrix products."""
    return _simple(bias, weights, options) and cpu_head.takes(hidden, head)


def _forward_only(hidden: Tensor, head: Tensor, targets: Tensor, bias: Tensor | None, weights: Tensor | None,
                  options: Options) -> HeadLoss:
    totals = _Totals(hidden.device)
    if _whole(hidden, head, bias, weights, options):
        totals.add_rows(*cpu_head.head_loss(hidden, head, targets, options.chunk, of_hidden=False, of_head=False)[:2])
        return totals.finished(options)
    in_place, head = _in_place(hidden, head, bias, weights, options), head.to(hidden.dtype)
    if options.fused:
        for _ in _fused(hidden, head, targets, bias, weights, options, totals, slopes=False):
            pass
        return totals.finished(options)
    if in_place:
        for start in range(0, hidden.shape[0], options.chunk):
            part = slice(start, start + options.chunk)
            totals.add_rows(*cpu_head.head_rows(F.linear(hidden[part], head), targets[part], slopes=False))
        return totals.finished(options)
    for start in range(0, max(hidden.shape[0], 1), options.chunk):
        part = slice(start, start + options.chunk)
        logits, wanted = logits_of(hidden[part], head, bias, options.soft_cap), targets[part]
        rows = None if weights is None else weights[part]
        totals.correct += _hits(logits, wanted, rows)
        if options.plain and rows is None:
            totals.cross_entropy += F.cross_entropy(logits, wanted, reduction="sum")
        else:
            totals.add(logits, logits.log_softmax(-1), wanted, rows, options)
    return totals.finished(options)


def _fused(hidden: Tensor, head: Tensor, targets: Tensor, bias: Tensor | None, weights: Tensor | None, options: Options,
           totals: _Totals, slopes: bool) -> Iterator[tuple[slice, Tensor]]:
    """Chunk by chunk: add to `totals`, and give what of the tokens it was and the logits (tokens, vocab), which the
    gradient by them has taken the place of where `slopes`; the next chunk overwrites it.

    The last chunk is as long as the others, so that nothing is compiled for it; its end is left out.
    """
    room = hidden.new_empty(options.chunk, head.shape[0])
    for start in range(0, hidden.shape[0], options.chunk):
        part = slice(start, start + options.chunk)
        states = hidden[part]
        filled = slice(len(states))
        torch.mm(states, head.t(), out=room[filled])
        wanted, of_rows = (None if rows is None else F.pad(rows[part], (0, options.chunk - len(states)))
                           for rows in (targets, weights))
        found = gpu_head.compiled_rows()(
            room, wanted, of_rows, bias, label_smoothing=options.label_smoothing, z_loss=options.z_loss,
            soft_cap=options.soft_cap, slopes=slopes)
        totals.add_rows(found.losses[filled], found.hits[filled], *(
            None if rows is None else rows[filled] for rows in (found.spread, found.z_squares, of_rows)))
        yield part, room[filled]


class _Totals:
    """Sums over chunks."""

    def __init__(self, device: torch.device) -> None:
        self.cross_entropy, self.smoothed, self.z_squares = (
            torch.zeros((), dtype=torch.float32, device=device) for _ in range(3))
        self.correct = torch.zeros((), dtype=torch.int64, device=device)

    def add(
        self, logits: Tensor, logs: Tensor, wanted: Tensor, weights: Tensor | None, options: Options,
    ) -> Tensor | None:
        """Add a chunk; logs (tokens, vocab) are log-probabilities. Returns log Z (tokens,) where it is needed."""
        picked = logs.gather(1, wanted[:, None])
        self.cross_entropy -= (picked if weights is None else picked * weights[:, None]).sum()
        if options.label_smoothing:
            spread = logs.mean(-1)
            self.smoothed -= (spread if weights is None else spread * weights).sum()
        if not options.z_loss:
            return None
        log_z = _log_z(logits, logs)
        squares = log_z.square()
        self.z_squares += (squares if weights is None else squares * weights).sum()
        return log_z

    def add_rows(self, losses: Tensor, hits: Tensor, spread: Tensor | None = None, z_squares: Tensor | None = None,
                 weights: Tensor | None = None) -> None:
        """Add a chunk of which everything, each (tokens,), is known: see `gpu_head.Rows`."""
        self.correct += (hits if weights is None else hits & (weights > 0)).sum()
        for total, rows in ((self.cross_entropy, losses), (self.smoothed, spread), (self.z_squares, z_squares)):
            if rows is not None:
                total += (rows if weights is None else rows * weights).sum()

    def finished(self, options: Options) -> HeadLoss:
        total = self.cross_entropy
        if options.label_smoothing:
            total = (1 - options.label_smoothing) * total + options.label_smoothing * self.smoothed
        if options.z_loss:
            total = total + options.z_loss * self.z_squares
        return HeadLoss(total, self.cross_entropy.clone(), self.correct, self.z_squares)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, targets, bias, weights, options):  # type: ignore[no-untyped-def]
        to_hidden, to_head, _, to_bias, _, _ = ctx.needs_input_grad
        totals = _Totals(hidden.device)
        if _whole(hidden, head, bias, weights, options):
            losses, hits, *gradients = cpu_head.head_loss(hidden, head, targets, options.chunk, of_hidden=to_hidden,
                                                          of_head=to_head)
            totals.add_rows(losses, hits)
            return _HeadLoss._found(ctx, totals.finished(options), (hidden, head, bias), (*gradients, None))
        hidden_gradient = torch.empty_like(hidden) if to_hidden else None
        head_gradient = torch.zeros(head.shape, dtype=torch.float32, device=head.device) if to_head else None
        bias_gradient = torch.zeros(head.shape[0], dtype=torch.float32, device=head.device) if to_bias else None
        in_place, near = _in_place(hidden, head, bias, weights, options), head.to(hidden.dtype)
        chunks = (_fused if options.fused else _HeadLoss._chunks)(
            hidden, near, targets, bias, weights, options, totals, in_place or options.fused)
        for part, slope in chunks:
            if bias_gradient is not None:
                bias_gradient += slope.sum(0, dtype=torch.float32)
            slope = slope.to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient[part] = slope @ near
            if head_gradient is not None:
                head_gradient = gpu_head.add_product(head_gradient, slope.t(), hidden[part])
        return _HeadLoss._found(ctx, totals.finished(options), (hidden, head, bias),
                                (hidden_gradient, head_gradient, bias_gradient))

    @staticmethod
    def _chunks(hidden, head, targets, bias, weights, options, totals, in_place):  # type: ignore[no-untyped-def]
        """As `_fused`, where nothing is; the gradients are fp32 unless they are made in place."""
        for start in range(0, hidden.shape[0], options.chunk):
            part = slice(start, start + options.chunk)
            wanted, rows = targets[part], None if weights is None else weights[part]
            if in_place:
                slope = F.linear(hidden[part], head)
                totals.add_rows(*cpu_head.head_rows(slope, wanted, slopes=True))
            else:
                logits = logits_of(hidden[part], head, bias, options.soft_cap)
                totals.correct += _hits(logits, wanted, rows)
                logs = torch.log_softmax(logits, dim=-1)
                log_z = totals.add(logits, logs, wanted, rows, options)
                slope = _slope(logits, logs, log_z, wanted, rows, options)
            yield part, slope

    @staticmethod
    def _found(ctx, found, inputs, gradients):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*(None if gradient is None else gradient.to(given.dtype)
                                for gradient, given in zip(gradients, inputs, strict=True)))
        ctx.mark_non_differentiable(*found[1:])
        return tuple(found)

    @staticmethod
    def backward(ctx, total_gradient, *_):  # type: ignore[no-untyped-def]
        hidden, head, bias = (None if saved is None else scaled(saved, total_gradient) for saved in ctx.saved_tensors)
        return hidden, head, None, bias, None, None


def scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """gradient * factor (0-d) in the gradient's type; by way of fp32 where a loss scale may leave its range."""
    if gradient.dtype == torch.float16:
        return (gradient.float() * factor).to(torch.float16)
    return gradient * factor.to(gradient.dtype)


def _slope(logits: Tensor, logs: Tensor, log_z: Tensor | None, wanted: Tensor, weights: Tensor | None,
           options: Options) -> Tensor:
    """The gradient of a chunk's total by its logits (before the soft cap), (tokens, vocab) fp32; overwrites `logs`."""
    slope = logs.exp_()
    if log_z is not None:
        slope *= (1 + 2 * options.z_loss * log_z)[:, None]
    if options.label_smoothing:
        slope -= options.label_smoothing / slope.shape[-1]
    picked = wanted[:, None]
    slope.scatter_add_(1, picked, torch.full_like(picked, options.label_smoothing - 1, dtype=slope.dtype))
    if options.soft_cap is not None:
        slope *= 1 - (logits / options.soft_cap).square_()
    return slope if weights is None else slope.mul_(weights[:, None])


def sequence_log_probabilities(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Sum over time of log p(target), one number a row.

    hidden (batch, time, dim); head (vocab, dim); targets (batch, time), ignored ones add nothing. Returns (batch,).
    """
    kept = targets != IGNORED
    rows = torch.arange(targets.shape[0], device=targets.device)[:, None].expand_as(targets)[kept]
    logits = F.linear(hidden[kept], head).float()
    logs = -F.cross_entropy(logits, targets[kept], reduction="none")
    return torch.zeros(targets.shape[0], dtype=torch.float32, device=hidden.device).index_add(0, rows, logs)
