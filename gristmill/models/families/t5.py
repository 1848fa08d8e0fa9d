"""T5 (Raffel et al. 2020, arXiv:1910.10683) and T5 1.1, and what mT5's format shares with theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.models.config import EncoderDecoderConfig
from gristmill.models.encoder_decoder import EncoderDecoder
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.reading import WHERE, number, refuse

CONTEXT = 512
"""What the published models were trained on."""


def size(dim: int, layers: int, heads: int, mlp_dim: int, *, head_dim: int = 64, **rest: Any) -> EncoderDecoderConfig:
    """A published size: as many blocks on either side, dropout 0.1."""
    fixed = {"vocab_size": 32_128, "context": CONTEXT, "dropout": 0.1}
    return EncoderDecoderConfig(dim=dim, layers=layers, heads=heads, head_dim=head_dim, mlp_dim=mlp_dim,
                                **{**fixed, **rest})


GATED: dict[str, Any] = {"mlp": "geglu", "tied_head": False}
"""What version 1.1 and mT5 have in common."""

PRESETS = {
    "small": size(512, 6, 8, 2048),
    "base": size(768, 12, 12, 3072),
    "large": size(1024, 24, 16, 4096),
    "3b": size(1024, 24, 32, 16_384, head_dim=128),
    "11b": size(1024, 24, 128, 65_536, head_dim=128),
    "1.1-small": size(512, 8, 6, 1024, **GATED),
    "1.1-base": size(768, 12, 12, 2048, **GATED),
    "1.1-large": size(1024, 24, 16, 2816, **GATED),
    "1.1-xl": size(2048, 24, 32, 5120, **GATED),
    "1.1-xxl": size(4096, 24, 64, 10_240, **GATED),
}

FROM_PUBLIC = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
               "gated-gelu": "geglu", "gated-gelu_new": "geglu", "gated-silu": "swiglu"}
TO_PUBLIC = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "geglu": "gated-gelu", "swiglu": "gated-silu"}

REFUSED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False, None),
    "is_encoder_decoder": (True, None),
    "quantization_config": (None,),
}
"""Options that would change the computation -> the values with which they do not."""


def read_config(public: Mapping[str, Any], *, feed_forward: str, tied: bool, family: str) -> EncoderDecoderConfig:
    """What T5's and mT5's config.json say in the same words. feed_forward: where the file does not say."""
    refuse(public, REFUSED)
    activation = public.get("feed_forward_proj") or feed_forward
    if activation not in FROM_PUBLIC:
        raise UserError(f"feed_forward_proj {activation!r} is not supported", where=WHERE,
                        fix=f"supported: {', '.join(FROM_PUBLIC)}")
    layers = number(public, "num_layers")
    pad = number(public, "pad_token_id", 0)
    try:
        return EncoderDecoderConfig(
            family=family, vocab_size=number(public, "vocab_size"), dim=number(public, "d_model"), layers=layers,
            decoder_layers=number(public, "num_decoder_layers", layers), heads=number(public, "num_heads"),
            head_dim=number(public, "d_kv"), mlp_dim=number(public, "d_ff"),
            context=number(public, "n_positions", CONTEXT),
            buckets=number(public, "relative_attention_num_buckets", 32),
            furthest=number(public, "relative_attention_max_distance", 128),
            mlp=FROM_PUBLIC[activation],  # type: ignore[arg-type]
            norm_eps=number(public, "layer_norm_epsilon", 1e-6), tied_head=tied, pad_id=pad,
            start_id=number(public, "decoder_start_token_id", pad), dropout=number(public, "dropout_rate", 0.1),
        )
    except ValueError as error:
        raise UserError(str(error), where=WHERE, fix="correct config.json") from error


def write_config(config: EncoderDecoderConfig, architecture: str, model_type: str) -> dict[str, Any]:
    """The inverse of `read_config`."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.dim,
        "num_layers": config.layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.heads,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "n_positions": config.context,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.furthest,
        "feed_forward_proj": TO_PUBLIC[config.mlp],
        "layer_norm_epsilon": config.norm_eps,
        "dropout_rate": config.dropout,
        "tie_word_embeddings": config.tied_head,
        "pad_token_id": config.pad_id,
        "decoder_start_token_id": config.start_id,
    }


def config_from_public(public: Mapping[str, Any]) -> EncoderDecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    # Since its version 5 transformers writes "tied" into every config and tells version 1.1 by the missing scale.
    tied = public.get("tie_word_embeddings") is not False and public.get("scale_decoder_outputs") is not False
    return read_config(public, feed_forward="relu", tied=tied, family="t5")


def config_to_public(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    return write_config(config, "T5ForConditionalGeneration", "t5")


ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}


def decoder_layers(config: EncoderDecoderConfig) -> range:
    """Numbers of the decoder's blocks."""
    return range(config.decoder_layers)


def stack_weights(side: str, feed_forward: int, layers: Any) -> list[WeightName]:
    """The encoder or the decoder; feed_forward: number of that layer in each public block."""
    ours, public = f"{side}.blocks.{{layer}}.", f"{side}.block.{{layer}}.layer."
    mlp = f"{public}{feed_forward}.DenseReluDense."
    return [
        WeightName(f"{side}.relative_bias.weight",
                   f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        *(WeightName(f"{ours}attention.{a}.weight", f"{public}0.SelfAttention.{b}.weight", layers=layers)
          for a, b in ATTENTION.items()),
        WeightName(f"{ours}attention_norm.weight", f"{public}0.layer_norm.weight", layers=layers),
        WeightName(f"{ours}mlp.gate.weight", f"{mlp}wi_0.weight", lambda c: c.gated, layers=layers),
        WeightName(f"{ours}mlp.up.weight", f"{mlp}wi_1.weight", lambda c: c.gated, layers=layers),
        WeightName(f"{ours}mlp.up.weight", f"{mlp}wi.weight", lambda c: not c.gated, layers=layers),
        WeightName(f"{ours}mlp.down.weight", f"{mlp}wo.weight", layers=layers),
        WeightName(f"{ours}mlp_norm.weight", f"{public}{feed_forward}.layer_norm.weight", layers=layers),
        WeightName(f"{side}.norm.weight", f"{side}.final_layer_norm.weight"),
    ]


CROSS = "decoder.blocks.{layer}.cross", "decoder.block.{layer}.layer.1."

WEIGHTS = (
    WeightName("embedding.weight", "shared.weight"),
    *stack_weights("encoder", 1, lambda config: range(config.layers)),
    *stack_weights("decoder", 2, decoder_layers),
    *(WeightName(f"{CROSS[0]}.{a}.weight", f"{CROSS[1]}EncDecAttention.{b}.weight", layers=decoder_layers)
      for a, b in ATTENTION.items()),
    WeightName(f"{CROSS[0]}_norm.weight", f"{CROSS[1]}layer_norm.weight", layers=decoder_layers),
    WeightName("head.weight", "lm_head.weight", lambda c: not c.tied_head),
)

COPIES = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight",
          "lm_head.weight": "shared.weight"}
IGNORED = ("EncDecAttention.relative_attention_bias.weight",)
"""The first files had one more bias, which nothing uses."""


def with_head(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Files leave the head out where it equals the embedding, even those of models that do not tie the two."""
    if "lm_head.weight" in tensors or "shared.weight" not in tensors:
        return tensors
    return {**tensors, "lm_head.weight": tensors["shared.weight"].clone()}


def probe(config: EncoderDecoderConfig, ids: list[int]) -> dict[str, Tensor]:
    """Inputs for a proof: these token ids to read, and the later half of them, backwards, to write."""
    written = [config.start_id, *reversed(ids[len(ids) // 2:])]
    return {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([written])}


T5 = Family(
    name="t5",
    architectures=("T5ForConditionalGeneration", "T5WithLMHeadModel"),
    body=EncoderDecoder,
    config=EncoderDecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=WEIGHTS,
    ignored=IGNORED,
    copies=COPIES,
    respell=with_head,
    traits=GATED,
    mlp_ratio=8 / 3,
    objective="span_corruption",
    public_class="AutoModelForSeq2SeqLM",
    public_blocks=("encoder.block", "decoder.block"),
    probe=probe,
)
