"""XLM (Lample and Conneau 2019, arXiv:1901.07291): one encoder for several languages, each with its embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.models.config import EncoderConfig
from gristmill.models.encoder import Encoder
from gristmill.models.families.bert import both, size, without_padding, wrong
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.reading import WHERE, number, refuse

TRAITS: dict[str, Any] = {"segments": 0, "transform": None}
"""What makes an encoder an XLM."""

PUBLISHED = {**TRAITS, "family": "xlm", "pad_id": 2}
XNLI = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")

PRESETS = {
    "tiny": size(128, 2, 4, vocab_size=8192, languages=("en", "de"), **{**PUBLISHED, "pad_id": 0, "context": 256}),
    "mlm-en-2048": size(2048, 12, 16, vocab_size=30_145, **PUBLISHED),
    "mlm-xnli15-1024": size(1024, 12, 8, vocab_size=95_000, languages=XNLI, **PUBLISHED),
    "mlm-tlm-xnli15-1024": size(1024, 12, 8, vocab_size=95_000, languages=XNLI, **PUBLISHED),
    "mlm-17-1280": size(1280, 16, 16, vocab_size=200_000, **PUBLISHED),
    "mlm-100-1280": size(1280, 16, 16, vocab_size=200_000, **PUBLISHED),
}
"""tiny is ours. The models of 17 and 100 languages have no language embeddings."""

REFUSED: dict[str, tuple[Any, ...]] = {
    "causal": (False, None),
    "asm": (False, None),
    "is_encoder": (True, None),
    "quantization_config": (None,),
}
"""Options that would change the computation -> the values with which they do not."""


def config_from_public(public: Mapping[str, Any]) -> EncoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    refuse(public, REFUSED)
    dim, heads = number(public, "emb_dim"), number(public, "n_heads")
    try:
        return EncoderConfig(
            family="xlm", vocab_size=number(public, "vocab_size", public.get("n_words")), dim=dim,
            layers=number(public, "n_layers"), heads=heads, head_dim=dim // max(heads, 1), mlp_dim=4 * dim,
            context=number(public, "max_position_embeddings", 512),
            positions="sinusoidal" if public.get("sinusoidal_embeddings") else "learned",
            pad_id=number(public, "pad_token_id", public.get("pad_index", 2)), languages=_languages(public),
            mlp="relu" if public.get("gelu_activation") is False else "gelu",
            norm_eps=number(public, "layer_norm_eps", 1e-12), tied_head=public.get("tie_word_embeddings") is not False,
            dropout=number(public, "dropout", 0.1), attention_dropout=number(public, "attention_dropout", 0.1),
            **TRAITS)
    except ValueError as error:
        raise wrong(error) from error


def _languages(public: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the languages that have an embedding; their numbers, where config.json does not name them."""
    count = number(public, "n_langs", 1)
    if count <= 1 or public.get("use_lang_emb") is False:
        return ()
    named = public.get("lang2id") or {str(i): i for i in range(count)}
    if not isinstance(named, Mapping) or sorted(map(str, named.values())) != sorted(map(str, range(count))):
        raise UserError(f"lang2id does not give each of the {count} languages its number", where=WHERE,
                        fix="correct config.json")
    return tuple(sorted(named, key=lambda name: int(named[name])))


def config_to_public(config: EncoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    return {
        "architectures": ["XLMWithLMHeadModel"],
        "model_type": "xlm",
        "vocab_size": config.vocab_size,
        "emb_dim": config.dim,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "max_position_embeddings": config.context,
        "sinusoidal_embeddings": config.positions == "sinusoidal",
        "gelu_activation": config.mlp == "gelu",
        "layer_norm_eps": config.norm_eps,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "n_langs": max(1, len(config.languages)),
        "use_lang_emb": bool(config.languages),
        "lang2id": {name: i for i, name in enumerate(config.languages)},
        "id2lang": {str(i): name for i, name in enumerate(config.languages)},
        "pad_token_id": config.pad_id,
        "tie_word_embeddings": config.tied_head,
        "causal": False,
        "asm": False,
        "is_encoder": True,
    }


def probe(config: EncoderConfig, ids: list[int]) -> dict[str, Tensor]:
    """Inputs for a proof over these token ids: every language takes its turn."""
    inputs = {"input_ids": torch.tensor([without_padding(config, ids)])}
    if config.languages:
        inputs["langs"] = (torch.arange(len(ids)) % len(config.languages))[None]
    return inputs


BLOCK = "blocks.{layer}."
PARTS = {
    **{f"attention.{a}": f"attentions.{{layer}}.{b}" for a, b in
       {"query": "q_lin", "key": "k_lin", "value": "v_lin", "output": "out_lin"}.items()},
    "attention_norm": "layer_norm1.{layer}", "mlp.up": "ffns.{layer}.lin1", "mlp.down": "ffns.{layer}.lin2",
    "mlp_norm": "layer_norm2.{layer}",
}

XLM = Family(
    name="xlm",
    architectures=("XLMWithLMHeadModel",),
    body=Encoder,
    config=EncoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=(
        WeightName("embedding.tokens.weight", "transformer.embeddings.weight"),
        WeightName("embedding.positions.weight", "transformer.position_embeddings.weight"),
        WeightName("embedding.languages.weight", "transformer.lang_embeddings.weight", lambda c: bool(c.languages)),
        *both("embedding.norm", "transformer.layer_norm_emb"),
        *(weight for a, b in PARTS.items() for weight in both(BLOCK + a, f"transformer.{b}")),
        WeightName("head.bias", "pred_layer.proj.bias"),
        WeightName("head.weight", "pred_layer.proj.weight", lambda c: not c.tied_head),
    ),
    ignored=("transformer.position_ids",),
    copies={"pred_layer.proj.weight": "transformer.embeddings.weight"},
    traits=TRAITS,
    objective="masked_lm",
    public_class="AutoModelForMaskedLM",
    public_blocks=("transformer.layer_norm2",),
    probe=probe,
)
