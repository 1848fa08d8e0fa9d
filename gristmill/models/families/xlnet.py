"""XLNet (Yang et al. 2019, arXiv:1906.08237)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.models.config import TwoStreamConfig
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.forms import Form
from gristmill.models.two_stream import TwoStream, permutation_mask

PRESETS = {
    "base": TwoStreamConfig(vocab_size=32_000, dim=768, layers=12, heads=12, head_dim=64, mlp_dim=3072, dropout=0.1),
    "large": TwoStreamConfig(vocab_size=32_000, dim=1024, layers=24, heads=16, head_dim=64, mlp_dim=4096, dropout=0.1),
}
"""Both with the cased vocabulary of 32,000 pieces."""

FROM_PUBLIC = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}
TO_PUBLIC = {ours: public for public, ours in FROM_PUBLIC.items()}

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "bi_data": ((None, False), "with it a row's result hangs on its place in the batch; supported: false"),
    "quantization_config": ((None,), "use a folder with plain weights"),
}
"""Option -> the values with which it changes nothing, and what to do about others."""


def wrong(what: str, fix: str) -> UserError:
    """An error about config.json."""
    return UserError(what, where="config.json", fix=fix)


def number(public: Mapping[str, Any], names: tuple[str, ...], default: Any = None) -> Any:
    """The first of these entries that is there and not null, or the default; UserError where it is no number."""
    value = next((public[name] for name in names if public.get(name) is not None), default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(f"{names[0]} is {value!r}", "every size in config.json must be a number")
    return value


def limit(public: Mapping[str, Any], name: str) -> int | None:
    """A number of tokens, or None where the public format means none by null, zero or less."""
    value = number(public, (name,), 0)
    return value if value > 0 else None


def config_from_public(public: Mapping[str, Any]) -> TwoStreamConfig:
    """The content of config.json as our config; both spellings of sizes are read."""
    for name, (harmless, fix) in REFUSED.items():
        if public.get(name) not in harmless:
            raise wrong(f"{name} = {public[name]!r} is not supported", fix)
    kind, activation = public.get("attn_type", "bi"), public.get("ff_activation", "gelu")
    if kind not in ("bi", "uni"):
        raise wrong(f"attn_type {kind!r} is not known", "supported: bi, uni")
    if activation not in FROM_PUBLIC:
        raise wrong(f"ff_activation {activation!r} is not supported", f"supported: {', '.join(FROM_PUBLIC)}")
    dim, heads = number(public, ("d_model", "hidden_size")), number(public, ("n_head", "num_attention_heads"))
    try:
        return TwoStreamConfig(
            vocab_size=number(public, ("vocab_size", "n_token")), dim=dim,
            layers=number(public, ("n_layer", "num_hidden_layers")), heads=heads,
            head_dim=number(public, ("d_head",), dim // max(heads, 1)), mlp_dim=number(public, ("d_inner",)),
            context=number(public, ("context",), 512), causal=kind == "uni",
            # Public code looks at it in causal models only.
            same_length=bool(public.get("same_length")) and kind == "uni",
            clamp=limit(public, "clamp_len"), memory=limit(public, "mem_len"), reuse=limit(public, "reuse_len"),
            mlp=FROM_PUBLIC[activation],  # type: ignore[arg-type]
            norm_eps=number(public, ("layer_norm_eps",), 1e-12),
            tied_head=public.get("tie_word_embeddings") is not False, dropout=number(public, ("dropout",), 0.1),
        )
    except (ValueError, TypeError) as error:
        raise wrong(str(error), "correct config.json") from error


def config_to_public(config: TwoStreamConfig) -> dict[str, Any]:
    """The inverse. `context` is ours: the public format has no length, because positions are relative."""
    return {
        "architectures": ["XLNetLMHeadModel"],
        "model_type": "xlnet",
        "vocab_size": config.vocab_size,
        "d_model": config.dim,
        "n_layer": config.layers,
        "n_head": config.heads,
        "d_head": config.head_dim,
        "d_inner": config.mlp_dim,
        "context": config.context,
        "attn_type": "uni" if config.causal else "bi",
        "bi_data": False,
        "same_length": config.same_length,
        "clamp_len": -1 if config.clamp is None else config.clamp,
        "mem_len": config.memory,
        "reuse_len": config.reuse,
        "ff_activation": TO_PUBLIC[config.mlp],
        "layer_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "dropout": config.dropout,
        "untie_r": True,
    }


def _heads(config: TwoStreamConfig) -> tuple[int, int]:
    return config.heads, config.head_dim


INTO_HEADS = Form(
    lambda tensors, config: [tensors[0].t().reshape(config.dim, *_heads(config)).contiguous()],
    lambda tensors, config: [tensors[0].reshape(config.dim, config.inner).t().contiguous()])
"""A projection into all heads, (inner, dim), stored as (dim, heads, head_dim)."""

OUT_OF_HEADS = Form(lambda tensors, config: [tensors[0].reshape(config.dim, *_heads(config)).contiguous()],
                    lambda tensors, config: [tensors[0].reshape(config.dim, config.inner).contiguous()])
"""The projection back, (dim, inner), stored as (dim, heads, head_dim)."""

PER_HEAD = Form(lambda tensors, config: [tensors[0].reshape(_heads(config))],
                lambda tensors, config: [tensors[0].reshape(config.inner)])
"""A vector over all heads, (inner,), stored as (heads, head_dim)."""

SEGMENTS = Form(lambda tensors, config: [torch.stack([t.reshape(_heads(config)) for t in tensors])],
                lambda tensors, config: [part.reshape(config.inner).contiguous() for part in tensors[0].unbind()])
"""The vectors of the same and of another segment, stored as (2, heads, head_dim)."""

QUERY = Form(lambda tensors, config: [tensors[0].reshape(1, 1, config.dim)],
             lambda tensors, config: [tensors[0].reshape(config.dim)])
"""The vector from which queries start, stored as (1, 1, dim)."""

OURS, PUBLIC = "blocks.{layer}.", "transformer.layer.{layer}."
ATTENTION = [
    WeightName(OURS + "attention." + ours, PUBLIC + "rel_attn." + public, form=form)
    for ours, public, form in (
        ("query.weight", "q", INTO_HEADS), ("key.weight", "k", INTO_HEADS), ("value.weight", "v", INTO_HEADS),
        ("position.weight", "r", INTO_HEADS), ("output.weight", "o", OUT_OF_HEADS),
        ("content_bias", "r_w_bias", PER_HEAD), ("position_bias", "r_r_bias", PER_HEAD),
        ("segment_bias", "r_s_bias", PER_HEAD),
    )
]
LAYERS = {"attention_norm": "rel_attn.layer_norm", "mlp.up": "ff.layer_1", "mlp.down": "ff.layer_2",
          "mlp_norm": "ff.layer_norm"}


def probe(config: TwoStreamConfig, ids: list[int]) -> dict[str, Tensor]:
    """Inputs for a proof over these token ids: two segments, and every second token predicted, the last one first."""
    time = len(ids)
    places = torch.arange(time)
    # Where a token sees as many as it remembers, without memory it sees itself only: hidden from itself it would see
    # nothing, and public code then averages over everything.
    predicted = (places % 2 == 1) & (not config.same_length)
    ranks = torch.where(predicted, (time - places) // 2, -1)[None]
    targets = places[1::2] if time > 1 else places
    return {
        "input_ids": torch.tensor([ids]),
        "token_type_ids": (places >= time // 2).long()[None],
        "perm_mask": permutation_mask(ranks).float(),
        "target_mapping": torch.eye(time)[targets][None],
    }


XLNET = Family(
    name="xlnet",
    architectures=("XLNetLMHeadModel",),
    body=TwoStream,
    config=TwoStreamConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=(
        WeightName("embedding.tokens.weight", "transformer.word_embedding.weight"),
        WeightName("embedding.query", "transformer.mask_emb", form=QUERY),
        *ATTENTION,
        WeightName((OURS + "attention.same_segment", OURS + "attention.other_segment"), PUBLIC + "rel_attn.seg_embed",
                   form=SEGMENTS),
        *(WeightName(f"{OURS}{ours}.{kind}", f"{PUBLIC}{public}.{kind}")
          for ours, public in LAYERS.items() for kind in ("weight", "bias")),
        WeightName("head.weight", "lm_loss.weight", lambda c: not c.tied_head),
        WeightName("head.bias", "lm_loss.bias"),
    ),
    copies={"lm_loss.weight": "transformer.word_embedding.weight"},
    objective="permutation_lm",
    public_class="XLNetLMHeadModel",
    public_blocks=("transformer.layer",),
    probe=probe,
)
