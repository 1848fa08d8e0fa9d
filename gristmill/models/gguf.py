"""Reading GGUF, the file format of llama.cpp: weights (dequantised) and the tokenizer inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gristmill.core.errors import MachineError, UserError
from gristmill.models.config import DecoderConfig
from gristmill.models.families.llama import LLAMA3_SCALING
from gristmill.models.layers.rotary import inverse_frequencies

if TYPE_CHECKING:
    from gguf import GGUFReader

    from gristmill.tokenizer import Tokenizer

NAMES = {"token_embd": "embedding", "position_embd": "positions", "output_norm": "norm", "output": "head"}
BLOCK_NAMES = {
    "attn_norm": "attention_norm", "attn_q": "attention.query", "attn_k": "attention.key", "attn_v": "attention.value",
    "attn_qkv": "attention.query|key|value", "attn_q_norm": "attention.query_norm",
    "attn_k_norm": "attention.key_norm", "attn_output": "attention.output", "ffn_norm": "mlp_norm",
    "ffn_gate": "mlp.gate", "ffn_up": "mlp.up", "ffn_down": "mlp.down",
}
"""Name in `<name>.<weight|bias>` and `blk.N.<name>.<weight|bias>` -> ours, in `blocks.N.` for the latter; `|` parts the
names of what is stored as one."""

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen", "qwen3": "qwen", "gpt2": "gpt2"}
"""Architectures in these files -> our families."""

CONTROL = 3
"""Token type of special tokens."""


def open_gguf(path: Path | str) -> GGUFReader:
    """Open and check a GGUF file. MachineError without the `gguf` package, UserError for what is no GGUF file."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MachineError("reading GGUF files needs the package gguf", where=str(path),
                           fix="pip install gguf") from error
    if not Path(path).is_file():
        raise UserError("this file is missing", where=str(path))
    try:
        return GGUFReader(str(path))
    except Exception as error:  # the reader lets everything through that numpy and struct raise
        raise UserError(f"this GGUF file is damaged or cut short ({error})", where=str(path),
                        fix="copy or download it again") from error


def read_gguf(path: Path | str) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """Config and fp32 weights, under our names, of a GGUF file of a family that we know."""
    reader = open_gguf(path)
    where = str(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(reader, tensors, where)
    state: dict[str, Tensor] = {}
    unexpected = []
    for name, tensor in tensors.items():
        ours = _our_names(name)
        if not ours:
            unexpected.append(name)
            continue
        weight = dequantised(tensor, where)
        state |= zip(ours, weight.chunk(len(ours)), strict=True)
    if value(reader, "general.architecture") == "llama":  # the others' rows are in our order already
        for name in state:
            if ".attention.query." in name:
                state[name] = pairs_to_halves(state[name], config.heads)
            elif ".attention.key." in name:
                state[name] = pairs_to_halves(state[name], config.kv_heads)
    if config.tied_head:
        state.pop("head.weight", None)
    from gristmill.models.families import FAMILIES

    wanted = {name for rule in FAMILIES[config.family].rules(config) for name in rule.ours}
    missing, unexpected = sorted(wanted - set(state)), sorted(set(unexpected) | (set(state) - wanted))
    if missing or unexpected:
        raise UserError(f"the weights do not fit a {config.family} model (missing: "
                        f"{', '.join(missing[:8]) or 'none'}; unexpected: {', '.join(unexpected[:8]) or 'none'})",
                        where=where)
    return config, state


def gguf_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer inside a GGUF file. UserError where it is not a byte-level BPE of a kind that we know."""
    from gristmill.tokenizer import Tokenizer

    reader = open_gguf(path)
    kind = value(reader, "tokenizer.ggml.model")
    if kind != "gpt2":
        raise UserError(f"the tokenizer in this file is of the kind {kind!r}", where=str(path),
                        fix="supported: gpt2 (byte-level BPE); for others give the model's folder as `tokenizer`")
    vocab = value(reader, "tokenizer.ggml.tokens")
    types = value(reader, "tokenizer.ggml.token_type") or [1] * len(vocab)

    def token(role: str) -> str | None:
        number = value(reader, f"tokenizer.ggml.{role}_token_id")
        return vocab[number] if isinstance(number, int) and 0 <= number < len(vocab) else None

    return Tokenizer.from_bpe(
        vocab, value(reader, "tokenizer.ggml.merges"), split=value(reader, "tokenizer.ggml.pre") or "gpt-2",
        special=[piece for piece, one in zip(vocab, types, strict=True) if one == CONTROL],
        bos=token("bos"), eos=token("eos"), pad=token("padding"), unk=token("unknown"),
        chat_template=value(reader, "tokenizer.chat_template"),
    )


def value(reader: GGUFReader, key: str) -> Any:
    """The value of a metadata field, or None."""
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def dequantised(tensor: Any, where: str) -> Tensor:
    """A tensor of any stored type as fp32, in the usual (out, in) order."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        array = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise UserError(f"tensor {tensor.name} is stored as {tensor.tensor_type.name}, which cannot be read here",
                        where=where, fix="use a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1 or K-quants") from error
    if tensor.tensor_type not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        array = array.reshape([int(n) for n in reversed(tensor.shape)])
    return torch.from_numpy(np.array(array, dtype=np.float32))


def pairs_to_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection from the rotary order of llama.cpp and llama2.c, in which neighbouring channels
    form a pair, to the half-split order, in which channel i and i + head_dim/2 do. weight (heads * head_dim, ...)."""
    size = weight.shape[0] // heads
    return weight.reshape(heads, size // 2, 2, -1).transpose(1, 2).reshape(weight.shape).contiguous()


def _our_names(name: str) -> list[str]:
    parts = name.split(".")
    if len(parts) == 2 and parts[0] in NAMES:
        return [f"{NAMES[parts[0]]}.{parts[1]}"]
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in BLOCK_NAMES:
        room, _, ours = f"blocks.{parts[1]}.{BLOCK_NAMES[parts[2]]}".rpartition(".")
        return [f"{room}.{part}.{parts[3]}" for part in ours.split("|")]
    return []


def _config(reader: GGUFReader, tensors: dict[str, Any], where: str) -> DecoderConfig:
    architecture = value(reader, "general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(f"the architecture {architecture!r} is not supported", where=where,
                        fix=f"supported: {', '.join(ARCHITECTURES)}")

    def number(key: str, default: Any = None) -> Any:
        found = value(reader, f"{architecture}.{key}")
        if found is None and default is None:
            raise UserError(f"the field {architecture}.{key} is missing", where=where)
        return default if found is None else found

    heads, dim = number("attention.head_count"), number("embedding_length")
    tokens = value(reader, "tokenizer.ggml.tokens")
    shared = {
        "family": ARCHITECTURES[architecture], "vocab_size": number("vocab_size", len(tokens) if tokens else None),
        "dim": dim, "layers": number("block_count"), "heads": heads, "mlp_dim": number("feed_forward_length"),
        "context": number("context_length"),
    }
    try:
        if architecture == "gpt2":
            from gristmill.models.families.gpt2 import TRAITS

            return DecoderConfig(**{
                **TRAITS, **shared, "kv_heads": heads, "head_dim": dim // heads,
                "norm_eps": _shortest(number("attention.layer_norm_epsilon")), "tied_head": _tied(tensors, where)})
        size = number("attention.key_length", number("rope.dimension_count", dim // heads))
        if number("rope.dimension_count", size) != size or number("expert_count", 0):
            raise UserError("rotary positions on a part of a head and experts are not supported", where=where)
        theta = _shortest(number("rope.freq_base", 10_000.0))
        if number("attention.sliding_window", 0) and architecture == "llama":
            shared |= {"family": "mistral", "window": number("attention.sliding_window")}
        return DecoderConfig(
            **shared, kv_heads=number("attention.head_count_kv", heads), head_dim=size, rope_theta=theta,
            rope_scaling=_scaling(reader, tensors, size, theta, where),
            norm_eps=_shortest(number("attention.layer_norm_rms_epsilon")), tied_head=_tied(tensors, where),
            qkv_bias="blk.0.attn_q.bias" in tensors, output_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_gate.bias" in tensors, qk_norm="blk.0.attn_q_norm.weight" in tensors,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"the metadata make no model ({error})", where=where) from error


def _tied(tensors: dict[str, Any], where: str) -> bool:
    """Whether the head is the embedding: not stored, or stored a second time with the same bytes."""
    head, embedding = tensors.get("output.weight"), tensors.get("token_embd.weight")
    if head is None or embedding is None:
        return head is None
    return head.tensor_type == embedding.tensor_type and np.array_equal(head.data, embedding.data)


def _scaling(reader: GGUFReader, tensors: dict[str, Any], size: int, theta: float, where: str) -> dict[str, Any] | None:
    stem = f"{value(reader, 'general.architecture')}.rope.scaling."
    kind = value(reader, stem + "type") or "none"
    if kind in ("linear", "yarn"):
        found = {"rope_type": kind, "factor": _shortest(value(reader, stem + "factor"))}
        if kind == "yarn":
            found["original_max_position_embeddings"] = value(reader, stem + "original_context_length")
        return found
    if kind != "none":
        raise UserError(f"rope scaling of the kind {kind!r} is not supported", where=where,
                        fix="supported: none, linear, yarn")
    if "rope_freqs.weight" not in tensors:
        return None
    factors = dequantised(tensors.pop("rope_freqs.weight"), where)
    if bool((factors == 1).all()):
        return None
    # The file holds the result of Llama 3's rule; the rule itself is found again from its published constants.
    scaling = {**LLAMA3_SCALING, "factor": float(factors.max())}
    rule = inverse_frequencies(size, theta) / inverse_frequencies(size, theta, scaling)
    if not torch.allclose(rule, factors, rtol=1e-4):
        raise UserError("its table of rotary factors is not that of Llama 3", where=where,
                        fix="import the model from its safetensors folder")
    return scaling


def _shortest(number: Any) -> float:
    """The shortest decimal that gives this fp32 number: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))
