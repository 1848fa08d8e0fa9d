"""A slow reading of BERT, RoBERTa, XLM-R and XLM folders.

Written from the papers (Devlin et al. 2019, arXiv:1810.04805; Liu et al. 2019, arXiv:1907.11692; Lample and Conneau
2019, arXiv:1901.07291) and the names in their public files. One head and one token at a time where that is clearer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gristmill.models.reference.decoder import safetensors_file

BERT_NAMES = {
    "tokens": "embeddings.word_embeddings", "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings", "first norm": "embeddings.LayerNorm",
    "q": "encoder.layer.{}.attention.self.query", "k": "encoder.layer.{}.attention.self.key",
    "v": "encoder.layer.{}.attention.self.value", "o": "encoder.layer.{}.attention.output.dense",
    "norm 1": "encoder.layer.{}.attention.output.LayerNorm", "up": "encoder.layer.{}.intermediate.dense",
    "down": "encoder.layer.{}.output.dense", "norm 2": "encoder.layer.{}.output.LayerNorm",
}
XLM_NAMES = {
    "tokens": "embeddings", "positions": "position_embeddings", "languages": "lang_embeddings",
    "first norm": "layer_norm_emb", "q": "attentions.{}.q_lin", "k": "attentions.{}.k_lin", "v": "attentions.{}.v_lin",
    "o": "attentions.{}.out_lin", "norm 1": "layer_norm1.{}", "up": "ffns.{}.lin1", "down": "ffns.{}.lin2",
    "norm 2": "layer_norm2.{}",
}


def run(source: Path, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """States (tokens, dim) after every block and logits (tokens, vocab) for `input_ids` (1, tokens); token_type_ids and
    langs, of the same shape, where the model has segments or languages."""
    c = json.loads((source / "config.json").read_text())
    files: dict[str, torch.Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        files.update(safetensors_file(path))
    kind = c["architectures"][0]
    if kind == "XLMWithLMHeadModel":
        return run_xlm(c, files, inputs)
    prefix = "bert" if kind.startswith("Bert") else "roberta"

    def w(role: str, layer: int = 0, what: str = "weight") -> torch.Tensor:
        return files[f"{prefix}.{BERT_NAMES[role].format(layer)}.{what}"].float()

    ids = inputs["input_ids"][0].tolist()
    segments = inputs["token_type_ids"][0].tolist() if "token_type_ids" in inputs else [0] * len(ids)
    first = 0 if prefix == "bert" else (1 if c.get("pad_token_id") is None else c["pad_token_id"]) + 1
    eps = c["layer_norm_eps"]
    x = torch.stack([w("tokens")[token] + w("positions")[first + place] + w("segments")[segment]
                     for place, (token, segment) in enumerate(zip(ids, segments, strict=True))])
    x = normed(x, w("first norm"), w("first norm", 0, "bias"), eps)
    states = blocks(w, x, c["num_hidden_layers"], c["num_attention_heads"], eps, ACTIVATIONS[c["hidden_act"]])
    if prefix == "bert":
        head, norm, act = "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", c["hidden_act"]
        output = "cls.predictions"
    else:
        head, norm, act, output = "lm_head.dense", "lm_head.layer_norm", "gelu", "lm_head"
    t = ACTIVATIONS[act](states[-1] @ files[head + ".weight"].float().T + files[head + ".bias"].float())
    t = normed(t, files[norm + ".weight"].float(), files[norm + ".bias"].float(), eps)
    tied = c.get("tie_word_embeddings", True)
    matrix = w("tokens") if tied else files[output + ".decoder.weight"].float()
    bias = files[output + (".bias" if tied else ".decoder.bias")].float()
    return states, t @ matrix.T + bias


def run_xlm(
    c: Mapping[str, Any], files: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor],
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The same for XLM: languages in place of segments, and no layer before the output matrix."""

    def w(role: str, layer: int = 0, what: str = "weight") -> torch.Tensor:
        return files[f"transformer.{XLM_NAMES[role].format(layer)}.{what}"].float()

    rows = []
    for place, token in enumerate(inputs["input_ids"][0].tolist()):
        row = w("tokens")[token] + w("positions")[place]
        if "langs" in inputs and c.get("n_langs", 1) > 1 and c.get("use_lang_emb", True):
            row = row + w("languages")[int(inputs["langs"][0, place])]
        rows.append(row)
    eps = c.get("layer_norm_eps", 1e-12)
    x = normed(torch.stack(rows), w("first norm"), w("first norm", 0, "bias"), eps)
    act = ACTIVATIONS["gelu" if c.get("gelu_activation", True) else "relu"]
    states = blocks(w, x, c["n_layers"], c["n_heads"], eps, act)
    matrix = w("tokens") if c.get("tie_word_embeddings", True) else files["pred_layer.proj.weight"].float()
    return states, states[-1] @ matrix.T + files["pred_layer.proj.bias"].float()


def blocks(w: Any, x: torch.Tensor, layers: int, heads: int, eps: float, act: Any) -> list[torch.Tensor]:
    """The states after every block."""
    states = []
    for layer in range(layers):
        q, k, v = (x @ w(role, layer).T + w(role, layer, "bias") for role in "qkv")
        x = x + attend(q, k, v, heads) @ w("o", layer).T + w("o", layer, "bias")
        x = normed(x, w("norm 1", layer), w("norm 1", layer, "bias"), eps)
        inner = act(x @ w("up", layer).T + w("up", layer, "bias"))
        x = x + inner @ w("down", layer).T + w("down", layer, "bias")
        x = normed(x, w("norm 2", layer), w("norm 2", layer, "bias"), eps)
        states.append(x)
    return states


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Every token looks at every token, one head after the other."""
    size = q.shape[1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = q[:, own] @ k[:, own].T / math.sqrt(size)
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        parts.append(weights / weights.sum(dim=1, keepdim=True) @ v[:, own])
    return torch.cat(parts, dim=1)


def normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + eps) * weight + bias


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x times the share of a normal distribution below x."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_by_tanh(x: torch.Tensor) -> torch.Tensor:
    """The approximation of `gelu` by a hyperbolic tangent."""
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_by_tanh, "gelu_pytorch_tanh": gelu_by_tanh,
               "relu": lambda x: x.clamp(min=0)}
