"""Mistral (arXiv:2310.06825): Llama's block, with a sliding window of attention in every layer or in none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families.family import Family
from gristmill.models.families.llama import REFUSED, WEIGHTS, shared_from_public, shared_to_public
from gristmill.models.families.reading import decoder, refuse

SIZE_7B: dict[str, Any] = {"family": "mistral", "dim": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128,
                           "mlp_dim": 14_336, "context": 32_768}

PRESETS = {
    "tiny": DecoderConfig(family="mistral", vocab_size=512, dim=64, layers=4, heads=4, kv_heads=2, head_dim=16,
                          mlp_dim=192, context=256, window=64),
    "mistral-7b": DecoderConfig(vocab_size=32_000, window=4096, **SIZE_7B),
    "mistral-7b-v0.2": DecoderConfig(vocab_size=32_000, rope_theta=1_000_000.0, **SIZE_7B),
    "mistral-7b-v0.3": DecoderConfig(vocab_size=32_768, rope_theta=1_000_000.0, **SIZE_7B),
}


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    refuse(public, {**REFUSED, "layer_types": (None,)})
    return decoder(family="mistral", window=public.get("sliding_window"), **shared_from_public(public))


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """The exact inverse of `config_from_public`."""
    return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", **shared_to_public(config),
            "sliding_window": config.window}


MISTRAL = Family(
    name="mistral",
    architectures=("MistralForCausalLM",),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=WEIGHTS,
    ignored=("rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    traits={"window": 4096},
    mlp_ratio=8 / 3,
)
