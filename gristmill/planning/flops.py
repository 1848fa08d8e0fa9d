"""FLOPs of one token: matrix products and attention apart, training and inference.

A product of a (rows, columns) matrix with one token is 2 x rows x columns FLOPs, its backward pass twice as much
(Kaplan et al. 2020, arXiv:2001.08361, table 1). Attention costs 4 x heads x head_dim a query and key. Of a causal layer
the half that is seen is counted; `attention_full` counts every pair, as unfused kernels and most reports do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gristmill.models.config.encoder_decoder import TARGETS_PER_INPUT
from gristmill.models.config.two_stream import PREDICTED
from gristmill.models.layers.masks import Pattern
from gristmill.planning.anatomy import Anatomy, AttentionLayer, Product, Side, anatomy


@dataclass(frozen=True)
class Flops:
    """Of one token of a row; in an encoder-decoder of one token that the encoder reads."""

    context: int
    """Tokens a row; in an encoder-decoder those that the encoder reads."""
    targets: int
    """Tokens that a decoder writes for them; 0 in a model of one stack."""
    matmul: float
    """Forward, as in training."""
    attention: float
    """Forward, pairs that are seen."""
    attention_full: float
    """Forward, all pairs."""
    read: float
    """To read one token of a prompt: every state is made, and logits of all."""
    decode: float
    """To write one more token after `context` others, with a cache: products and attention over all keys."""

    @property
    def train(self) -> float:
        """Forward and backward."""
        return 3 * (self.matmul + self.attention)

    def as_json(self) -> dict[str, Any]:
        return {
            "context": self.context, "targets": self.targets, "train": self.train, "inference": self.decode,
            "prefill": self.read, "matmul": {"train": 3 * self.matmul, "inference": self.matmul},
            "attention": {"train": 3 * self.attention, "train_full": 3 * self.attention_full,
                          "inference": self.attention, "inference_full": self.attention_full},
        }


def flops(config: Any, context: int | None = None, *, targets: int | None = None, predicted: float = 1.0) -> Flops:
    """FLOPs of a token of a row of `context` tokens (default the model's).

    targets: tokens that a decoder writes for them (default as many as T5's span corruption makes). predicted: share of
    the tokens whose logits are computed: 1 for causal language models, 0.15 for masked ones, whose loss leaves the
    other rows out. Models of two streams are counted as they are pretrained, with one query for six tokens.
    """
    found = anatomy(config)
    whole = context or config.context
    written = (targets or max(1, round(whole * TARGETS_PER_INPUT))) if found.two_stacks else 0
    tokens: dict[Side, int] = {"source": whole, "target": written} if found.two_stacks else {
        "source": 0, "target": whole}
    streams = _two_streams(found) if found.two_streams else _one_stream(found, predicted)
    matmul = sum(2 * product.parameters * product.share * tokens[product.side] * weight
                 for product, weight in streams.products)
    seen = sum(layer.pair * tokens[layer.queries] * visible(config, layer, tokens) * weight
               for layer, weight in streams.attentions)
    full = sum(layer.pair * tokens[layer.queries] * tokens[layer.keys] * weight for layer, weight in streams.attentions)
    plain = _one_stream(found, 1.0)
    read = sum(2 * p.parameters * p.share * tokens[p.side] for p, _ in plain.products) + sum(
        layer.pair * tokens[layer.queries] * visible(config, layer, tokens) for layer, _ in plain.attentions)
    return Flops(whole, written, matmul / whole, seen / whole, full / whole, read / whole, _decode(found, tokens))


@dataclass(frozen=True)
class _Weights:
    """How often a token meets each product and each attention layer."""

    products: list[tuple[Product, float]]
    attentions: list[tuple[AttentionLayer, float]]


def _one_stream(found: Anatomy, predicted: float) -> _Weights:
    return _Weights([(p, predicted if p.part == "head" else 1.0) for p in found.products],
                    [(layer, 1.0) for layer in found.attentions])


def _two_streams(found: Anatomy) -> _Weights:
    """The content stream needs no more of the last block than keys and values; queries, one for six tokens, need all
    of every block but those (arXiv:1906.08237, section 2.3)."""
    last, query = len(found.per_block) - 1, 1 / PREDICTED
    products: list[tuple[Product, float]] = []
    for product in found.products:
        if product.layer is None:
            products.append((product, query))
        elif product.name.endswith(("attention.key.weight", "attention.value.weight")):
            products.append((product, 1.0))
        else:
            products.append((product, query + (product.layer < last)))
    return _Weights(products, [(layer, query + (layer.layer != last)) for layer in found.attentions])


def visible(config: Any, layer: AttentionLayer, tokens: dict[Side, int]) -> float:
    """Keys that an average query sees; where attention is causal, half of all, without the half key of the diagonal."""
    keys, pattern = tokens[layer.keys], layer.pattern
    if layer.layer is not None and hasattr(config, "keys_seen"):
        return config.keys_seen(layer.layer, keys)
    if pattern.window is None or pattern.window >= keys:
        return keys / 2 if pattern.causal else float(keys)
    one_side = pattern.window * (1 - pattern.window / (2 * keys))
    return one_side if pattern.causal else 2 * one_side


def _decode(found: Anatomy, tokens: dict[Side, int]) -> float:
    products = sum(2 * p.parameters * p.share for p in found.products if p.side == "target")
    attended = sum(layer.pair * cached(layer.pattern, tokens[layer.keys])
                   for layer in found.attentions if layer.queries == "target")
    return products + attended


def cached(pattern: Pattern, keys: int) -> float:
    """Keys that the last of so many positions sees: what a cache has to hold."""
    if pattern.plain:
        return keys
    local = min((pattern.window or 0) * pattern.dilation * pattern.block, keys) / pattern.dilation
    strided = keys / pattern.stride if pattern.stride else 0
    return min(keys, local + strided + pattern.global_tokens * pattern.block)
