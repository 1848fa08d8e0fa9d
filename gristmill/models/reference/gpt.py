"""A slow reading of GPT-2 and GPT-3 weights: folders, and GGUF files of GPT-2.

Written from the papers (Radford et al. 2019; Brown et al. 2020, arXiv:2005.14165, 2.1; for the band, Child et al. 2019,
arXiv:1904.10509) and the description of the file format. One head at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from gristmill.models.reference.decoder import gguf_file, safetensors_file


@dataclass(frozen=True)
class Reading:
    """Numbers, and a function from (role, layer) to a tensor; matrices are (in, out)."""

    layers: int
    heads: int
    eps: float
    activation: str
    sees: Callable[[int, int, int], bool]
    """(layer, query, key at or before it) -> whether the query sees the key."""
    find: Callable[[str, int], torch.Tensor]
    """Roles: embed, position, norm1, qkv, o, norm2, up, down, final, head; with _bias but for embed, position, head."""


def run(source: Path, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states (tokens, dim) after every block, and the logits (tokens, vocab), for `input_ids` (1, tokens)."""
    reading = read_folder(source) if source.is_dir() else read_gguf_file(source)
    ids = inputs["input_ids"][0]
    x = reading.find("embed", -1)[ids] + reading.find("position", -1)[: len(ids)]
    states = []
    for layer in range(reading.layers):
        x = x + attend(reading, layer, normed(reading, "norm1", layer, x))
        inner = activated(reading.activation, affine(reading, "up", layer, normed(reading, "norm2", layer, x)))
        x = x + affine(reading, "down", layer, inner)
        states.append(x)
    return states, normed(reading, "final", -1, x) @ reading.find("head", -1).T


def normed(reading: Reading, role: str, layer: int, x: torch.Tensor) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    centred = x - x.mean(dim=1, keepdim=True)
    scaled = centred / torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + reading.eps)
    return scaled * reading.find(role, layer) + reading.find(role + "_bias", layer)


def affine(reading: Reading, role: str, layer: int, x: torch.Tensor) -> torch.Tensor:
    """x W + b."""
    return x @ reading.find(role, layer) + reading.find(role + "_bias", layer)


def activated(kind: str, x: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh formula (arXiv:1606.08415), exactly, or a rectifier."""
    if kind == "relu":
        return x * (x > 0)
    if kind == "gelu":
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2


def attend(reading: Reading, layer: int, x: torch.Tensor) -> torch.Tensor:
    """Causal attention, one head and one query after the other, over the keys that the layer lets it see."""
    time, dim = x.shape
    size = dim // reading.heads
    q, k, v = affine(reading, "qkv", layer, x).split(dim, dim=1)
    outputs = []
    for head in range(reading.heads):
        own = slice(head * size, (head + 1) * size)
        rows = []
        for i in range(time):
            chosen = [j for j in range(i + 1) if reading.sees(layer, i, j)]
            scores = k[chosen, own] @ q[i, own] / math.sqrt(size)
            weights = torch.exp(scores - scores.max())
            rows.append(weights / weights.sum() @ v[chosen, own])
        outputs.append(torch.stack(rows))
    return affine(reading, "o", layer, torch.cat(outputs, dim=1))


PUBLIC = {"embed": "wte", "position": "wpe", "final": "ln_f", "norm1": "ln_1", "norm2": "ln_2", "qkv": "attn.c_attn",
          "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}


def read_folder(folder: Path) -> Reading:
    """A public folder: config.json and *.safetensors."""
    c = json.loads((folder / "config.json").read_text())
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update({name.removeprefix("transformer."): t for name, t in safetensors_file(path).items()})

    def find(role: str, layer: int) -> torch.Tensor:
        if role == "head":
            return tensors["wte.weight" if c.get("tie_word_embeddings", True) else "lm_head.weight"].float()
        stem, ending = (role[:-5], "bias") if role.endswith("_bias") else (role, "weight")
        prefix = f"h.{layer}." if layer >= 0 else ""
        return tensors[f"{prefix}{PUBLIC[stem]}.{ending}"].float()

    kinds = c.get("attention_layers") or ["global"] * c["n_layer"]

    def sees(layer: int, query: int, key: int) -> bool:
        if kinds[layer] == "global":
            return True
        if kinds[layer] == "local":
            return query - key < c["window_size"]
        size = c.get("attention_block", 1)
        row, column = query // size, key // size
        if column < c.get("global_tokens", 0):
            return True
        if c.get("stride") and (row - column) % c["stride"] == 0:
            return True
        steps, rest = divmod(row - column, c.get("dilation", 1))
        return c.get("window_size") is not None and rest == 0 and steps < c["window_size"]

    return Reading(c["n_layer"], c["n_head"], c.get("layer_norm_epsilon", 1e-5),
                   c.get("activation_function", "gelu_new"), sees, find)


GGUF = {"embed": "token_embd", "position": "position_embd", "final": "output_norm", "norm1": "attn_norm",
        "norm2": "ffn_norm", "qkv": "attn_qkv", "o": "attn_output", "up": "ffn_up", "down": "ffn_down"}


def read_gguf_file(path: Path) -> Reading:
    """A GGUF file of GPT-2, whose matrices are (out, in)."""
    metadata, tensors = gguf_file(path)

    def find(role: str, layer: int) -> torch.Tensor:
        if role == "head":
            return tensors.get("output.weight", tensors["token_embd.weight"])()
        stem, ending = (role[:-5], "bias") if role.endswith("_bias") else (role, "weight")
        prefix = f"blk.{layer}." if layer >= 0 else ""
        tensor = tensors[f"{prefix}{GGUF[stem]}.{ending}"]()
        return tensor.T if tensor.ndim == 2 and layer >= 0 else tensor

    layers = int(metadata("gpt2.block_count"))
    return Reading(layers, int(metadata("gpt2.attention.head_count")), metadata("gpt2.attention.layer_norm_epsilon"),
                   "gelu_new", lambda layer, query, key: True, find)
