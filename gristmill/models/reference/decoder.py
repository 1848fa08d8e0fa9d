"""A slow reading of Llama, Mistral and Qwen weights: folders, GGUF and llama2.c files.

Written from the papers (Touvron et al. 2023, arXiv:2302.13971; Su et al. 2021, arXiv:2104.09864; Ainslie et al. 2023,
arXiv:2305.13245; Peng et al. 2023, arXiv:2309.00071) and the descriptions of the file formats. One head at a time.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Reading:
    """A model as the slow reader sees it: numbers, and a function from a role to its tensor."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    angles: Callable[[int], torch.Tensor]
    """Tokens of the text -> angle that each pair of channels turns per position, (head_dim / 2,)."""
    neighbours: bool
    """Whether channels 2i and 2i+1 form a pair (else i and i + head_dim/2)."""
    find: Callable[[str, int], torch.Tensor | None]
    """(role, layer) -> tensor in fp32; roles: embed, norm1, q, k, v, o, q_norm, k_norm, v_table, v_gate, norm2, gate,
    up, down, final, head, and the projections with _bias."""
    windows: Sequence[int | None] = ()
    """How many keys a query of each layer sees, its own included; None or too short a list: all before it."""
    loudness: float = 1.0
    """Factor of cosines and sines."""

    def weight(self, role: str, layer: int = -1) -> torch.Tensor:
        """A tensor that must be there."""
        found = self.find(role, layer)
        if found is None:
            raise ValueError(f"no tensor for {role} of layer {layer}")
        return found


def run(source: Path, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states (tokens, dim) after every block, and the logits (tokens, vocab), for `input_ids` (1, tokens)."""
    reading = read(source)
    w = reading.weight
    x = w("embed")[inputs["input_ids"][0]]
    states = []
    for layer in range(reading.layers):
        a = normed(x, w("norm1", layer), reading.eps)
        x = x + attend(reading, layer, a, inputs["input_ids"][0])
        b = normed(x, w("norm2", layer), reading.eps)
        gate = project(reading, "gate", layer, b)
        x = x + project(reading, "down", layer, gate / (1 + torch.exp(-gate)) * project(reading, "up", layer, b))
        states.append(x)
    head = reading.find("head", -1)
    final = normed(x, w("final"), reading.eps)
    return states, final @ (w("embed") if head is None else head).T


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x²) + eps) * weight."""
    return x / torch.sqrt((x * x).mean(dim=1, keepdim=True) + eps) * weight


def project(reading: Reading, role: str, layer: int, x: torch.Tensor) -> torch.Tensor:
    """x Wᵀ, plus the bias if there is one."""
    out = x @ reading.weight(role, layer).T
    bias = reading.find(role + "_bias", layer)
    return out if bias is None else out + bias


def attend(reading: Reading, layer: int, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Causal attention, one head after the other."""
    time, size = x.shape[0], reading.head_dim
    q, k, v = (project(reading, role, layer, x) for role in "qkv")
    table = reading.find("v_table", layer)
    if table is not None:  # our own family: each head adds as much of its tokens' rows as its gate says
        gate = reading.weight("v_gate", layer)
        opened = 2 / (1 + torch.exp(-x[:, : gate.shape[1]] @ gate.T))
        v = v + opened.repeat_interleave(size, dim=1) * table[tokens]
    window = reading.windows[layer] if layer < len(reading.windows) else None
    outputs = []
    for head in range(reading.heads):
        shared = head * reading.kv_heads // reading.heads
        query = turned(reading, head_normed(reading, "q_norm", layer, q[:, head * size : (head + 1) * size]))
        key = turned(reading, head_normed(reading, "k_norm", layer, k[:, shared * size : (shared + 1) * size]))
        value = v[:, shared * size : (shared + 1) * size]
        scores = query @ key.T / math.sqrt(size)
        for i in range(time):
            scores[i, i + 1 :] = -math.inf
            if window is not None:
                scores[i, : max(0, i - window + 1)] = -math.inf
        weights = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        outputs.append(weights / weights.sum(dim=1, keepdim=True) @ value)
    return project(reading, "o", layer, torch.cat(outputs, dim=1))


def head_normed(reading: Reading, role: str, layer: int, x: torch.Tensor) -> torch.Tensor:
    """One head's queries or keys, normed where the model has a norm for them (Qwen 3)."""
    weight = reading.find(role, layer)
    return x if weight is None else normed(x, weight, reading.eps)


def turned(reading: Reading, x: torch.Tensor) -> torch.Tensor:
    """Each pair of channels of x (tokens, head_dim) turned by position times its angle."""
    half = reading.head_dim // 2
    angle = torch.arange(len(x), dtype=torch.float32).outer(reading.angles(len(x)))
    first, second = (x[:, 0::2], x[:, 1::2]) if reading.neighbours else (x[:, :half], x[:, half:])
    first, second = reading.loudness * first, reading.loudness * second
    a = first * torch.cos(angle) - second * torch.sin(angle)
    b = first * torch.sin(angle) + second * torch.cos(angle)
    return torch.stack((a, b), dim=2).flatten(1) if reading.neighbours else torch.cat((a, b), dim=1)


def rotary_angles(head_dim: int, theta: float, scaling: dict | None, beyond: float = 1.0) -> torch.Tensor:
    """theta^(-2i/head_dim), stretched as the config says; beyond: length of the text over the context, or 1."""
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "dynamic":
        theta = theta * (scaling["factor"] * max(beyond, 1) - scaling["factor"] + 1) ** (head_dim / (head_dim - 2))
        kind = "default"
    angles = torch.tensor([theta ** (-2 * i / head_dim) for i in range(head_dim // 2)], dtype=torch.float64)
    if kind == "linear":
        angles = angles / scaling["factor"]
    elif kind == "llama3":
        old = scaling["original_max_position_embeddings"]
        longest, shortest = old / scaling["low_freq_factor"], old / scaling["high_freq_factor"]
        for i, angle in enumerate(angles.tolist()):
            wave = 2 * math.pi / angle
            if wave > longest:
                angles[i] = angle / scaling["factor"]
            elif wave > shortest:
                share = (old / wave - scaling["low_freq_factor"]) / (
                    scaling["high_freq_factor"] - scaling["low_freq_factor"])
                angles[i] = (1 - share) * angle / scaling["factor"] + share * angle
    elif kind == "yarn":
        old = scaling["original_max_position_embeddings"]

        def pair_that_turns(times: float) -> float:
            return head_dim / 2 * math.log(old / (2 * math.pi * times)) / math.log(theta)

        fast = pair_that_turns(scaling.get("beta_fast") or 32)
        slow = pair_that_turns(scaling.get("beta_slow") or 1)
        if scaling.get("truncate", True):
            fast, slow = math.floor(fast), math.ceil(slow)
        fast, slow = max(fast, 0), min(slow, head_dim - 1)
        for i in range(head_dim // 2):
            share = (i - fast) / (slow - fast if slow != fast else 0.001)
            share = min(max(share, 0.0), 1.0)
            angles[i] = angles[i] / scaling["factor"] * share + angles[i] * (1 - share)
    elif kind != "default":
        raise ValueError(f"rope_type {kind!r}")
    return angles.float()


def rotary_loudness(scaling: dict | None) -> float:
    """YaRN multiplies cosines and sines by 0.1 ln(factor) + 1, or as the config says."""
    scaling = scaling or {}
    if scaling.get("rope_type", scaling.get("type")) != "yarn":
        return 1.0
    growth = math.log(max(scaling["factor"], 1.0))
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if above and below:
        return (0.1 * above * growth + 1) / (0.1 * below * growth + 1)
    return 0.1 * growth + 1


# Three file formats.

PUBLIC = {
    "embed": "model.embed_tokens", "final": "model.norm", "head": "lm_head",
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj",
    "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
    "down": "mlp.down_proj", "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
    "v_table": "self_attn.value_embedding", "v_gate": "self_attn.value_gate",
}


def safetensors_file(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, read by its description: length, JSON header, bytes."""
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            flat = torch.frombuffer(bytearray(data[begin:end]), dtype=kinds[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


def read_folder(folder: Path) -> Reading:
    """A public folder: config.json and *.safetensors."""
    c = json.loads((folder / "config.json").read_text())
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(safetensors_file(path))
    heads = c["num_attention_heads"]
    rope = c.get("rope_parameters") or {**(c.get("rope_scaling") or {}), "rope_theta": c.get("rope_theta", 10000.0)}
    size = c.get("head_dim") or c["hidden_size"] // heads
    tied = c.get("tie_word_embeddings", False)

    def weight(role: str, layer: int) -> torch.Tensor | None:
        if role == "head" and tied:
            return None
        stem, ending = (role[:-5], "bias") if role.endswith("_bias") else (role, "weight")
        prefix = f"model.layers.{layer}." if layer >= 0 else ""
        found = tensors.get(f"{prefix}{PUBLIC[stem]}.{ending}")
        return None if found is None else found.float()

    return Reading(c["num_hidden_layers"], heads, c.get("num_key_value_heads") or heads, size, c["rms_norm_eps"],
                   lambda tokens: rotary_angles(size, rope.get("rope_theta", 10000.0), rope,
                                                tokens / c["max_position_embeddings"]),
                   False, weight, layer_windows(c), rotary_loudness(rope))


def layer_windows(c: dict) -> list[int | None]:
    """The window of every layer as config.json tells it: Mistral has one number for all, Qwen a switch and a list."""
    layers, window = c["num_hidden_layers"], c.get("sliding_window")
    if c.get("model_type") == "mistral":
        return [window] * layers
    if not c.get("use_sliding_window"):
        return [None] * layers
    kinds = c.get("layer_types")
    if kinds is None:
        return [None if i < c["max_window_layers"] else window for i in range(layers)]
    return [window if kind == "sliding_attention" else None for kind in kinds]


GGUF = {"embed": "token_embd", "final": "output_norm", "head": "output", "norm1": "attn_norm", "norm2": "ffn_norm",
        "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up",
        "down": "ffn_down", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm"}


def read_gguf_file(path: Path) -> Reading:
    """A GGUF file, its query and key rows left in the order in which llama.cpp uses them."""
    metadata, tensors = gguf_file(path)
    kind = metadata("general.architecture")

    def number(key: str, default: Any = None) -> Any:
        return metadata(f"{kind}.{key}", default)

    def weight(role: str, layer: int) -> torch.Tensor | None:
        stem, ending = (role[:-5], "bias") if role.endswith("_bias") else (role, "weight")
        prefix = f"blk.{layer}." if layer >= 0 else ""
        tensor = tensors.get(f"{prefix}{GGUF.get(stem)}.{ending}")
        return None if tensor is None else tensor()

    heads = int(number("attention.head_count"))
    size = int(number("attention.key_length", number("rope.dimension_count", number("embedding_length") / heads)))
    scaling = {"rope_type": number("rope.scaling.type", "default").replace("none", "default"),
               "factor": number("rope.scaling.factor", 1.0),
               "original_max_position_embeddings": number("rope.scaling.original_context_length")}
    angles = rotary_angles(size, number("rope.freq_base", 10000.0), scaling)
    if "rope_freqs.weight" in tensors:
        angles = angles / tensors["rope_freqs.weight"]()
    window = int(number("attention.sliding_window", 0)) if kind == "llama" else 0
    return Reading(int(number("block_count")), heads, int(number("attention.head_count_kv", heads)), size,
                   number("attention.layer_norm_rms_epsilon"), lambda tokens: angles, kind == "llama", weight,
                   [window or None] * int(number("block_count")), rotary_loudness(scaling))


def gguf_file(path: Path) -> tuple[Callable[..., Any], dict[str, Callable[[], torch.Tensor]]]:
    """Metadata by (key, default), and for every tensor what reads it in fp32."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(str(path))

    def metadata(key: str, default: Any = None) -> Any:
        field = reader.get_field(key)
        return default if field is None else field.contents()

    def reading(tensor: Any) -> Callable[[], torch.Tensor]:
        shape = [int(n) for n in tensor.shape][::-1]
        return lambda: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape))

    return metadata, {tensor.name: reading(tensor) for tensor in reader.tensors}


def read_llama2c_file(path: Path) -> Reading:
    """A llama2.c checkpoint of version 0, walked from front to back as run.c does."""
    dim, hidden, layers, heads, kv_heads, vocab, context = np.fromfile(path, "<i4", 7).tolist()
    flat = torch.from_numpy(np.fromfile(path, "<f4")[7:].astype(np.float32))
    size = dim // heads
    kv = kv_heads * size
    sizes = [("embed", (abs(vocab), dim)), ("norm1", (layers, dim)), ("q", (layers, dim, dim)),
             ("k", (layers, kv, dim)), ("v", (layers, kv, dim)), ("o", (layers, dim, dim)), ("norm2", (layers, dim)),
             ("gate", (layers, hidden, dim)), ("down", (layers, dim, hidden)), ("up", (layers, hidden, dim)),
             ("final", (dim,)), ("tables", (2, context, size // 2))]
    if vocab < 0:
        sizes.append(("head", (-vocab, dim)))
    tensors, at = {}, 0
    for role, shape in sizes:
        tensors[role] = flat[at : at + math.prod(shape)].reshape(shape)
        at += math.prod(shape)

    def weight(role: str, layer: int) -> torch.Tensor | None:
        found = tensors.get(role)
        return found if found is None or layer < 0 else found[layer]

    return Reading(layers, heads, kv_heads, size, 1e-5, lambda tokens: rotary_angles(size, 10000.0, None), True, weight)


def read(source: Path) -> Reading:
    """The slow reading of a public folder, a `.gguf` or a llama2.c `.bin` file."""
    if source.is_dir():
        return read_folder(source)
    return read_gguf_file(source) if source.suffix == ".gguf" else read_llama2c_file(source)
