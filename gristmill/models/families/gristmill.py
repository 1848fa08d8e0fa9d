"""Our own recipe for training from scratch: Llama's block, and whatever lowered the loss at equal compute
(docs/models/gristmill.md).

No other library opens it; its folders carry an architecture name of ours and, as far as they go, Llama's tensor names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.llama import BLOCK, PUBLIC_BLOCK, REFUSED, WEIGHTS, shared_from_public, shared_to_public
from gristmill.models.families.reading import decoder, refuse

TRAITS: dict[str, Any] = {"family": "gristmill", "value_embeddings": True}

PRESETS = {
    "tiny": DecoderConfig(vocab_size=512, dim=64, layers=4, heads=4, kv_heads=2, head_dim=16, mlp_dim=192, context=256,
                          **TRAITS),
}

SWITCHES = ("qk_norm", "value_embeddings")
"""Fields of the config that config.json calls alike."""


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    refuse(public, {name: values for name, values in REFUSED.items() if name not in SWITCHES})
    return decoder(family="gristmill", **shared_from_public(public),
                   **{name: bool(public.get(name, False)) for name in SWITCHES})


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """The exact inverse of `config_from_public`."""
    return {"architectures": ["GristmillForCausalLM"], "model_type": "gristmill", **shared_to_public(config),
            **{name: getattr(config, name) for name in SWITCHES}}


def value_layers(config: DecoderConfig) -> list[int]:
    """The layers with value embeddings."""
    return [layer for layer in range(config.layers) if config.layer_values(layer)]


GRISTMILL = Family(
    name="gristmill",
    architectures=("GristmillForCausalLM",),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=(
        *WEIGHTS,
        *(WeightName(f"{BLOCK}attention.{name}.weight", f"{PUBLIC_BLOCK}self_attn.{name}.weight", layers=value_layers)
          for name in ("value_embedding", "value_gate")),
        *(WeightName(f"{BLOCK}attention.{a}_norm.weight", f"{PUBLIC_BLOCK}self_attn.{b}_norm.weight",
                     lambda c: c.qk_norm) for a, b in (("query", "q"), ("key", "k"))),
    ),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    traits={name: value for name, value in TRAITS.items() if name != "family"},
    mlp_ratio=8 / 3,
    public_class="",
)
