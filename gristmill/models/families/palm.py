"""PaLM (Chowdhery et al. 2022, arXiv:2204.02311): attention and feed-forward side by side, one key/value head, no
biases, a shared embedding whose logits are scaled.

PaLM itself was never published, and no public implementation bears its name. Its computation is that of Cohere's
Command-R, which transformers and vLLM open: folders are written as `CohereForCausalLM`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.forms import paired
from gristmill.models.families.llama import BLOCK, MLP, PUBLIC_BLOCK
from gristmill.models.families.reading import (
    decoder,
    number,
    read_training_only,
    refuse,
    rope,
    scaling_to_public,
    training_only,
)

TRAITS: dict[str, Any] = {"parallel": True, "kv_heads": 1, "norm": "layer", "norm_bias": False, "tied_head": True,
                          "logit_scale": 0.0}


def size(layers: int, dim: int, heads: int) -> DecoderConfig:
    """A row of table 1: heads of 256 channels, a feed-forward four times as wide."""
    return DecoderConfig(**{**TRAITS, "family": "palm", "layers": layers, "dim": dim, "heads": heads, "head_dim": 256,
                            "mlp_dim": 4 * dim, "vocab_size": 256_000, "context": 2048})


PRESETS = {
    "tiny": DecoderConfig(family="palm", vocab_size=512, dim=64, layers=4, heads=4, head_dim=16, mlp_dim=256,
                          context=256, **TRAITS),
    "8b": size(32, 4096, 16),
    "62b": size(64, 8192, 32),
    "540b": size(118, 18_432, 48),
}

REFUSED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish", None),
    "use_qk_norm": (False, None),
    "attention_bias": (False, None),
    "tie_word_embeddings": (True, None),
    "partial_rotary_factor": (None, 1, 1.0),
    "quantization_config": (None,),
}


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    refuse(public, REFUSED)
    heads, dim = number(public, "num_attention_heads"), number(public, "hidden_size")
    theta, scaling = rope(public, 500_000.0)
    return decoder(**{
        **TRAITS, "family": "palm", "vocab_size": number(public, "vocab_size"), "dim": dim,
        "layers": number(public, "num_hidden_layers"), "heads": heads,
        "kv_heads": number(public, "num_key_value_heads", heads),
        "head_dim": number(public, "head_dim", dim // max(heads, 1)), "mlp_dim": number(public, "intermediate_size"),
        "context": number(public, "max_position_embeddings", 8192), "rope_theta": theta, "rope_scaling": scaling,
        "norm_eps": number(public, "layer_norm_eps", 1e-5), "logit_scale": number(public, "logit_scale", 0.0625),
        "attention_dropout": number(public, "attention_dropout", 0.0), **read_training_only(public),
    })


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """The exact inverse of `config_from_public`."""
    return {
        "architectures": ["CohereForCausalLM"], "model_type": "cohere", "vocab_size": config.vocab_size,
        "hidden_size": config.dim, "intermediate_size": config.mlp_dim, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "hidden_act": "silu", "max_position_embeddings": config.context, "layer_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta, "rope_scaling": scaling_to_public(config), "logit_scale": config.logit_scale,
        "tie_word_embeddings": True, "attention_bias": False, "use_qk_norm": False,
        "attention_dropout": config.attention_dropout, **training_only(config),
    }


PALM = Family(
    name="palm",
    architectures=("CohereForCausalLM",),
    model_types=("cohere", "palm"),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=(
        WeightName("embedding.weight", "model.embed_tokens.weight"),
        WeightName(BLOCK + "attention_norm.weight", PUBLIC_BLOCK + "input_layernorm.weight"),
        WeightName(BLOCK + "attention.query.weight", PUBLIC_BLOCK + "self_attn.q_proj.weight",
                   form=paired(lambda c: c.heads)),
        WeightName(BLOCK + "attention.key.weight", PUBLIC_BLOCK + "self_attn.k_proj.weight",
                   form=paired(lambda c: c.kv_heads)),
        WeightName(BLOCK + "attention.value.weight", PUBLIC_BLOCK + "self_attn.v_proj.weight"),
        WeightName(BLOCK + "attention.output.weight", PUBLIC_BLOCK + "self_attn.o_proj.weight"),
        *(WeightName(f"{BLOCK}mlp.{a}.weight", f"{PUBLIC_BLOCK}mlp.{b}.weight") for a, b in MLP.items()),
        WeightName("norm.weight", "model.norm.weight"),
    ),
    ignored=("rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    traits=TRAITS,
)
