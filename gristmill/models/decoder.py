"""The decoder body: pre-norm blocks of causal attention and SwiGLU, as in Llama (arXiv:2302.13971)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.models.config import DecoderConfig
from gristmill.models.layers.attention import causal_attention
from gristmill.models.layers.rotary import Rotary, rotate


class Cache(Protocol):
    """Keys and values of earlier tokens; owns their storage and the masking of ragged batches."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (batch, heads, time, head_dim), k and v (batch, kv_heads, time, head_dim), rotated -> like q."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square taken in fp32 (arXiv:1910.07467)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.sizes = (wide, narrow, narrow)
        self.query = nn.Linear(config.dim, wide, bias=config.attention_bias)
        self.key = nn.Linear(config.dim, narrow, bias=config.attention_bias)
        self.value = nn.Linear(config.dim, narrow, bias=config.attention_bias)
        self.output = nn.Linear(wide, config.dim, bias=config.attention_bias)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, document_ids: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """x (batch, time, dim) -> (batch, time, dim)."""
        q, k, v = (self._heads(part) for part in joined_linear(x, self.query, self.key, self.value))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is None:
            mixed = causal_attention(q, k, v, document_ids)
        else:
            mixed = cache.attend(self.layer, q, k, v)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.mlp_dim, bias=config.mlp_bias)
        self.up = nn.Linear(config.dim, config.mlp_dim, bias=config.mlp_bias)
        self.down = nn.Linear(config.mlp_dim, config.dim, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = joined_linear(x, self.gate, self.up)
        return self.down(F.silu(gate) * up)


def joined_linear(x: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
    """Several projections of the same input as one matrix product: the weights stay apart, the work does not."""
    weight = torch.cat([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return F.linear(x, weight, bias).split([linear.out_features for linear in linears], dim=-1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, document_ids: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, document_ids, cache)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Token ids in, logits out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = None if config.tied_head else nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns hidden states into logits, (vocab, dim)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden(
        self,
        input_ids: Tensor,
        *,
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """States after the last norm, (batch, time, dim).

        input_ids (batch, time); document_ids (batch, time): attention stays within equal ids (ignored with a
        cache); position_ids (batch or 1, time), default 0, 1, 2, ...: rotary attention sees only differences,
        so packed documents need no positions of their own.
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        cos, sin = self.rotary(position_ids)
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x, cos, sin, document_ids, cache)
        return self.norm(x)

    def forward(
        self,
        input_ids: Tensor,
        *,
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocab); arguments as in `hidden`."""
        states = self.hidden(input_ids, document_ids=document_ids, position_ids=position_ids, cache=cache)
        return F.linear(states, self.head_weight)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fresh weights: normal with deviation 1/sqrt(fan_in), zero for what writes into the residual stream.

        Zero-initialised output projections make every block the identity at the start, which small models
        trained for minutes profit from (docs/decisions.md, "initialisation").
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith(("attention.output.weight", "mlp.down.weight")):
                parameter.zero_()
            elif name == "embedding.weight":
                parameter.normal_(0.0, 1.0 if not self.config.tied_head else self.config.dim**-0.5, generator=generator)
            elif name == "head.weight":
                parameter.normal_(0.0, 0.001, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
