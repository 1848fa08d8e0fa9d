"""A slow reading of folders with experts: Mixtral, GLM-4-MoE, Qwen2-MoE, Qwen3-MoE.

Written from the papers (Jiang et al. 2024, arXiv:2401.04088; Dai et al. 2024, arXiv:2401.06066; DeepSeek-AI 2024,
arXiv:2412.19437; Qwen 2024, arXiv:2407.10671) and the names in the files. One token at a time through the experts, one
head at a time through attention.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gristmill.models.reference.decoder import rotary_angles, safetensors_file

ROLES = {"MixtralForCausalLM": ("block_sparse_moe", "w1", "w3", "w2")}
"""Architecture -> where a layer's experts are, and their matrices, where these are not called as in the others."""


def run(source: Path, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states (tokens, dim) after every block, and the logits (tokens, vocab), for `input_ids` (1, tokens)."""
    model = Folder(source)
    x = model["model.embed_tokens.weight"][inputs["input_ids"][0]]
    states = []
    for layer in range(model.config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        x = x + attend(model, prefix, model.normed(x, prefix + "input_layernorm"))
        y = model.normed(x, prefix + "post_attention_layernorm")
        x = x + (mixed(model, layer, y) if model.has_experts(layer) else feed(
            y, *(model[f"{prefix}mlp.{role}_proj.weight"] for role in ("gate", "up", "down"))))
        states.append(x)
    head = "model.embed_tokens" if model.config.get("tie_word_embeddings") else "lm_head"
    return states, model.normed(x, "model.norm") @ model[head + ".weight"].T


class Folder:
    """config.json and the tensors of all safetensors files, in fp32."""

    def __init__(self, source: Path) -> None:
        self.config: dict[str, Any] = json.loads((source / "config.json").read_text())
        self.kind: str = self.config["architectures"][0]
        self.tensors: dict[str, torch.Tensor] = {}
        for path in sorted(source.glob("*.safetensors")):
            self.tensors |= safetensors_file(path)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name].float()

    def normed(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """x / sqrt(mean(x²) + eps) * weight."""
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.config["rms_norm_eps"]) * self[name + ".weight"]

    def projected(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """x Wᵀ, plus the bias where the file has one."""
        y = x @ self[name + ".weight"].T
        return y + self[name + ".bias"] if name + ".bias" in self.tensors else y

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has experts, by the config alone."""
        return layer >= (self.config.get("first_k_dense_replace") or 0) and layer not in (
            self.config.get("mlp_only_layers") or [])


def attend(model: Folder, prefix: str, x: torch.Tensor) -> torch.Tensor:
    """Causal attention, one head after the other."""
    c = model.config
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    size = c.get("head_dim") or c["hidden_size"] // heads
    rope = c.get("rope_parameters") or {**(c.get("rope_scaling") or {}), "rope_theta": c.get("rope_theta", 10000.0)}
    turn = torch.arange(len(x)).float().outer(rotary_angles(size, rope.get("rope_theta", 10000.0), rope))
    q, k, v = (model.projected(x, f"{prefix}self_attn.{role}_proj") for role in "qkv")

    def head_of(y: torch.Tensor, number: int, norm: str | None) -> torch.Tensor:
        part = y[:, number * size : (number + 1) * size]
        if norm is None:
            return part
        if norm + ".weight" in model.tensors:
            part = model.normed(part, norm)
        first, second = part[:, : size // 2], part[:, size // 2 :]
        return torch.cat((first * turn.cos() - second * turn.sin(), second * turn.cos() + first * turn.sin()), dim=1)

    window = c.get("sliding_window") or len(x)
    outputs = []
    for head in range(heads):
        shared = head * kv_heads // heads
        query, key = head_of(q, head, f"{prefix}self_attn.q_norm"), head_of(k, shared, f"{prefix}self_attn.k_norm")
        scores = query @ key.T / math.sqrt(size)
        back = torch.arange(len(x))[:, None] - torch.arange(len(x))
        scores[(back < 0) | (back >= window)] = -math.inf
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        outputs.append(weights / weights.sum(dim=1, keepdim=True) @ head_of(v, shared, None))
    return model.projected(torch.cat(outputs, dim=1), prefix + "self_attn.o_proj")


def feed(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """down(silu(gate x) * (up x))."""
    g = x @ gate.T
    return (g / (1 + torch.exp(-g)) * (x @ up.T)) @ down.T


def mixed(model: Folder, layer: int, x: torch.Tensor) -> torch.Tensor:
    """Each token through the experts it chooses, and through the shared ones."""
    c, kind = model.config, model.kind
    place, gate, up, down = ROLES.get(kind, ("mlp", "gate_proj", "up_proj", "down_proj"))
    prefix = f"model.layers.{layer}.{place}."
    rows = []
    for token in x:
        logits = (model[prefix + "gate.weight"] @ token).tolist()
        if kind == "Glm4MoeForCausalLM":
            scores = [1 / (1 + math.exp(-logit)) for logit in logits]
            rank = [s + b for s, b in zip(scores, model[prefix + "gate.e_score_correction_bias"].tolist(), strict=True)]
        else:
            total = sum(math.exp(logit - max(logits)) for logit in logits)
            scores = [math.exp(logit - max(logits)) / total for logit in logits]
            rank = scores
        chosen = sorted(range(len(rank)), key=lambda expert: -rank[expert])[: c["num_experts_per_tok"]]
        summed = kind == "MixtralForCausalLM" or c.get("norm_topk_prob", False)
        norm = sum(scores[expert] for expert in chosen) if summed else 1.0
        row = torch.zeros_like(token)
        for expert in chosen:
            matrices = (model[f"{prefix}experts.{expert}.{role}.weight"] for role in (gate, up, down))
            row = row + scores[expert] / norm * c.get("routed_scaling_factor", 1.0) * feed(token, *matrices)
        rows.append(row)
    out = torch.stack(rows)
    for name in ("shared_experts", "shared_expert"):
        if f"{prefix}{name}.up_proj.weight" in model.tensors:
            always = feed(x, *(model[f"{prefix}{name}.{role}_proj.weight"] for role in ("gate", "up", "down")))
            if f"{prefix}shared_expert_gate.weight" in model.tensors:
                always = always / (1 + torch.exp(-x @ model[prefix + "shared_expert_gate.weight"].T))
            out = out + always
    return out
