"""Less memory for activations: parts of the forward pass are made again when the backward pass needs them.

Chen et al. 2016, arXiv:1604.06174. Applied to a model from outside, before its blocks are compiled and before their
weights are sharded. Gradients are the same, dropout included: random numbers are drawn again as they were.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from gristmill.core.config import require
from gristmill.models.body import Body
from gristmill.models.layers.moe import MoE, expert_layers

Checkpointing = Literal["none", "selective", "full"] | float
"""What of each block is kept for its backward pass. none: everything. selective: the results of its projections and of
fused attention; the rest, cheap to make, is made again. full: its input only. A number from 0 to 1: a budget, this
share of what `none` keeps; the compiler chooses what to make again, and without one the first blocks are `full`."""

SAVED = ("mm", "addmm", "_scaled_mm", "_scaled_mm_v2", "_grouped_mm", "_scaled_grouped_mm",
         "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
         "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
         "_flash_attention_forward", "_efficient_attention_forward")
"""Names of the operations of aten whose results `selective` keeps; products of two batches, such as the attention that
is not fused makes, are too large."""
SAVED_OF_OURS = ("cpu_linear", "cpu_gated", "cpu_attention", "cpu_joined_attention")
"""The same of the operators that `models.layers` defines."""


def check_checkpointing(choice: Checkpointing, field: str = "activation_checkpointing") -> None:
    """ValueError for a budget out of range."""
    if isinstance(choice, (int, float)):
        require(0 <= choice <= 1, field, "a budget is a share from 0 (make everything again) to 1 (keep everything)")


def checkpoint_activations(model: Body, choice: Checkpointing, *, compiled: bool = False) -> None:
    """Let the blocks of `model` keep less, in place; names and state stay the same.

    compiled: whether the blocks will be compiled, which has to come after this. May be called again with another
    choice before they are.
    """
    check_checkpointing(choice)
    blocks = list(model.all_blocks)
    for block in blocks:
        block.__dict__.pop("forward", None)
    budget = 1.0
    if isinstance(choice, (int, float)):
        if compiled:
            budget, blocks = float(choice), []
        else:
            blocks, choice = blocks[:round((1 - choice) * len(blocks))], "full"
    # The compiler reads it when it first sees a block; there is no other way to tell it (torch's own engines use it).
    import torch._functorch.config as compiler

    compiler.activation_memory_budget = budget
    if choice != "none":
        for block in blocks:
            block.forward = _checkpointed(block, block.forward, choice == "selective")  # type: ignore[method-assign]


def _checkpointed(block: nn.Module, forward: Callable[..., Any], selective: bool) -> Callable[..., Any]:
    experts, saved = expert_layers(block), _saved()

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        options: dict[str, Any] = {}
        if selective and not experts:
            options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, saved)
        elif experts:
            options["context_fn"] = functools.partial(_contexts, experts, saved if selective else None)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **options, **kwargs)

    return run


def _saved() -> list[Any]:
    found = [getattr(torch.ops.aten, name).default for name in SAVED if hasattr(torch.ops.aten, name)]
    found += [getattr(torch.ops.gristmill, name).default for name in SAVED_OF_OURS]
    if hasattr(torch.ops.higher_order, "flex_attention"):
        found.append(torch.ops.higher_order.flex_attention)
    return found


def _contexts(experts: Sequence[MoE], saved: list[Any] | None) -> tuple[Any, Any]:
    """Around a block's forward pass, and around its repetition, which must not count the experts' loads again."""
    first, again = create_selective_checkpoint_contexts(saved) if saved is not None else (
        contextlib.nullcontext(), contextlib.nullcontext())
    return first, _repeated(experts, [layer.recording for layer in experts], again)


@contextlib.contextmanager
def _repeated(experts: Sequence[MoE], recording: Sequence[bool], inner: Any) -> Iterator[None]:
    kept = [(layer.load.clone(), layer.dropped.clone(), layer.recording, layer.routing) for layer in experts]
    for layer, was in zip(experts, recording, strict=True):
        layer.recording = was
    try:
        with inner:
            yield
    finally:
        for layer, (load, dropped, now, routing) in zip(experts, kept, strict=True):
            layer.load.copy_(load)
            layer.dropped.copy_(dropped)
            layer.recording, layer.routing = now, routing
