"""GPT-3 (Brown et al. 2020, arXiv:2005.14165): GPT-2 with dense and locally banded attention in turn.

No public implementation opens it; its folders carry an architecture name of ours and the tensor names of GPT-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families import gpt2
from gristmill.models.families.family import Family
from gristmill.models.families.reading import WHERE, decoder

ALTERNATING: dict[str, Any] = {"attention": ("full", "window"), "window": 256}
"""Dense, then banded, and so on (2.1). The paper does not tell the width of the band; 256 is that of GPT-Neo."""

PUBLISHED: dict[str, Any] = {"vocab_size": 50_257, "context": 2048, **ALTERNATING}

# Table 2.1. It prints 24 heads for 1.3B and a width of 5140 for 13B; neither fits heads of 128 channels, so these two
# have the 16 heads and the width of 5120 that do.
PRESETS = {
    "tiny": gpt2.size("gpt3", 4, 64, 4, vocab_size=512, context=256, attention=("full", "window"), window=64),
    "125m": gpt2.size("gpt3", 12, 768, 12, **PUBLISHED),
    "350m": gpt2.size("gpt3", 24, 1024, 16, **PUBLISHED),
    "760m": gpt2.size("gpt3", 24, 1536, 16, **PUBLISHED),
    "1.3b": gpt2.size("gpt3", 24, 2048, 16, **PUBLISHED),
    "2.7b": gpt2.size("gpt3", 32, 2560, 32, **PUBLISHED),
    "6.7b": gpt2.size("gpt3", 32, 4096, 32, **PUBLISHED),
    "13b": gpt2.size("gpt3", 40, 5120, 40, **PUBLISHED),
    "175b": gpt2.size("gpt3", 96, 12_288, 96, **PUBLISHED),
}

KINDS = {"global": "full", "local": "window", "sparse": "sparse"}
"""Layers of the public config -> ours; `sparse` is what the numbers of SPARSE say together (layers/masks.py)."""
SPARSE = {"dilation": 1, "stride": None, "global_tokens": 0, "attention_block": 1}
"""Numbers of sparse layers beside the window, with what they are where none is told."""


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    fields = gpt2.shared_from_public(public)
    kinds = public.get("attention_layers") or ["global"] * fields["layers"]
    if len(kinds) != fields["layers"] or not set(kinds) <= set(KINDS):
        raise UserError(f"attention_layers must name {', '.join(KINDS)} for each of {fields['layers']} layers",
                        where=WHERE)
    sparse = {name: public.get(name, default) for name, default in SPARSE.items()} if "sparse" in kinds else {}
    return decoder(family="gpt3", attention=tuple(KINDS[kind] for kind in kinds),
                   window=public.get("window_size") if {"local", "sparse"} & set(kinds) else None, **sparse, **fields)


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """The exact inverse of `config_from_public`."""
    names = {ours: public for public, ours in KINDS.items()}
    kinds = [names[config.layer_attention(layer)] for layer in range(config.layers)]
    sparse = {name: getattr(config, name) for name in SPARSE} if "sparse" in kinds else {}
    return {"architectures": ["GPT3LMHeadModel"], "model_type": "gpt3", **gpt2.shared_to_public(config),
            "attention_layers": kinds, "window_size": config.window, **sparse}


GPT3 = Family(
    name="gpt3",
    architectures=("GPT3LMHeadModel",),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=gpt2.WEIGHTS,
    copies={"lm_head.weight": "transformer.wte.weight"},
    traits={**gpt2.TRAITS, **ALTERNATING, "window": 128},
    public_class="",
)
