"""The decoder body: causal blocks of attention and feed-forward, from GPT-2 to Llama and their relatives."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.core.errors import UserError
from gristmill.models.body import Body
from gristmill.models.config import DecoderConfig
from gristmill.models.config.decoder import VALUE_GATE
from gristmill.models.layers import flex
from gristmill.models.layers.attention import attention
from gristmill.models.layers.cpu_attention import joined_attention, takes_joined
from gristmill.models.layers.linear import joined_linear, one_linear, plain, side_by_side
from gristmill.models.layers.masks import CAUSAL, Pattern
from gristmill.models.layers.mlp import make_mlp
from gristmill.models.layers.moe import MoE, expert_layers
from gristmill.models.layers.norms import (
    Parts,
    RMSNorm,
    add_norm_for_products,
    make_norm,
    norm_for_products,
    takes_parts,
)
from gristmill.models.layers.rotary import Rotary, rotate

Angles = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions."""


class Cache(Protocol):
    """Keys and values of earlier tokens; owns their storage and the masking of ragged batches."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern = CAUSAL) -> Tensor:
        """q (batch, heads, time, head_dim), k and v (batch, kv_heads, time, head_dim), rotated -> like q."""


class Attention(nn.Module):
    """Grouped-query self-attention."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim, self.dropout = layer, config.head_dim, config.attention_dropout
        self.pattern = layer_pattern(config, layer)
        wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.query = nn.Linear(config.dim, wide, bias=config.qkv_bias)
        self.key = nn.Linear(config.dim, narrow, bias=config.qkv_bias)
        self.value = nn.Linear(config.dim, narrow, bias=config.qkv_bias)
        self.output = nn.Linear(wide, config.dim, bias=config.output_bias)
        looked_up = config.layer_values(layer)
        self.value_embedding = nn.Embedding(config.vocab_size, narrow) if looked_up else None
        self.value_gate = nn.Linear(VALUE_GATE, config.kv_heads, bias=False) if looked_up else None
        self.mix = attention
        """What mixes the values; context parallelism puts another function of the same form here."""
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x: Tensor, angles: Angles | None, document_ids: Tensor | None = None, prefix: Tensor | None = None,
        cache: Cache | None = None, input_ids: Tensor | None = None, mask: Any = None,
    ) -> Tensor:
        """x (batch, time, dim) -> (batch, time, dim); input_ids (batch, time) for value embeddings; mask:
        see `attention`."""
        projections = self.query, self.key, self.value
        if cache is None and prefix is None and self._simple and all(map(plain, projections)):
            joined = side_by_side(x, *projections)
            if takes_joined(joined, self.head_dim, self.pattern):
                mixed = joined_attention(joined, self.query.out_features // self.head_dim,
                                         self.key.out_features // self.head_dim, angles, document_ids, self.pattern)
                return one_linear(mixed, self.output)
            parts = joined.split([projection.out_features for projection in projections], dim=-1)
        else:
            parts = joined_linear(x, *projections)
        q, k, v = map(self._heads, parts)
        if self.value_gate is not None and input_ids is not None:
            v = v + self.looked_up(input_ids, self.value_gate(x[..., :VALUE_GATE])).to(v.dtype)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if cache is None:
            mixed = self.mix(q, k, v, document_ids, pattern=self.pattern, prefix=prefix,
                             dropout=self.dropout if self.training else 0.0,
                             **{} if mask is None else {"mask": mask})
        else:
            mixed = cache.attend(self.layer, q, k, v, self.pattern)
        return one_linear(mixed.transpose(1, 2).flatten(2), self.output)

    @property
    def _simple(self) -> bool:
        """Whether nothing but a rotation lies between the projections and the attention of whole rows."""
        return (self.mix is attention and self.value_gate is None and self.query_norm is None
                and not (self.dropout and self.training))

    def looked_up(self, input_ids: Tensor, gates: Tensor) -> Tensor:
        """What value embeddings add to the values, (batch, kv_heads, time, head_dim); gates (batch, time, kv_heads)
        before their sigmoid: 0 lets the row through as it is."""
        assert self.value_embedding is not None
        opened = 2 * gates.sigmoid()
        return opened.transpose(1, 2)[..., None] * self._heads(self.value_embedding(input_ids))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


Stream = TypeVar("Stream", Tensor, Parts)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); or both from one norm at once (`parallel`)."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.skipped = config.stochastic_depth * (layer + 1) / config.layers
        self.attention_norm = make_norm(config.norm, config.dim, config.norm_eps, config.norm_bias)
        self.attention = Attention(config, layer)
        self.mlp_norm = None if config.parallel else make_norm(
            config.norm, config.dim, config.norm_eps, config.norm_bias)
        experts = config.layer_experts(layer)
        self.mlp = make_mlp(config.dim, config.mlp_dim, config.mlp, config.mlp_bias) if experts is None else MoE(
            config.dim, experts, config.mlp)

    def forward(
        self, x: Stream, angles: Angles | None, document_ids: Tensor | None = None, prefix: Tensor | None = None,
        cache: Cache | None = None, input_ids: Tensor | None = None, mask: Any = None,
    ) -> Stream:
        """x (batch, time, dim) -> the same; of parts, where `takes_parts` says so, parts."""
        if isinstance(x, Parts):
            total, normed = add_norm_for_products(self.attention_norm, *x)
            return self._after(total, normed, angles, document_ids, prefix, cache, input_ids, mask)
        found = self._whole(x, angles, document_ids, prefix, cache, input_ids, mask)
        return x + self._for_some_rows(found - x) if self.skipped and self.training else found

    def takes_parts(self, x: Tensor) -> bool:
        """Whether the sum of the stream, tensors like x, and what is added to it may be left to this block."""
        return (self.mlp_norm is not None and not self.skipped and not isinstance(self.mlp, MoE)
                and takes_parts(self.attention_norm, x))

    def _whole(
        self, x: Tensor, angles: Angles | None, document_ids: Tensor | None, prefix: Tensor | None, cache: Cache | None,
        input_ids: Tensor | None, mask: Any,
    ) -> Tensor:
        if self.mlp_norm is None:
            dense = not isinstance(self.mlp, MoE)  # routers read fp32
            normed = norm_for_products(self.attention_norm, x) if dense else self.attention_norm(x)
            mixed = self.attention(normed, angles, document_ids, prefix, cache, input_ids, mask=mask)
            return x + self._dropped(mixed + self._fed(normed, document_ids))
        normed = norm_for_products(self.attention_norm, x)
        return self._after(x, normed, angles, document_ids, prefix, cache, input_ids, mask).sum()

    def _after(
        self, x: Tensor, normed: Tensor, angles: Angles | None, document_ids: Tensor | None, prefix: Tensor | None,
        cache: Cache | None, input_ids: Tensor | None, mask: Any,
    ) -> Parts:
        """From the stream and its first norm on, up to what is added to it."""
        assert self.mlp_norm is not None, "both at once from one norm"
        mixed = self._dropped(self.attention(normed, angles, document_ids, prefix, cache, input_ids, mask=mask))
        if isinstance(self.mlp, MoE):
            x = x + mixed
            normed = self.mlp_norm(x)
        else:
            x, normed = add_norm_for_products(self.mlp_norm, x, mixed)
        return Parts(x, self._dropped(self._fed(normed, document_ids)))

    def _fed(self, x: Tensor, document_ids: Tensor | None) -> Tensor:
        return self.mlp(x, document_ids) if isinstance(self.mlp, MoE) else self.mlp(x)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.dropout and self.training else x

    def _for_some_rows(self, added: Tensor) -> Tensor:
        """Stochastic depth: some rows add nothing, the others so much more that the mean stays."""
        kept = torch.rand(added.shape[0], 1, 1, device=added.device) >= self.skipped
        return torch.where(kept, added / (1 - self.skipped), 0)


ZERO_AT_FIRST = ("attention.output.weight", "attention.value_gate.weight", "mlp.down.weight", "experts.down",
                 "shared.down.weight")
"""Ends of the names of what writes into the residual stream, and of gates, which begin half open."""


def layer_pattern(config: DecoderConfig, layer: int) -> Pattern:
    """What the queries of a layer see."""
    kind = config.layer_attention(layer)
    if kind == "sparse":
        return Pattern(window=config.window, dilation=config.dilation, stride=config.stride,
                       global_tokens=config.global_tokens, block=config.attention_block)
    return Pattern(window=config.window) if kind == "window" else CAUSAL


class Decoder(Body):
    """Token ids in, logits out."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        rotary = config.positions == "rotary"
        self.positions = None if rotary else nn.Embedding(config.context, config.dim)
        self.rotary = Rotary(
            config.head_dim, config.rope_theta, config.rope_scaling, config.context) if rotary else None
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
        """States after the last norm, times `logit_scale`, (batch, time, dim).

        input_ids (batch, time); document_ids (batch, time): attention stays within equal ids (ignored with a
        cache); position_ids (batch or 1, time), default 0, 1, 2, ..., anew in every document where more than their
        differences counts (learned positions, dynamic rope scaling); prefix (batch, time) of bool: tokens that all of
        their document see.

        It is `enter`, `through` and `leave` in turn: what the stages of a pipeline share out.
        """
        position_ids = self.placed(input_ids, document_ids, position_ids)
        x = self.enter(input_ids, position_ids)
        x = self.through(x, input_ids, position_ids, document_ids=document_ids, prefix=prefix, cache=cache)
        return self.leave(x)

    def placed(self, input_ids: Tensor, document_ids: Tensor | None = None,
               position_ids: Tensor | None = None) -> Tensor:
        """The positions of the tokens, (batch or 1, time): those given, or the default."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
            counted = self.positions is not None or (self.rotary is not None and self.rotary.dynamic)
            if counted and document_ids is not None:
                position_ids = positions_in_documents(document_ids)
            if input_ids.shape[1] > self.config.context and (
                    self.positions is not None or (counted and document_ids is not None)):
                self._check(position_ids)
        return position_ids

    def enter(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """What the first block reads, (batch, time, dim)."""
        x = self.embedding(input_ids)
        if self.positions is not None:
            x = x + self.positions(position_ids)
        if self.config.dropout and self.training:
            x = F.dropout(x, self.config.dropout)
        return x

    def through(
        self,
        x: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        document_ids: Tensor | None = None,
        prefix: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """All blocks that are here; x (batch, time, dim) -> the same shape."""
        angles = None if self.rotary is None else self.rotary(position_ids)
        rest = angles, document_ids, prefix, cache, input_ids if self.config.value_embeddings else None
        masked = self._masks(input_ids, document_ids, prefix) if cache is None else {}

        def masks(block: Any) -> dict[str, Any]:
            return {"mask": masked[block.attention.pattern]} if block.attention.pattern in masked else {}

        if len(self.blocks) > 1 and all(block.takes_parts(x) for block in self.blocks):  # type: ignore[operator, union-attr]
            # As all blocks get, with or without a gradient: they are compiled once.
            parts = Parts(x, torch.zeros_like(x, dtype=torch.bfloat16, requires_grad=x.requires_grad))
            for block in self.blocks:
                parts = block(parts, *rest, **masks(block))
            return parts.sum()
        for block in self.blocks:
            x = block(x, *rest, **masks(block))
        return x

    def _masks(self, input_ids: Tensor, document_ids: Tensor | None, prefix: Tensor | None) -> dict[Pattern, Any]:
        """Of the layers whose attention is ours, over whole rows, and drops nothing."""
        layers: list[Any] = [block.attention for block in self.blocks]
        patterns = [layer.pattern for layer in layers
                    if layer.mix is attention and not (layer.dropout and layer.training)]
        return flex.layer_masks(patterns, input_ids, self.config.head_dim, document_ids, prefix)

    def leave(self, x: Tensor) -> Tensor:
        """What the last block gave -> the states that the head reads."""
        if self.config.logit_scale == 1.0:
            return norm_for_products(self.norm, x)
        return self.norm(x) * self.config.logit_scale

    def _check(self, position_ids: Tensor) -> None:
        longest = int(position_ids.max()) + 1
        if longest > self.config.context:
            if self.positions is None:
                raise UserError(
                    f"a text of {longest} tokens beside others, in a context of {self.config.context}: with dynamic "
                    "rope scaling its length would change the others", where="input_ids",
                    fix="give it alone, without document_ids; or scale by yarn")
            raise UserError(f"a text of {longest} tokens does not fit a model that has learned {self.config.context} "
                            "positions", where="input_ids", fix="cut the text, or train with a longer context")

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
            elif name.endswith(ZERO_AT_FIRST):
                parameter.zero_()
            elif name.endswith("value_embedding.weight"):
                parameter.normal_(0.0, 1.0, generator=generator)
            elif name == "embedding.weight":
                parameter.normal_(0.0, 1.0 if not self.config.tied_head else self.config.dim**-0.5, generator=generator)
            elif name == "positions.weight":
                parameter.normal_(0.0, 0.1 * self.config.dim**-0.5, generator=generator)
            elif name == "head.weight":
                parameter.normal_(0.0, 0.001, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
        for layer in expert_layers(self):
            layer.reset_balance()


def positions_in_documents(document_ids: Tensor) -> Tensor:
    """Position of each token since the start of its document; document_ids (batch, time) -> (batch, time) int64."""
    places = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return places - torch.where(starts, places, 0).cummax(dim=1).values
