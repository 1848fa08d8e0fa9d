"""The encoder-decoder body: an encoder reads a whole text, a decoder writes another one while looking at it; T5."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.models.body import Body
from gristmill.models.config import EncoderDecoderConfig
from gristmill.models.layers import flex
from gristmill.models.layers.attention import attention
from gristmill.models.layers.linear import joined_linear
from gristmill.models.layers.masks import CAUSAL, FULL
from gristmill.models.layers.mlp import ACTIVATIONS, GATES
from gristmill.models.layers.norms import RMSNorm
from gristmill.models.layers.relative_bias import RelativeBias


class Cache(Protocol):
    """Keys and values of the tokens written so far and of the text that was read; owns storage, masks and biases."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention. q, k, v (batch, heads, time, head_dim) -> like q."""

    def look(self, layer: int, q: Tensor) -> Tensor:
        """Cross-attention to the stored keys and values of `memory`. q (batch, heads, time, head_dim) -> like q."""


class Attention(nn.Module):
    """Multi-head attention without biases, and without 1/sqrt(head_dim): the weights' initial size makes up for it."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.head_dim, self.dropout = config.head_dim, config.dropout
        wide = config.heads * config.head_dim
        self.query = nn.Linear(config.dim, wide, bias=False)
        self.key = nn.Linear(config.dim, wide, bias=False)
        self.value = nn.Linear(config.dim, wide, bias=False)
        self.output = nn.Linear(wide, config.dim, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        """(batch, time, heads x head_dim) -> (batch, heads, time, head_dim)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def joined(self, mixed: Tensor) -> Tensor:
        """(batch, heads, time, head_dim) -> (batch, time, dim)."""
        return self.output(mixed.transpose(1, 2).flatten(2))

    @property
    def dropped(self) -> float:
        """Share of the attention weights that is dropped now."""
        return self.dropout if self.training else 0.0


class SelfAttention(Attention):
    """Every token of an encoder sees its document, every one of a decoder what was written before it."""

    def __init__(self, config: EncoderDecoderConfig, causal: bool) -> None:
        super().__init__(config)
        self.pattern = CAUSAL if causal else FULL

    def forward(self, x: Tensor, bias: Tensor | None, document_ids: Tensor | None, cache: Cache | None = None,
                layer: int = 0) -> Tensor:
        """x (batch, time, dim) -> (batch, time, dim); bias (1, heads, time, time)."""
        q, k, v = (self.heads(part) for part in joined_linear(x, self.query, self.key, self.value))
        if cache is not None:
            return self.joined(cache.attend(layer, q, k, v))
        return self.joined(attention(q, k, v, document_ids, pattern=self.pattern, bias=bias, scale=1.0,
                                     dropout=self.dropped))


class CrossAttention(Attention):
    """The decoder looks at what the encoder made of the document of the same number; positions play no part."""

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's states (batch, inputs, dim), each (batch, heads, inputs, head_dim)."""
        k, v = joined_linear(memory, self.key, self.value)
        return self.heads(k), self.heads(v)

    def forward(self, x: Tensor, memory: Tensor | None, document_ids: Tensor | None, memory_ids: Tensor | None,
                cache: Cache | None = None, layer: int = 0, mask: Any = None) -> Tensor:
        """x (batch, time, dim), memory (batch, inputs, dim) -> (batch, time, dim); mask: of `flex.layer_masks`."""
        q = self.heads(self.query(x))
        if cache is not None:
            return self.joined(cache.look(layer, q))
        assert memory is not None
        k, v = self.project(memory)
        return self.joined(attention(q, k, v, document_ids, pattern=FULL, key_document_ids=memory_ids, scale=1.0,
                                     dropout=self.dropped, mask=mask))


class FeedForward(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)), with dropout before `down`."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.mlp_dim, bias=False) if config.gated else None
        self.up = nn.Linear(config.dim, config.mlp_dim, bias=False)
        self.down = nn.Linear(config.mlp_dim, config.dim, bias=False)
        self.activation, self.dropout = config.mlp, config.dropout

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            inner = ACTIVATIONS[self.activation](self.up(x))
        else:
            gate, up = joined_linear(x, self.gate, self.up)
            inner = GATES[self.activation](gate) * up
        return self.down(dropped(inner, self.dropout, self.training))


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config, causal=False)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, bias: Tensor, document_ids: Tensor | None = None) -> Tensor:
        x = x + dropped(self.attention(self.attention_norm(x), bias, document_ids), self.dropout, self.training)
        return x + dropped(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), x + cross(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: EncoderDecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.dropout = layer, config.dropout
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config, causal=True)
        self.cross_norm = RMSNorm(config.dim, config.norm_eps)
        self.cross = CrossAttention(config)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(
        self, x: Tensor, memory: Tensor | None, bias: Tensor | None, document_ids: Tensor | None = None,
        memory_ids: Tensor | None = None, cache: Cache | None = None, mask: Any = None,
    ) -> Tensor:
        mixed = self.attention(self.attention_norm(x), bias, document_ids, cache, self.layer)
        x = x + dropped(mixed, self.dropout, self.training)
        mixed = self.cross(self.cross_norm(x), memory, document_ids, memory_ids, cache, self.layer, mask)
        x = x + dropped(mixed, self.dropout, self.training)
        return x + dropped(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


class Stack(nn.Module):
    """Blocks with the bias that they share, and the norm after them."""

    def __init__(self, config: EncoderDecoderConfig, blocks: list[EncoderBlock] | list[DecoderBlock]) -> None:
        super().__init__()
        both_ways = isinstance(blocks[0], EncoderBlock)
        self.relative_bias = RelativeBias(config.heads, config.buckets, config.furthest, both_ways)
        self.blocks = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.dim, config.norm_eps)


class EncoderDecoder(Body):
    """Token ids of two texts in, logits of the second out."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.encoder = Stack(config, [EncoderBlock(config) for _ in range(config.layers)])
        self.decoder = Stack(config, [DecoderBlock(config, layer) for layer in range(config.decoder_layers)])
        self.head = None if config.tied_head else nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def all_blocks(self) -> Iterator[nn.Module]:
        """The encoder's, then the decoder's."""
        return itertools.chain(self.encoder.blocks, self.decoder.blocks)

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns the states of `hidden` into logits, (vocab, dim)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def encode(self, input_ids: Tensor, *, document_ids: Tensor | None = None) -> Tensor:
        """What the decoder looks at, (batch, inputs, dim).

        input_ids (batch, inputs); document_ids (batch, inputs): attention stays within equal ids, -1 is padding.
        """
        x = self._dropped(self.embedding(input_ids))
        bias = self.encoder.relative_bias(input_ids.shape[1], input_ids.shape[1])
        for block in self.encoder.blocks:
            x = block(x, bias, document_ids)
        return self._dropped(self.encoder.norm(x))

    def decode(
        self, decoder_input_ids: Tensor, memory: Tensor | None = None, *, document_ids: Tensor | None = None,
        decoder_document_ids: Tensor | None = None, cache: Cache | None = None,
    ) -> Tensor:
        """The states that the head reads, (batch, time, dim).

        decoder_input_ids (batch, time): the output shifted to the right, `config.start_id` first; memory (batch,
        inputs, dim): of `encode`, for the documents `document_ids` (batch, inputs); decoder_document_ids (batch, time):
        which of them each token belongs to, default 0 where document_ids are given. With a cache, which holds the
        keys and values of both, nothing but the new tokens is given.
        """
        if document_ids is not None and decoder_document_ids is None:
            decoder_document_ids = torch.zeros_like(decoder_input_ids)
        if document_ids is None and decoder_document_ids is not None and memory is not None:
            document_ids = torch.zeros(memory.shape[:2], dtype=decoder_document_ids.dtype, device=memory.device)
        x = self._dropped(self.embedding(decoder_input_ids))
        time = decoder_input_ids.shape[1]
        bias = self.decoder.relative_bias(time, time) if cache is None else None
        mask = None if cache is not None or (self.config.dropout and self.training) else flex.layer_masks(
            [FULL], decoder_input_ids, self.config.head_dim, decoder_document_ids, key_document_ids=document_ids
        ).get(FULL)
        for block in self.decoder.blocks:
            x = block(x, memory, bias, decoder_document_ids, document_ids, cache, mask)
        states = self._dropped(self.decoder.norm(x))
        return states * self.config.head_scale if self.config.tied_head else states

    def hidden(  # type: ignore[override]
        self, input_ids: Tensor, decoder_input_ids: Tensor, *, document_ids: Tensor | None = None,
        decoder_document_ids: Tensor | None = None,
    ) -> Tensor:
        """The states that the head reads, (batch, time, dim); arguments as in `encode` and `decode`."""
        memory = self.encode(input_ids, document_ids=document_ids)
        return self.decode(decoder_input_ids, memory, document_ids=document_ids,
                           decoder_document_ids=decoder_document_ids)

    def forward(
        self, input_ids: Tensor, decoder_input_ids: Tensor, *, document_ids: Tensor | None = None,
        decoder_document_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocab) of the decoder's side; arguments as in `encode` and `decode`."""
        states = self.hidden(input_ids, decoder_input_ids, document_ids=document_ids,
                             decoder_document_ids=decoder_document_ids)
        return F.linear(states, self.head_weight)

    def _dropped(self, x: Tensor) -> Tensor:
        return dropped(x, self.config.dropout, self.training)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fresh weights: normal with deviation 1/sqrt(fan_in), for queries 1/sqrt(fan_in x head_dim) in place of a
        scale in attention; embeddings 1, a head of its own 0.001; zero for what writes into the residual stream, and
        for the bias of distances."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            elif name.endswith(("output.weight", "down.weight", "relative_bias.weight")):
                parameter.zero_()
            elif name == "embedding.weight":
                parameter.normal_(0.0, 1.0, generator=generator)
            elif name == "head.weight":
                parameter.normal_(0.0, 0.001, generator=generator)
            else:
                fan_in = parameter.shape[1] * (self.config.head_dim if name.endswith("query.weight") else 1)
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)


def dropped(x: Tensor, share: float, training: bool) -> Tensor:
    """x with a share of its values dropped, in training."""
    return F.dropout(x, share) if share and training else x
