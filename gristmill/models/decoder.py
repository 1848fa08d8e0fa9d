"""The decoder body: causal blocks of attention and feed-forward, from GPT-2 to Llama and their relatives."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.models.body import Body
from gristmill.models.config import DecoderConfig
from gristmill.models.layers.attention import attention
from gristmill.models.layers.linear import joined_linear
from gristmill.models.layers.masks import Pattern
from gristmill.models.layers.mlp import make_mlp
from gristmill.models.layers.norms import RMSNorm, make_norm
from gristmill.models.layers.rotary import Rotary, rotate

Angles = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions."""


class Cache(Protocol):
    """Keys and values of earlier tokens; owns their storage and the masking of ragged batches."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
        """q (batch, heads, time, head_dim), k and v (batch, kv_heads, time, head_dim), rotated -> like q.

        window: a query sees only keys less than this many positions before it.
        """


class Attention(nn.Module):
    """Grouped-query self-attention."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim, self.dropout = layer, config.head_dim, config.attention_dropout
        self.pattern = Pattern(causal=True, window=config.layer_window(layer))
        wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.query = nn.Linear(config.dim, wide, bias=config.qkv_bias)
        self.key = nn.Linear(config.dim, narrow, bias=config.qkv_bias)
        self.value = nn.Linear(config.dim, narrow, bias=config.qkv_bias)
        self.output = nn.Linear(wide, config.dim, bias=config.output_bias)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x: Tensor, angles: Angles | None, document_ids: Tensor | None = None, prefix: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """x (batch, time, dim) -> (batch, time, dim)."""
        q, k, v = (self._heads(part) for part in joined_linear(x, self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if cache is None:
            mixed = attention(q, k, v, document_ids, pattern=self.pattern, prefix=prefix,
                              dropout=self.dropout if self.training else 0.0)
        else:
            mixed = cache.attend(self.layer, q, k, v, self.pattern.window)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); or both from one norm at once (`parallel`)."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = make_norm(config.norm, config.dim, config.norm_eps, config.norm_bias)
        self.attention = Attention(config, layer)
        self.mlp_norm = None if config.parallel else make_norm(
            config.norm, config.dim, config.norm_eps, config.norm_bias)
        self.mlp = make_mlp(config.dim, config.mlp_dim, config.mlp, config.mlp_bias)

    def forward(
        self, x: Tensor, angles: Angles | None, document_ids: Tensor | None = None, prefix: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        normed = self.attention_norm(x)
        mixed = self.attention(normed, angles, document_ids, prefix, cache)
        if self.mlp_norm is None:
            return x + self._dropped(mixed + self.mlp(normed))
        x = x + self._dropped(mixed)
        return x + self._dropped(self.mlp(self.mlp_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.dropout and self.training else x


class Decoder(Body):
    """Token ids in, logits out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        rotary = config.positions == "rotary"
        self.positions = None if rotary else nn.Embedding(config.context, config.dim)
        self.rotary = Rotary(config.head_dim, config.rope_theta, config.rope_scaling) if rotary else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config.norm, config.dim, config.norm_eps, config.norm_bias)
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
        prefix: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """States after the last norm, (batch, time, dim).

        input_ids (batch, time); document_ids (batch, time): attention stays within equal ids (ignored with a
        cache); position_ids (batch or 1, time), default 0, 1, 2, ..., for learned positions anew in every document
        (rotary attention sees only differences); prefix (batch, time) of bool: tokens that all of their document see.
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
            if self.positions is not None and document_ids is not None:
                position_ids = positions_in_documents(document_ids)
        x = self.embedding(input_ids)
        if self.positions is not None:
            x = x + self.positions(position_ids)
        if self.config.dropout and self.training:
            x = F.dropout(x, self.config.dropout)
        angles = None if self.rotary is None else self.rotary(position_ids)
        for block in self.blocks:
            x = block(x, angles, document_ids, prefix, cache)
        return self.norm(x)

    def forward(
        self,
        input_ids: Tensor,
        *,
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        prefix: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocab); arguments as in `hidden`."""
        states = self.hidden(input_ids, document_ids=document_ids, position_ids=position_ids, prefix=prefix,
                             cache=cache)
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
            elif name == "positions.weight":
                parameter.normal_(0.0, 0.1 * self.config.dim**-0.5, generator=generator)
            elif name == "head.weight":
                parameter.normal_(0.0, 0.001, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)


def positions_in_documents(document_ids: Tensor) -> Tensor:
    """Position of each token since the start of its document; document_ids (batch, time) -> (batch, time) int64."""
    places = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return places - torch.where(starts, places, 0).cummax(dim=1).values
