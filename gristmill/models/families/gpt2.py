"""GPT-2 (Radford et al. 2019): learned positions, layer norms before each part, GELU, biases, a tied head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.forms import TRANSPOSED, joined
from gristmill.models.families.reading import WHERE, decoder, number, refuse

TRAITS: dict[str, Any] = {"positions": "learned", "norm": "layer", "mlp": "gelu_tanh", "tied_head": True,
                          "qkv_bias": True, "output_bias": True, "mlp_bias": True}
"""What makes a decoder a GPT."""


def size(family: str, layers: int, dim: int, heads: int, **more: Any) -> DecoderConfig:
    """A GPT of the usual proportions: heads that share the width, a feed-forward four times as wide."""
    return DecoderConfig(**{**TRAITS, "family": family, "layers": layers, "dim": dim, "heads": heads,
                            "kv_heads": heads, "head_dim": dim // heads, "mlp_dim": 4 * dim, **more})


PUBLISHED: dict[str, Any] = {"vocab_size": 50_257, "context": 1024, "dropout": 0.1, "attention_dropout": 0.1}

PRESETS = {
    "tiny": size("gpt2", 4, 64, 4, vocab_size=512, context=256),
    "124m": size("gpt2", 12, 768, 12, **PUBLISHED),
    "medium": size("gpt2", 24, 1024, 16, **PUBLISHED),
    "large": size("gpt2", 36, 1280, 20, **PUBLISHED),
    "xl": size("gpt2", 48, 1600, 25, **PUBLISHED),
}

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
PUBLIC_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}

REFUSED: dict[str, tuple[Any, ...]] = {
    "scale_attn_weights": (True, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "add_cross_attention": (False, None),
    "quantization_config": (None,),
}


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    return decoder(family="gpt2", **shared_from_public(public))


def shared_from_public(public: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our config that GPT-2 and GPT-3 have in common."""
    refuse(public, REFUSED)
    activation = public.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"activation_function {activation!r} is not supported", where=WHERE,
                        fix=f"supported: {', '.join(ACTIVATIONS)}")
    dropout = number(public, "resid_pdrop", 0.1)
    if number(public, "embd_pdrop", 0.1) != dropout:
        raise UserError("embd_pdrop differs from resid_pdrop, and we have one number for both", where=WHERE,
                        fix="write the same number for both: they change nothing after training")
    dim, heads = number(public, "n_embd"), number(public, "n_head")
    if heads < 1 or dim % heads:
        raise UserError(f"n_embd {dim} cannot be cut into {heads} heads", where=WHERE, fix="correct config.json")
    return {**TRAITS, "vocab_size": number(public, "vocab_size"), "dim": dim, "layers": number(public, "n_layer"),
            "heads": heads, "kv_heads": heads, "head_dim": dim // heads, "mlp_dim": number(public, "n_inner", 4 * dim),
            "context": number(public, "n_positions", public.get("n_ctx")), "mlp": ACTIVATIONS[activation],
            "norm_eps": number(public, "layer_norm_epsilon", 1e-5), "dropout": dropout,
            "attention_dropout": number(public, "attn_pdrop", 0.1),
            "stochastic_depth": number(public, "stochastic_depth", 0.0),
            "tied_head": bool(public.get("tie_word_embeddings", True))}


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """The exact inverse of `config_from_public`."""
    return {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **shared_to_public(config)}


def shared_to_public(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `shared_from_public`."""
    if config.mlp not in PUBLIC_ACTIVATIONS:
        raise UserError(f"{config.family} has no name for the feed-forward {config.mlp!r}", where="model.mlp",
                        fix=f"choose one of {', '.join(PUBLIC_ACTIVATIONS)}")
    more = {"stochastic_depth": config.stochastic_depth} if config.stochastic_depth else {}
    return {"vocab_size": config.vocab_size, "n_embd": config.dim, "n_layer": config.layers, "n_head": config.heads,
            "n_positions": config.context, "n_ctx": config.context, "n_inner": config.mlp_dim,
            "activation_function": PUBLIC_ACTIVATIONS[config.mlp], "layer_norm_epsilon": config.norm_eps,
            "resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": config.attention_dropout,
            "tie_word_embeddings": config.tied_head, **more}


def _qkv(config: DecoderConfig) -> list[int]:
    return [config.heads * config.head_dim] * 3


BLOCK, PUBLIC_BLOCK = "blocks.{layer}.", "transformer.h.{layer}."
PARTS = ("query", "key", "value")
NORMS = {BLOCK + "attention_norm": PUBLIC_BLOCK + "ln_1", BLOCK + "mlp_norm": PUBLIC_BLOCK + "ln_2",
         "norm": "transformer.ln_f"}
LINEARS = {BLOCK + "attention.output": PUBLIC_BLOCK + "attn.c_proj", BLOCK + "mlp.up": PUBLIC_BLOCK + "mlp.c_fc",
           BLOCK + "mlp.down": PUBLIC_BLOCK + "mlp.c_proj"}

WEIGHTS = (
    WeightName("embedding.weight", "transformer.wte.weight"),
    WeightName("positions.weight", "transformer.wpe.weight"),
    *(WeightName(f"{ours}.{part}", f"{public}.{part}")
      for ours, public in NORMS.items() for part in ("weight", "bias")),
    WeightName(tuple(f"{BLOCK}attention.{part}.weight" for part in PARTS), PUBLIC_BLOCK + "attn.c_attn.weight",
               form=joined(_qkv, transposed=True)),
    WeightName(tuple(f"{BLOCK}attention.{part}.bias" for part in PARTS), PUBLIC_BLOCK + "attn.c_attn.bias",
               form=joined(_qkv)),
    *(WeightName(f"{ours}.weight", f"{public}.weight", form=TRANSPOSED) for ours, public in LINEARS.items()),
    *(WeightName(f"{ours}.bias", f"{public}.bias") for ours, public in LINEARS.items()),
    WeightName("head.weight", "lm_head.weight", lambda c: not c.tied_head),
)
"""Public matrices are (in, out), and queries, keys and values one of them."""

GPT2 = Family(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=WEIGHTS,
    ignored=(".attn.bias", ".attn.masked_bias"),
    copies={"lm_head.weight": "transformer.wte.weight"},
    base="transformer.",
    traits={**TRAITS},
    public_blocks=("transformer.h",),
)
