"""A slow reading of XLNet folders.

Written from the papers (Yang et al. 2019, arXiv:1906.08237, sections 2.2 to 2.6; Dai et al. 2019, arXiv:1901.02860,
section 3) and the names in the public files. One pair of places at a time: nothing is shifted or gathered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gristmill.models.reference.decoder import safetensors_file


def run(source: Path, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Content states (tokens, dim) after every block, and logits (targets or tokens, vocab).

    input_ids and token_type_ids (1, tokens); perm_mask (1, tokens, tokens), 1 where the first place does not see the
    second; target_mapping (1, targets, tokens); mems: what each block was given for the tokens before, (1, remembered,
    dim) each, stacked.
    """
    c = json.loads((source / "config.json").read_text())
    files: dict[str, torch.Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        files.update(safetensors_file(path))
    words = files["transformer.word_embedding.weight"]
    ids = inputs["input_ids"][0].tolist()
    tokens = len(ids)
    h = torch.stack([words[i] for i in ids])
    old = inputs["mems"][:, 0] if "mems" in inputs else torch.zeros(c["n_layer"], 0, h.shape[1])
    before = old.shape[1]
    segments = [0] * before + inputs["token_type_ids"][0].tolist() if "token_type_ids" in inputs else None
    mapping = inputs["target_mapping"][0].tolist() if "target_mapping" in inputs else []
    places = [row.index(1.0) if 1.0 in row else None for row in mapping]
    g = torch.stack([files["transformer.mask_emb"][0, 0] for _ in places]) if places else h[:0]

    def sees(i: int, j: int, strictly: bool) -> bool:
        """Whether place i of the segment sees key j; `strictly`: without the right to see itself."""
        if j == before + i and not strictly:
            return True
        if c.get("attn_type", "bi") == "uni" and (j > before + i or (c.get("same_length") and j < i)):
            return False
        return j < before or "perm_mask" not in inputs or not inputs["perm_mask"][0, i, j - before]

    own = [[j for j in range(before + tokens) if sees(i, j, False)] for i in range(tokens)]
    target_keys = [[] if i is None else [j for j in range(before + tokens) if sees(i, j, True)] for i in places]
    states = []
    for layer in range(c["n_layer"]):
        w = Layer(c, files, f"transformer.layer.{layer}.", torch.cat([old[layer], h]), segments, before)
        new_h = w.block(h, list(range(tokens)), own)
        g = w.block(g, places, target_keys)
        h = new_h
        states.append(h)
    tied = c.get("tie_word_embeddings", True)
    output = words if tied else files["lm_loss.weight"]
    return states, (g if places else h) @ output.T + files["lm_loss.bias"]


class Layer:
    """One block over given keys."""

    def __init__(self, c: Mapping[str, Any], files: Mapping[str, torch.Tensor], prefix: str, source: torch.Tensor,
                 segments: list[int] | None, before: int) -> None:
        self.c, self.files, self.prefix, self.source = c, files, prefix, source
        self.segments, self.before = segments, before
        self.r: dict[tuple[int, int], torch.Tensor] = {}

    def w(self, name: str) -> torch.Tensor:
        return self.files[self.prefix + name]

    def block(self, x: torch.Tensor, places: list[int | None], seen: list[list[int]]) -> torch.Tensor:
        """States x (queries, dim) at these places, after attention to their keys and the feed-forward."""
        rows = []
        for i, place in enumerate(places):
            total = torch.zeros_like(x[i])
            for head in range(self.c["n_head"]):
                if place is not None and seen[i]:
                    total = total + self.w("rel_attn.o")[:, head] @ self.attend(x[i], place, seen[i], head)
            rows.append(total)
        if not rows:
            return x
        eps = self.c.get("layer_norm_eps", 1e-12)
        x = normed(x + torch.stack(rows), self.w("rel_attn.layer_norm.weight"), self.w("rel_attn.layer_norm.bias"), eps)
        inner = ACTIVATIONS[self.c["ff_activation"]](x @ self.w("ff.layer_1.weight").T + self.w("ff.layer_1.bias"))
        out = inner @ self.w("ff.layer_2.weight").T + self.w("ff.layer_2.bias")
        return normed(x + out, self.w("ff.layer_norm.weight"), self.w("ff.layer_norm.bias"), eps)

    def attend(self, x: torch.Tensor, place: int, seen: list[int], head: int) -> torch.Tensor:
        """What one head reads for one query."""
        q = x @ self.w("rel_attn.q")[:, head]
        scores = []
        for j in seen:
            k = self.source[j] @ self.w("rel_attn.k")[:, head]
            score = (q + self.w("rel_attn.r_w_bias")[head]) @ k
            score = score + (q + self.w("rel_attn.r_r_bias")[head]) @ self.position(self.before + place - j, head)
            if self.segments is not None:
                other = int(self.segments[self.before + place] != self.segments[j])
                score = score + (q + self.w("rel_attn.r_s_bias")[head]) @ self.w("rel_attn.seg_embed")[other, head]
            scores.append(score / math.sqrt(self.c["d_head"]))
        weights = torch.stack(scores)
        weights = torch.exp(weights - weights.max())
        values = self.source[seen] @ self.w("rel_attn.v")[:, head]
        return (weights / weights.sum()) @ values

    def position(self, distance: int, head: int) -> torch.Tensor:
        """The key of a distance: sines, then cosines, of wavelengths from 2 pi to 10000 times as much."""
        most = self.c.get("clamp_len", -1)
        if most > 0:
            distance = max(-most, min(most, distance))
        if (distance, head) not in self.r:
            dim = self.c["d_model"]
            angles = [distance / 10_000 ** (2 * i / dim) for i in range(dim // 2)]
            vector = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
            self.r[distance, head] = vector @ self.w("rel_attn.r")[:, head]
        return self.r[distance, head]


def normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias."""
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + eps) * weight + bias


ACTIVATIONS = {
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: x.clamp(min=0),
}
