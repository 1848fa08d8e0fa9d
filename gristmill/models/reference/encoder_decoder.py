"""A slow reading of T5 and mT5 folders.

Written from the papers (Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020, arXiv:2002.05202; Xue et al. 2021,
arXiv:2010.11934) and the names in their public files. One head, one query and one key at a time where positions count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from gristmill.models.reference.decoder import safetensors_file

Weight = Callable[[str], torch.Tensor]


def run(source: Path, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """States after every block, the encoder's (inputs, dim) and then the decoder's (tokens, dim), and the logits
    (tokens, vocab), for `input_ids` (1, inputs) and `decoder_input_ids` (1, tokens)."""
    c = json.loads((source / "config.json").read_text())
    files: dict[str, torch.Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        files.update(safetensors_file(path))

    def w(name: str) -> torch.Tensor:
        return files[name + ".weight"].float()

    states = []
    x = w("shared")[inputs["input_ids"][0]]
    near = distance_scores(c, w("encoder.block.0.layer.0.SelfAttention.relative_attention_bias"), len(x), both=True)
    for i in range(c["num_layers"]):
        block = f"encoder.block.{i}.layer"
        a = normed(c, x, w(f"{block}.0.layer_norm"))
        x = x + attend(c, w, f"{block}.0.SelfAttention", a, a, near)
        x = x + fed(c, w, f"{block}.1.DenseReluDense", normed(c, x, w(f"{block}.1.layer_norm")))
        states.append(x)
    memory = normed(c, x, w("encoder.final_layer_norm"))

    y = w("shared")[inputs["decoder_input_ids"][0]]
    near = distance_scores(c, w("decoder.block.0.layer.0.SelfAttention.relative_attention_bias"), len(y), both=False)
    nowhere = torch.zeros(c["num_heads"], len(y), len(memory))
    for i in range(c.get("num_decoder_layers") or c["num_layers"]):
        block = f"decoder.block.{i}.layer"
        a = normed(c, y, w(f"{block}.0.layer_norm"))
        y = y + attend(c, w, f"{block}.0.SelfAttention", a, a, near)
        a = normed(c, y, w(f"{block}.1.layer_norm"))
        y = y + attend(c, w, f"{block}.1.EncDecAttention", a, memory, nowhere)
        y = y + fed(c, w, f"{block}.2.DenseReluDense", normed(c, y, w(f"{block}.2.layer_norm")))
        states.append(y)
    final = normed(c, y, w("decoder.final_layer_norm"))
    own_head = c["model_type"] == "mt5" or c.get("tie_word_embeddings") is False
    if own_head:
        return states, final @ w("lm_head").T
    return states, final / math.sqrt(c["d_model"]) @ w("shared").T


def normed(c: Mapping[str, Any], x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Every row over its root mean square; nothing is subtracted and nothing added."""
    return x / ((x * x).mean(dim=1, keepdim=True) + c["layer_norm_epsilon"]).sqrt() * weight


def attend(c: Mapping[str, Any], w: Weight, name: str, x: torch.Tensor, read: torch.Tensor,
           near: torch.Tensor) -> torch.Tensor:
    """Queries from x (tokens, dim), keys and values from `read` (others, dim); near (heads, tokens, others) is added to
    the products, which nothing divides."""
    q, k, v = x @ w(f"{name}.q").T, read @ w(f"{name}.k").T, read @ w(f"{name}.v").T
    size, parts = c["d_kv"], []
    for head in range(c["num_heads"]):
        own = slice(head * size, (head + 1) * size)
        scores = q[:, own] @ k[:, own].T + near[head]
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        parts.append(weights / weights.sum(dim=1, keepdim=True) @ v[:, own])
    return torch.cat(parts, dim=1) @ w(f"{name}.o").T


def distance_scores(c: Mapping[str, Any], table: torch.Tensor, time: int, both: bool) -> torch.Tensor:
    """(heads, time, time): the number in `table` (buckets, heads) for the distance of every pair; minus infinity for
    later keys where a query sees only earlier ones."""
    scores = torch.full((c["num_heads"], time, time), -math.inf)
    for query in range(time):
        for key in range(time if both else query + 1):
            scores[:, query, key] = table[bucket(c, key - query, both)]
    return scores


def bucket(c: Mapping[str, Any], distance: int, both: bool) -> int:
    """Half of the buckets for one distance each, the rest for distances that grow by equal factors up to the furthest;
    where a query sees both ways, each way has half of all, the later keys the second half."""
    count = c.get("relative_attention_num_buckets", 32)
    furthest = c.get("relative_attention_max_distance", 128)
    first = 0
    if both:
        count //= 2
        first = count if distance > 0 else 0
    distance, exact = abs(distance), count // 2
    if distance < exact:
        return first + distance
    # Single precision: the public programs round so, and it decides at the borders.
    share = torch.log(torch.tensor(distance / exact, dtype=torch.float32)) / math.log(furthest / exact)
    return first + min(exact + int(share * (count - exact)), count - 1)


def fed(c: Mapping[str, Any], w: Weight, name: str, x: torch.Tensor) -> torch.Tensor:
    """The feed-forward layer: one matrix and an activation, or two that are multiplied, and one back."""
    kind = c.get("feed_forward_proj") or ("gated-gelu" if c["model_type"] == "mt5" else "relu")
    if kind.startswith("gated-"):
        act = ACTIVATIONS["gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")]
        inner = act(x @ w(f"{name}.wi_0").T) * (x @ w(f"{name}.wi_1").T)
    else:
        inner = ACTIVATIONS[kind](x @ w(f"{name}.wi").T)
    return inner @ w(f"{name}.wo").T


def gelu_by_tanh(x: torch.Tensor) -> torch.Tensor:
    """The approximation of gelu by a hyperbolic tangent."""
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_new": gelu_by_tanh,
    "gelu_pytorch_tanh": gelu_by_tanh,
    "silu": lambda x: x / (1 + torch.exp(-x)),
}
