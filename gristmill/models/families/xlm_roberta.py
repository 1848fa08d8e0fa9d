"""XLM-R (Conneau et al. 2020, arXiv:1911.02116): RoBERTa with the vocabulary of a hundred languages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gristmill.models.config import EncoderConfig
from gristmill.models.families import roberta
from gristmill.models.families.bert import size, write_config

PRESETS = {
    "base": size(768, 12, 12, family="xlm-roberta", vocab_size=250_002, **roberta.PUBLISHED),
    "large": size(1024, 24, 16, family="xlm-roberta", vocab_size=250_002, **roberta.PUBLISHED),
}


def config_from_public(public: Mapping[str, Any]) -> EncoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    return roberta.config_from_public(public, "xlm-roberta")


def config_to_public(config: EncoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    return {**write_config(config, "XLMRobertaForMaskedLM"), "model_type": "xlm-roberta"}


XLM_ROBERTA = dataclasses.replace(
    roberta.ROBERTA, name="xlm-roberta", architectures=("XLMRobertaForMaskedLM",), presets=PRESETS,
    config_from_public=config_from_public, config_to_public=config_to_public)
