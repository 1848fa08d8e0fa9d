"""RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT's body, positions counted from pad_id + 1, another head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.core.errors import UserError
from gristmill.models.config import EncoderConfig
from gristmill.models.encoder import Encoder
from gristmill.models.families.bert import (
    body_weights,
    both,
    output_weights,
    probe,
    read_config,
    size,
    write_config,
)
from gristmill.models.families.family import Family
from gristmill.models.families.reading import WHERE, number

FIXED: dict[str, Any] = {"offset_positions": True, "transform": "gelu"}
"""What makes an encoder a RoBERTa."""

TRAITS: dict[str, Any] = {**FIXED, "segments": 1, "norm_eps": 1e-5}

PUBLISHED = {**TRAITS, "pad_id": 1}

PRESETS = {
    "base": size(768, 12, 12, family="roberta", vocab_size=50_265, **PUBLISHED),
    "large": size(1024, 24, 16, family="roberta", vocab_size=50_265, **PUBLISHED),
}


def config_from_public(public: Mapping[str, Any], family: str = "roberta") -> EncoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    pad = number(public, "pad_token_id", 1)
    rows = number(public, "max_position_embeddings", 514)
    if rows <= pad + 1:
        raise UserError(f"max_position_embeddings is {rows}, but positions begin at pad_token_id + 1 = {pad + 1}",
                        where=WHERE, fix="correct config.json")
    return read_config(public, family=family, pad_id=pad, context=rows - pad - 1, **FIXED)


def config_to_public(config: EncoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    return {**write_config(config, "RobertaForMaskedLM"), "model_type": "roberta"}


WEIGHTS = (
    *body_weights("roberta"),
    *both("head.transform", "lm_head.dense"),
    *both("head.norm", "lm_head.layer_norm"),
    *output_weights("lm_head"),
)
IGNORED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
COPIES = {"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
          "lm_head.decoder.bias": "lm_head.bias"}

ROBERTA = Family(
    name="roberta",
    architectures=("RobertaForMaskedLM",),
    body=Encoder,
    config=EncoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=WEIGHTS,
    ignored=IGNORED,
    copies=COPIES,
    traits=TRAITS,
    objective="masked_lm",
    public_class="AutoModelForMaskedLM",
    public_blocks=("roberta.encoder.layer",),
    probe=probe,
)
