"""Qwen 2, 2.5 (arXiv:2412.15115) and 3 (arXiv:2505.09388): Llama's block with a bias on queries, keys and values, or
with a norm on queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.llama import BLOCK, PUBLIC_BLOCK, REFUSED, WEIGHTS, shared_from_public, shared_to_public
from gristmill.models.families.reading import WHERE, decoder, number, refuse

QWEN25: dict[str, Any] = {"family": "qwen", "vocab_size": 151_936, "context": 32_768, "rope_theta": 1_000_000.0,
                          "norm_eps": 1e-6, "qkv_bias": True}
QWEN3: dict[str, Any] = {"family": "qwen", "vocab_size": 151_936, "context": 40_960, "rope_theta": 1_000_000.0,
                         "norm_eps": 1e-6, "qk_norm": True, "head_dim": 128}

PRESETS = {
    "tiny": DecoderConfig(family="qwen", vocab_size=512, dim=64, layers=4, heads=4, kv_heads=2, head_dim=32,
                          mlp_dim=192, context=256, norm_eps=1e-6, qk_norm=True, tied_head=True),
    "qwen2.5-0.5b": DecoderConfig(dim=896, layers=24, heads=14, kv_heads=2, head_dim=64, mlp_dim=4864,
                                  tied_head=True, **QWEN25),
    "qwen2.5-1.5b": DecoderConfig(dim=1536, layers=28, heads=12, kv_heads=2, head_dim=128, mlp_dim=8960,
                                  tied_head=True, **QWEN25),
    "qwen2.5-3b": DecoderConfig(dim=2048, layers=36, heads=16, kv_heads=2, head_dim=128, mlp_dim=11_008,
                                tied_head=True, **QWEN25),
    "qwen2.5-7b": DecoderConfig(dim=3584, layers=28, heads=28, kv_heads=4, head_dim=128, mlp_dim=18_944,
                                **{**QWEN25, "vocab_size": 152_064}),
    "qwen3-0.6b": DecoderConfig(dim=1024, layers=28, heads=16, kv_heads=8, mlp_dim=3072, tied_head=True, **QWEN3),
    "qwen3-1.7b": DecoderConfig(dim=2048, layers=28, heads=16, kv_heads=8, mlp_dim=6144, tied_head=True, **QWEN3),
    "qwen3-4b": DecoderConfig(dim=2560, layers=36, heads=32, kv_heads=8, mlp_dim=9728, tied_head=True, **QWEN3),
    "qwen3-8b": DecoderConfig(dim=4096, layers=36, heads=32, kv_heads=8, mlp_dim=12_288, **QWEN3),
}

KINDS = {"full_attention": "full", "sliding_attention": "window"}


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    refuse(public, {**REFUSED, "use_mrope": (None, False)})
    third = public.get("model_type") == "qwen3" or public.get("architectures") == ["Qwen3ForCausalLM"]
    fields = shared_from_public(public)
    if third:
        fields["head_dim"] = number(public, "head_dim", 128)
    biased = not third or bool(public.get("attention_bias", False))
    kinds = _kinds(public, fields["layers"])
    window = number(public, "sliding_window", 4096) if "window" in kinds else None
    return decoder(family="qwen", qk_norm=third, qkv_bias=biased, output_bias=biased and third, attention=kinds,
                   window=window, **fields)


def _kinds(public: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """full or window for each layer, from the list of kinds or, in older files, from the first layer with a window."""
    listed = public.get("layer_types")
    if listed is not None and (len(listed) != layers or not set(listed) <= set(KINDS)):
        raise UserError(f"layer_types must name one of {', '.join(KINDS)} for each of {layers} layers", where=WHERE)
    if not public.get("use_sliding_window", False) or public.get("sliding_window", 4096) is None:
        return ("full",)
    if listed is not None:
        return tuple(KINDS[kind] for kind in listed)
    first = number(public, "max_window_layers", 28)
    return tuple("full" if layer < first else "window" for layer in range(layers))


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """The exact inverse of `config_from_public`."""
    kinds = [config.layer_attention(layer) for layer in range(config.layers)]
    windows = "window" in kinds
    first = kinds.index("window") if windows else config.layers
    public = {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "Qwen2ForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "qwen2", **shared_to_public(config),
        "use_sliding_window": windows, "sliding_window": config.window, "max_window_layers": first,
        "layer_types": ["sliding_attention" if kind == "window" else "full_attention" for kind in kinds],
    }
    return {**public, "attention_bias": config.qkv_bias} if config.qk_norm else public


QWEN = Family(
    name="qwen",
    architectures=("Qwen2ForCausalLM", "Qwen3ForCausalLM"),
    model_types=("qwen2", "qwen3"),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=(
        *WEIGHTS,
        *(WeightName(f"{BLOCK}attention.{a}_norm.weight", f"{PUBLIC_BLOCK}self_attn.{b}_norm.weight",
                     lambda c: c.qk_norm) for a, b in (("query", "q"), ("key", "k"))),
    ),
    ignored=("rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    traits={"qk_norm": True, "norm_eps": 1e-6},
    mlp_ratio=3.0,
)
