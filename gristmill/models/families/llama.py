"""Llama and what shares its shape (arXiv:2302.13971): SmolLM2, TinyLlama, Llama 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.reading import (
    decoder,
    number,
    read_training_only,
    refuse,
    rope,
    scaling_to_public,
    training_only,
)

LLAMA3_SCALING = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8192}

PRESETS = {
    "tiny": DecoderConfig(vocab_size=512, dim=64, layers=4, heads=4, kv_heads=2, head_dim=16, mlp_dim=192, context=256,
                          tied_head=True),
    "smollm2-135m": DecoderConfig(vocab_size=49_152, dim=576, layers=30, heads=9, kv_heads=3, head_dim=64,
                                  mlp_dim=1536, context=8192, rope_theta=100_000.0, tied_head=True),
    "smollm2-360m": DecoderConfig(vocab_size=49_152, dim=960, layers=32, heads=15, kv_heads=5, head_dim=64,
                                  mlp_dim=2560, context=8192, rope_theta=100_000.0, tied_head=True),
    "smollm2-1.7b": DecoderConfig(vocab_size=49_152, dim=2048, layers=24, heads=32, kv_heads=32, head_dim=64,
                                  mlp_dim=8192, context=8192, rope_theta=130_000.0, tied_head=True),
    "tinyllama-1.1b": DecoderConfig(vocab_size=32_000, dim=2048, layers=22, heads=32, kv_heads=4, head_dim=64,
                                    mlp_dim=5632, context=2048),
    "llama-2-7b": DecoderConfig(vocab_size=32_000, dim=4096, layers=32, heads=32, kv_heads=32, head_dim=128,
                                mlp_dim=11_008, context=4096),
    "llama-2-13b": DecoderConfig(vocab_size=32_000, dim=5120, layers=40, heads=40, kv_heads=40, head_dim=128,
                                 mlp_dim=13_824, context=4096),
    "llama-2-70b": DecoderConfig(vocab_size=32_000, dim=8192, layers=80, heads=64, kv_heads=8, head_dim=128,
                                 mlp_dim=28_672, context=4096),
    "llama-3-8b": DecoderConfig(vocab_size=128_256, dim=4096, layers=32, heads=32, kv_heads=8, head_dim=128,
                                mlp_dim=14_336, context=8192, rope_theta=500_000.0),
    "llama-3-70b": DecoderConfig(vocab_size=128_256, dim=8192, layers=80, heads=64, kv_heads=8, head_dim=128,
                                 mlp_dim=28_672, context=8192, rope_theta=500_000.0),
    "llama-3.1-8b": DecoderConfig(vocab_size=128_256, dim=4096, layers=32, heads=32, kv_heads=8, head_dim=128,
                                  mlp_dim=14_336, context=131_072, rope_theta=500_000.0,
                                  rope_scaling={**LLAMA3_SCALING, "factor": 8.0}),
    "llama-3.1-405b": DecoderConfig(vocab_size=128_256, dim=16_384, layers=126, heads=128, kv_heads=8, head_dim=128,
                                    mlp_dim=53_248, context=131_072, rope_theta=500_000.0,
                                    rope_scaling={**LLAMA3_SCALING, "factor": 8.0}),
    "llama-3.2-1b": DecoderConfig(vocab_size=128_256, dim=2048, layers=16, heads=32, kv_heads=8, head_dim=64,
                                  mlp_dim=8192, context=131_072, rope_theta=500_000.0, rope_scaling=LLAMA3_SCALING,
                                  tied_head=True),
    "llama-3.2-3b": DecoderConfig(vocab_size=128_256, dim=3072, layers=28, heads=24, kv_heads=8, head_dim=128,
                                  mlp_dim=8192, context=131_072, rope_theta=500_000.0, rope_scaling=LLAMA3_SCALING,
                                  tied_head=True),
}

REFUSED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish", None),
    "partial_rotary_factor": (None, 1, 1.0),
    "quantization_config": (None,),
    "num_local_experts": (None, 0, 1),
    "qk_norm": (None, False),
    "use_qk_norm": (None, False),
    "logits_scaling": (None, 1, 1.0),
}
"""Options that would change the computation -> the values with which they do not."""


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    refuse(public, {**REFUSED, "sliding_window": (None,)})
    biased = bool(public.get("attention_bias", False))
    return decoder(family="llama", qkv_bias=biased, output_bias=biased, mlp_bias=bool(public.get("mlp_bias", False)),
                   **shared_from_public(public))


def shared_from_public(public: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our config that Llama and its relatives (Mistral, Qwen, Mixtral) call alike."""
    heads, dim = number(public, "num_attention_heads"), number(public, "hidden_size")
    theta, scaling = rope(public)
    return {
        "vocab_size": number(public, "vocab_size"), "dim": dim, "layers": number(public, "num_hidden_layers"),
        "heads": heads, "kv_heads": number(public, "num_key_value_heads", heads),
        "head_dim": number(public, "head_dim", dim // max(heads, 1)), "mlp_dim": number(public, "intermediate_size"),
        "context": number(public, "max_position_embeddings", 2048), "rope_theta": theta, "rope_scaling": scaling,
        "norm_eps": number(public, "rms_norm_eps", 1e-6), "tied_head": bool(public.get("tie_word_embeddings", False)),
        "attention_dropout": number(public, "attention_dropout", 0.0), **read_training_only(public),
    }


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shared_to_public(config),
            "attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def shared_to_public(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `shared_from_public`."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling_to_public(config),
        "tie_word_embeddings": config.tied_head,
        "attention_dropout": config.attention_dropout,
        **training_only(config),
    }


BLOCK = "blocks.{layer}."
PUBLIC_BLOCK = "model.layers.{layer}."
ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
MLP = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}

WEIGHTS = (
    WeightName("embedding.weight", "model.embed_tokens.weight"),
    WeightName(BLOCK + "attention_norm.weight", PUBLIC_BLOCK + "input_layernorm.weight"),
    *(WeightName(f"{BLOCK}attention.{a}.weight", f"{PUBLIC_BLOCK}self_attn.{b}.weight") for a, b in ATTENTION.items()),
    *(WeightName(f"{BLOCK}attention.{a}.bias", f"{PUBLIC_BLOCK}self_attn.{b}.bias",
                 (lambda c: c.output_bias) if a == "output" else (lambda c: c.qkv_bias)) for a, b in ATTENTION.items()),
    WeightName(BLOCK + "mlp_norm.weight", PUBLIC_BLOCK + "post_attention_layernorm.weight"),
    *(WeightName(f"{BLOCK}mlp.{a}.weight", f"{PUBLIC_BLOCK}mlp.{b}.weight") for a, b in MLP.items()),
    *(WeightName(f"{BLOCK}mlp.{a}.bias", f"{PUBLIC_BLOCK}mlp.{b}.bias", lambda c: c.mlp_bias) for a, b in MLP.items()),
    WeightName("norm.weight", "model.norm.weight"),
    WeightName("head.weight", "lm_head.weight", lambda c: not c.tied_head),
)
"""What Llama and its relatives call their tensors."""

LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM",),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=WEIGHTS,
    ignored=("rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    mlp_ratio=8 / 3,
)
