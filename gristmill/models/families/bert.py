"""BERT (Devlin et al. 2019, arXiv:1810.04805), and what RoBERTa's format shares with its."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.models.config import EncoderConfig
from gristmill.models.encoder import Encoder
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.forms import Form
from gristmill.models.families.reading import WHERE, number, refuse

PUBLIC_DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1}


def size(dim: int, layers: int, heads: int, **rest: Any) -> EncoderConfig:
    """A published size: heads of dim / heads channels, a feed-forward of four times the width, 512 positions."""
    return EncoderConfig(**{"dim": dim, "layers": layers, "heads": heads, "head_dim": dim // heads, "mlp_dim": 4 * dim,
                            "context": 512, **PUBLIC_DROPOUT, **rest})


UNCASED = {"vocab_size": 30_522, "next_sentence": True}

PRESETS = {
    "tiny": size(128, 2, 2, **UNCASED),
    "mini": size(256, 4, 4, **UNCASED),
    "small": size(512, 4, 8, **UNCASED),
    "medium": size(512, 8, 8, **UNCASED),
    "base": size(768, 12, 12, **UNCASED),
    "large": size(1024, 24, 16, **UNCASED),
    "base-cased": size(768, 12, 12, vocab_size=28_996, next_sentence=True),
    "large-cased": size(1024, 24, 16, vocab_size=28_996, next_sentence=True),
    "base-multilingual-cased": size(768, 12, 12, vocab_size=119_547, next_sentence=True),
}
"""tiny to medium are those of Turc et al. 2019 (arXiv:1908.08962)."""

FROM_PUBLIC = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
TO_PUBLIC = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}

REFUSED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "position_embedding_type": ("absolute", None),
    "quantization_config": (None,),
    "embedding_size": (None,),
}
"""Options that would change the computation -> the values with which they do not."""


def wrong(error: ValueError) -> UserError:
    """What a config refuses, as an error about config.json."""
    return UserError(str(error), where=WHERE, fix="correct config.json")


def read_config(public: Mapping[str, Any], **rest: Any) -> EncoderConfig:
    """What BERT's and RoBERTa's config.json say in the same words, and `rest`."""
    refuse(public, REFUSED)
    activation = public.get("hidden_act", "gelu")
    if activation not in FROM_PUBLIC:
        raise UserError(f"hidden_act {activation!r} is not supported", where=WHERE,
                        fix=f"supported: {', '.join(FROM_PUBLIC)}")
    dim, heads = number(public, "hidden_size"), number(public, "num_attention_heads")
    fields = {"mlp": FROM_PUBLIC[activation], "transform": FROM_PUBLIC[activation], **rest}
    try:
        return EncoderConfig(
            vocab_size=number(public, "vocab_size"), dim=dim, layers=number(public, "num_hidden_layers"), heads=heads,
            head_dim=dim // max(heads, 1), mlp_dim=number(public, "intermediate_size"),
            segments=number(public, "type_vocab_size", 2), norm_eps=number(public, "layer_norm_eps", 1e-12),
            tied_head=public.get("tie_word_embeddings") is not False,
            dropout=number(public, "hidden_dropout_prob", 0.1),
            attention_dropout=number(public, "attention_probs_dropout_prob", 0.1), **fields,
        )
    except ValueError as error:
        raise wrong(error) from error


def write_config(config: EncoderConfig, architecture: str) -> dict[str, Any]:
    """The inverse of `read_config`, without the model's type."""
    return {
        "architectures": [architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": TO_PUBLIC[config.mlp],
        "max_position_embeddings": config.first_position + config.context,
        "type_vocab_size": config.segments,
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "pad_token_id": config.pad_id,
        "tie_word_embeddings": config.tied_head,
    }


def config_from_public(public: Mapping[str, Any]) -> EncoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    return read_config(public, context=number(public, "max_position_embeddings", 512),
                       pad_id=number(public, "pad_token_id", 0),
                       next_sentence="BertForPreTraining" in (public.get("architectures") or []))


def config_to_public(config: EncoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    return {**write_config(config, "BertForPreTraining" if config.next_sentence else "BertForMaskedLM"),
            "model_type": "bert"}


BLOCK, PUBLIC_BLOCK = "blocks.{layer}.", ".encoder.layer.{layer}."
PARTS = {
    "attention.query": "attention.self.query", "attention.key": "attention.self.key",
    "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm", "mlp.up": "intermediate.dense", "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}

TWICE = Form(lambda tensors, config: [tensors[0], tensors[0].clone()], lambda tensors, config: [tensors[0]])
"""One of ours that the public format stores under two names, of which the first counts."""


def both(ours: str, public: str, present: Any = lambda config: True) -> list[WeightName]:
    """The weight and the bias of a layer."""
    return [WeightName(f"{ours}.{kind}", f"{public}.{kind}", present) for kind in ("weight", "bias")]


def body_weights(prefix: str) -> tuple[WeightName, ...]:
    """Embedding and blocks, which are under `prefix` in the public format."""
    return (
        WeightName("embedding.tokens.weight", f"{prefix}.embeddings.word_embeddings.weight"),
        WeightName("embedding.positions.weight", f"{prefix}.embeddings.position_embeddings.weight"),
        WeightName("embedding.segments.weight", f"{prefix}.embeddings.token_type_embeddings.weight"),
        *both("embedding.norm", f"{prefix}.embeddings.LayerNorm"),
        *(weight for a, b in PARTS.items() for weight in both(BLOCK + a, prefix + PUBLIC_BLOCK + b)),
    )


def output_weights(prefix: str) -> tuple[WeightName, ...]:
    """The output matrix and its bias, which are under `prefix`; where nothing is tied, two names hold the bias."""
    return (
        WeightName("head.bias", f"{prefix}.bias", lambda c: c.tied_head),
        WeightName("head.bias", (f"{prefix}.decoder.bias", f"{prefix}.bias"), lambda c: not c.tied_head, TWICE),
        WeightName("head.weight", f"{prefix}.decoder.weight", lambda c: not c.tied_head),
    )


def without_padding(config: EncoderConfig, ids: list[int]) -> list[int]:
    """`ids` with another token in place of the one that pads, which public code would take for padding."""
    return [(i + 1) % config.vocab_size if i == config.pad_id else i for i in ids]


def probe(config: EncoderConfig, ids: list[int]) -> dict[str, Tensor]:
    """Inputs for a proof over these token ids: a pair of texts, where there are segments for one."""
    inputs = {"input_ids": torch.tensor([without_padding(config, ids)])}
    if config.segments > 1:
        inputs["token_type_ids"] = (torch.arange(len(ids)) >= len(ids) // 2).long()[None]
    return inputs


BERT = Family(
    name="bert",
    architectures=("BertForPreTraining", "BertForMaskedLM"),
    body=Encoder,
    config=EncoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=(
        *body_weights("bert"),
        *both("head.transform", "cls.predictions.transform.dense"),
        *both("head.norm", "cls.predictions.transform.LayerNorm"),
        *output_weights("cls.predictions"),
        *both("head.pooler", "bert.pooler.dense", lambda c: c.next_sentence),
        *both("head.pair", "cls.seq_relationship", lambda c: c.next_sentence),
    ),
    ignored=("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias", "cls.seq_relationship.weight",
             "cls.seq_relationship.bias"),
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    copies={"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias"},
    traits={"next_sentence": True},
    objective="next_sentence",
    public_class="AutoModelForMaskedLM",
    public_blocks=("bert.encoder.layer",),
    probe=probe,
)
