"""A slow reading of PaLM weights, in the public form of Command-R.

Written from the paper (Chowdhery et al. 2022, arXiv:2204.02311, sections 2 and 5): y = x + MLP(LN(x)) +
Attention(LN(x)), one key/value head for all queries (or some, in Command-R), SwiGLU, rotary positions, no biases,
logits of the shared embedding scaled. Of the public form it needs to know that neighbouring channels turn together.
One token at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from gristmill.models.reference.decoder import rotary_angles, rotary_loudness, safetensors_file


def run(source: Path, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states (tokens, dim) after every block, and the logits (tokens, vocab), for `input_ids` (1, tokens)."""
    c = json.loads((source / "config.json").read_text())
    w: dict[str, torch.Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        w.update({name: tensor.float() for name, tensor in safetensors_file(path).items()})
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    size = c.get("head_dim") or c["hidden_size"] // heads
    rope = c.get("rope_parameters") or {**(c.get("rope_scaling") or {}), "rope_theta": c.get("rope_theta", 500000.0)}
    angles = rotary_angles(size, rope["rope_theta"], rope, inputs["input_ids"].shape[1] / c["max_position_embeddings"])

    def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean()
        return centred / torch.sqrt((centred * centred).mean() + c["layer_norm_eps"]) * weight

    def turned(vector: torch.Tensor, position: int) -> torch.Tensor:
        out = torch.empty_like(vector)
        for i, angle in enumerate(angles.tolist()):
            cos, sin = math.cos(position * angle), math.sin(position * angle)
            a, b = vector[2 * i], vector[2 * i + 1]
            out[2 * i], out[2 * i + 1] = a * cos - b * sin, a * sin + b * cos
        return out * rotary_loudness(rope)

    stream = [w["model.embed_tokens.weight"][i] for i in inputs["input_ids"][0].tolist()]
    states = []
    for layer in range(c["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        keys: list[list[torch.Tensor]] = []
        values: list[list[torch.Tensor]] = []
        after = []
        for position, x in enumerate(stream):
            y = normed(x, w[name + "input_layernorm.weight"])
            q, k, v = (w[f"{name}self_attn.{part}_proj.weight"] @ y for part in "qkv")
            keys.append([turned(one, position) for one in k.split(size)])
            values.append(list(v.split(size)))
            mixed = []
            for head, query in enumerate(q.split(size)):
                shared = head * kv_heads // heads
                turned_query = turned(query, position)
                scores = torch.stack([turned_query @ key[shared] for key in keys]) / math.sqrt(size)
                weights = torch.exp(scores - scores.max())
                weights = weights / weights.sum()
                mixed.append(sum((p * value[shared] for p, value in zip(weights, values, strict=True)),
                                 torch.zeros(size)))
            gate, up = w[name + "mlp.gate_proj.weight"] @ y, w[name + "mlp.up_proj.weight"] @ y
            inner = gate / (1 + torch.exp(-gate)) * up
            after.append(x + w[name + "self_attn.o_proj.weight"] @ torch.cat(mixed)
                         + w[name + "mlp.down_proj.weight"] @ inner)
        stream = after
        states.append(torch.stack(stream))
    final = torch.stack([normed(x, w["model.norm.weight"]) for x in stream])
    return states, final @ w["model.embed_tokens.weight"].T * c["logit_scale"]
