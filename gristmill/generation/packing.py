"""The decoder as generation runs it: joined projections, weights laid out once for the matrix kernels.

A Decoder joins and reorders its weights in every call, which training wants (they change) and generation, with a
handful of rows a call, pays for dearly. The packed form does the same arithmetic on copies made once. On CPUs the
copies go through oneDNN, whose results for a row do not depend on how many other rows are in the batch
(docs/decisions.md, "batch-invariant decoding"); that is what makes served text equal to offline text.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gristmill.models.config.decoder import VALUE_GATE
from gristmill.models.decoder import Block, Cache, Decoder
from gristmill.models.layers.mlp import ACTIVATIONS, GATES, MLP, GatedMLP
from gristmill.models.layers.rotary import rotate

SHARE_OF_MEMORY = 0.5
"""Packed copies are made when they take less than this share of the free memory."""


class PackedLinear:
    """x @ [w1; w2; ...]ᵀ + [b1; b2; ...] with the weights joined, and reordered for oneDNN where that is possible."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], dtype: torch.dtype) -> None:
        """weights (out, in) and biases (out,) or None, joined along out; products are computed in `dtype`."""
        joined = torch.cat(list(weights)).to(dtype) if len(weights) > 1 else weights[0].detach().to(dtype)
        given = [bias for bias in biases if bias is not None]
        self.dtype, self.bias = dtype, torch.cat(given).to(dtype) if given else None
        self.reordered = has_onednn(joined)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(joined, None) if self.reordered else joined

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        x = x.to(self.dtype)
        if not self.reordered:
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) == 1:  # a single row would take another kernel, with other rounding
            rows = rows.expand(2, -1).contiguous()
            out = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")[:1]
        else:
            out = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return out.view(*x.shape[:-1], -1)


def has_onednn(weight: Tensor) -> bool:
    """Whether oneDNN takes this weight in a layout of its own."""
    return (
        weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and (weight.dtype == torch.float32
             or (weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())))
    )


class PackedMLP:
    """The products of a feed-forward layer, with a gate or without."""

    def __init__(self, mlp: GatedMLP | MLP, dtype: torch.dtype) -> None:
        inputs = (mlp.gate, mlp.up) if isinstance(mlp, GatedMLP) else (mlp.up,)
        self.gated = isinstance(mlp, GatedMLP)
        self.activation = (GATES if self.gated else ACTIVATIONS)[mlp.activation]
        self.wide = PackedLinear([m.weight for m in inputs], [m.bias for m in inputs], dtype)
        self.down = PackedLinear([mlp.down.weight], [mlp.down.bias], dtype)

    def __call__(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        if not self.gated:
            return self.down(self.activation(wide))
        gate, up = wide.chunk(2, dim=-1)
        return self.down(self.activation(gate) * up)


class PackedBlock:
    """One block's products, and the block itself for its norms."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        attention = block.attention
        inputs = (attention.query, attention.key, attention.value)
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.query_norm, self.key_norm, self.pattern = attention.query_norm, attention.key_norm, attention.pattern
        self.looked_up, gate = attention.looked_up, attention.value_gate
        self.value_gate = None if gate is None else PackedLinear([gate.weight], [], dtype)
        self.inputs = PackedLinear([m.weight for m in inputs], [m.bias for m in inputs], dtype)
        self.output = PackedLinear([attention.output.weight], [attention.output.bias], dtype)
        self.mlp = PackedMLP(cast(GatedMLP, block.mlp), dtype)


class PackedDecoder:
    """Same results as the Decoder it is made from, up to rounding; does not follow later changes of its weights."""

    def __init__(self, model: Decoder, dtype: torch.dtype, vocab_size: int) -> None:
        """dtype: of the products; the residual stream keeps the embedding's. vocab_size: no logits beyond it."""
        self.model, self.config, self.dtype = model, model.config, dtype
        self.blocks = [PackedBlock(cast(Block, block), dtype) for block in model.blocks]
        self.head = PackedLinear([model.head_weight[:vocab_size]], [], dtype)
        self.invariant = self.head.reordered
        """Whether a row's result is the same in every batch, bit for bit."""

    def hidden(self, input_ids: Tensor, position_ids: Tensor, cache: Cache) -> Tensor:
        """States that the head reads (batch, time, dim); input_ids and position_ids (batch, time)."""
        heads, kv_heads, size = self.config.heads, self.config.kv_heads, self.config.head_dim
        x = F.embedding(input_ids, self.model.embedding.weight)
        angles = None
        if self.model.positions is not None:
            x = x + self.model.positions(position_ids)
        if self.model.rotary is not None:
            angles = tuple(table.to(self.dtype) for table in self.model.rotary(position_ids))
        for layer, block in enumerate(self.blocks):
            normed = block.attention_norm(x)
            joined = block.inputs(normed).unflatten(-1, (-1, size)).transpose(1, 2)
            turned, v = joined.split([heads + kv_heads, kv_heads], dim=1)
            if block.value_gate is not None:
                v = v + block.looked_up(input_ids, block.value_gate(normed[..., :VALUE_GATE])).to(v.dtype)
            if block.query_norm is not None and block.key_norm is not None:
                q, k = turned.split([heads, kv_heads], dim=1)
                turned = torch.cat((block.query_norm(q), block.key_norm(k)), dim=1).to(self.dtype)
            if angles is not None:
                turned = rotate(turned, *angles)
            mixed = cache.attend(layer, turned[:, :heads], turned[:, heads:], v, block.pattern)
            mixed = block.output(mixed.transpose(1, 2).flatten(2))
            if block.mlp_norm is None:
                x = x + (mixed + block.mlp(normed))
            else:
                x = x + mixed
                x = x + block.mlp(block.mlp_norm(x))
        states = self.model.norm(x)
        return states if self.config.logit_scale == 1.0 else states * self.config.logit_scale

    def logits(self, states: Tensor) -> Tensor:
        """states (..., dim) -> (..., vocab), fp32."""
        return self.head(states).float()


class PlainDecoder:
    """The model itself behind the same three names: for other bodies, accelerators, and weights too large to copy."""

    invariant = False

    def __init__(self, model: Decoder, dtype: torch.dtype, vocab_size: int) -> None:
        self.model, self.config, self.dtype, self.vocab_size = model, model.config, dtype, vocab_size

    def hidden(self, input_ids: Tensor, position_ids: Tensor, cache: Cache) -> Tensor:
        with self._precision():
            return self.model.hidden(input_ids, position_ids=position_ids, cache=cache)

    def logits(self, states: Tensor) -> Tensor:
        with self._precision():
            return F.linear(states, self.model.head_weight[: self.vocab_size]).float()

    def _precision(self) -> contextlib.AbstractContextManager:
        weight = self.model.head_weight
        same = weight.dtype == self.dtype
        return contextlib.nullcontext() if same else torch.autocast(weight.device.type, self.dtype)


def packable(model: Decoder) -> bool:
    """Whether a decoder has the parts that the packed form knows, and lies where it helps."""
    return type(model) is Decoder and model.head_weight.device.type == "cpu" and all(
        type(block) is Block and type(block.mlp) in (GatedMLP, MLP) for block in model.blocks)


@torch.no_grad()
def prepare(model: Decoder, dtype: torch.dtype, vocab_size: int) -> PackedDecoder | PlainDecoder:
    """The form in which `model` generates fastest here, with products in `dtype`."""
    if not packable(model):
        return PlainDecoder(model, dtype, vocab_size)
    needed = sum(parameter.nbytes for parameter in model.parameters())
    free = needed * 10
    with contextlib.suppress(OSError, ValueError, AttributeError):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return (PackedDecoder if needed < SHARE_OF_MEMORY * free else PlainDecoder)(model, dtype, vocab_size)
