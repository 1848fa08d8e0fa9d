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

NAMES = {
    "token_embd.weight": "embedding.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "head.weight",
}
BLOCK_NAMES = {
    "attn_norm": "attention_norm", "attn_q": "attention.query", "attn_k": "attention.key", "attn_v": "attention.value",
    "attn_output": "attention.output", "ffn_norm": "mlp_norm", "ffn_gate": "mlp.gate", "ffn_up": "mlp.up",
    "ffn_down": "mlp.down",
}
"""Name in `blk.N.<name>.<weight|bias>` -> ours in `blocks.N.<name>`."""

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
    """Config and fp32 weights, under our names, of a Llama-family GGUF file."""
    reader = open_gguf(path)
    where = str(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(reader, tensors, where)
    state, unexpected = {}, []
    for name, tensor in tensors.items():
        ours = _our_name(name)
        if ours is None:
            unexpected.append(name)
            continue
        weight = dequantised(tensor, where)
        if ".attention.query." in ours:
            weight = pairs_to_halves(weight, config.heads)
        elif ".attention.key." in ours:
            weight = pairs_to_halves(weight, config.kv_heads)
        state[ours] = weight
    from gristmill.models.families.llama import LLAMA

    wanted = {name for rule in LLAMA.rules(config) for name in rule.ours}
    missing, unexpected = sorted(wanted - set(state)), sorted(set(unexpected) | (set(state) - wanted))
    if missing or unexpected:
        raise UserError(f"the weights do not fit a Llama model (missing: {', '.join(missing[:8]) or 'none'}; "
                        f"unexpected: {', '.join(unexpected[:8]) or 'none'})", where=where)
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


def _our_name(name: str) -> str | None:
    if name in NAMES:
        return NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in BLOCK_NAMES:
        return f"blocks.{parts[1]}.{BLOCK_NAMES[parts[2]]}.{parts[3]}"
    return "rotary" if name == "rope_freqs.weight" else None


def _config(reader: GGUFReader, tensors: dict[str, Any], where: str) -> DecoderConfig:
    architecture = value(reader, "general.architecture")
    if architecture != "llama":
        raise UserError(f"the architecture {architecture!r} is not supported", where=where, fix="supported: llama")

    def number(key: str, default: Any = None) -> Any:
        found = value(reader, f"llama.{key}")
        if found is None and default is None:
            raise UserError(f"the field llama.{key} is missing", where=where)
        return default if found is None else found

    heads, dim = number("attention.head_count"), number("embedding_length")
    size = number("rope.dimension_count", dim // heads)
    if number("attention.key_length", size) != size or number("expert_count", 0):
        raise UserError("rotary positions on a part of a head and experts are not supported", where=where)
    theta = _shortest(number("rope.freq_base", 10_000.0))
    tokens = value(reader, "tokenizer.ggml.tokens")
    try:
        return DecoderConfig(
            vocab_size=number("vocab_size", len(tokens) if tokens else None), dim=dim, layers=number("block_count"),
            heads=heads, kv_heads=number("attention.head_count_kv", heads), head_dim=size,
            mlp_dim=number("feed_forward_length"), context=number("context_length"), rope_theta=theta,
            rope_scaling=_scaling(reader, tensors, size, theta, where),
            norm_eps=_shortest(number("attention.layer_norm_rms_epsilon")),
            tied_head="output.weight" not in tensors,
            qkv_bias="blk.0.attn_q.bias" in tensors, output_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_gate.bias" in tensors,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"the metadata make no model ({error})", where=where) from error


def _scaling(reader: GGUFReader, tensors: dict[str, Any], size: int, theta: float, where: str) -> dict[str, Any] | None:
    kind = value(reader, "llama.rope.scaling.type") or "none"
    if kind == "linear":
        return {"rope_type": "linear", "factor": _shortest(value(reader, "llama.rope.scaling.factor"))}
    if kind != "none":
        raise UserError(f"rope scaling of the kind {kind!r} is not supported", where=where,
                        fix="supported: none, linear")
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
