"""mT5 (Xue et al. 2021, arXiv:2010.11934): T5 1.1 for 101 languages, with a larger vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.models.config import EncoderDecoderConfig
from gristmill.models.encoder_decoder import EncoderDecoder
from gristmill.models.families import t5
from gristmill.models.families.family import Family

VOCABULARY: dict[str, Any] = {**t5.GATED, "family": "mt5", "vocab_size": 250_112}

PRESETS = {
    "small": t5.size(512, 8, 6, 1024, **VOCABULARY),
    "base": t5.size(768, 12, 12, 2048, **VOCABULARY),
    "large": t5.size(1024, 24, 16, 2816, **VOCABULARY),
    "xl": t5.size(2048, 24, 32, 5120, **VOCABULARY),
    "xxl": t5.size(4096, 24, 64, 10_240, **VOCABULARY),
}


def config_from_public(public: Mapping[str, Any]) -> EncoderDecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute.

    mT5's head is its own, whatever `tie_word_embeddings` says: since its version 5 transformers writes true there and
    reads the head from the file all the same.
    """
    return t5.read_config(public, feed_forward="gated-gelu", tied=False, family="mt5")


def config_to_public(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    return t5.write_config(config, "MT5ForConditionalGeneration", "mt5")


MT5 = Family(
    name="mt5",
    architectures=("MT5ForConditionalGeneration",),
    body=EncoderDecoder,
    config=EncoderDecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=t5.WEIGHTS,
    ignored=t5.IGNORED,
    copies={name: original for name, original in t5.COPIES.items() if name != "lm_head.weight"},
    respell=t5.with_head,
    traits={**t5.GATED},
    mlp_ratio=8 / 3,
    objective="span_corruption",
    public_class="AutoModelForSeq2SeqLM",
    public_blocks=("encoder.block", "decoder.block"),
    probe=t5.probe,
)
