"""Reading the checkpoints of llama2.c: a header of seven integers, then fp32 weights in a fixed order."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.models.gguf import pairs_to_halves

MAGIC = 0x616B3432
V1_HEADER = 256


def read_llama2c(path: Path | str) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """Config and weights, under our names, of a llama2.c checkpoint of version 0 or 1 (fp32).

    Raises UserError for other versions and where the file's length does not fit its header.
    """
    path, where = Path(path), str(path)
    data = path.read_bytes()
    not_one = UserError("this is no llama2.c checkpoint, or it was cut short", where=where,
                        fix="copy the file again; safetensors folders and .gguf files are read as well")
    if len(data) < 36:
        raise not_one
    modern = struct.unpack_from("<I", data)[0] == MAGIC
    version = struct.unpack_from("<i", data, 4)[0] if modern else 0
    if version not in (0, 1):
        raise UserError(f"llama2.c checkpoints of version {version} are not supported", where=where,
                        fix="supported: versions 0 and 1 (fp32)")
    dim, mlp_dim, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", data, 8 if modern else 0)
    tied = bool(data[36]) if modern else vocab > 0
    vocab = abs(vocab)
    if min(dim, mlp_dim, layers, heads, kv_heads, vocab, context) < 1 or dim % heads:
        raise not_one
    try:
        config = DecoderConfig(vocab_size=vocab, dim=dim, layers=layers, heads=heads, kv_heads=kv_heads,
                               head_dim=dim // heads, mlp_dim=mlp_dim, context=context, tied_head=tied)
    except ValueError as error:
        raise not_one from error
    pieces = _order_v1(config) if modern else _order_v0(config)
    start = V1_HEADER if modern else 28
    if len(data) != start + 4 * sum(int(np.prod(shape)) for _, shape in pieces):
        raise not_one
    state: dict[str, Tensor] = {}
    at = start
    for name, shape in pieces:
        count = int(np.prod(shape))
        tensor = torch.from_numpy(np.frombuffer(data, "<f4", count, at).astype(np.float32).reshape(shape))
        at += 4 * count
        if name is None:
            continue
        if "{layer}" in name:
            state.update({name.replace("{layer}", str(i)): tensor[i].clone() for i in range(layers)})
        else:
            state[name] = tensor
    for i in range(layers):
        for part, count in (("query", heads), ("key", kv_heads)):
            name = f"blocks.{i}.attention.{part}.weight"
            state[name] = pairs_to_halves(state[name], count)
    return config, state


Pieces = list[tuple[str | None, tuple[int, ...]]]


def _projections(c: DecoderConfig) -> Pieces:
    kv = c.kv_heads * c.head_dim
    block = "blocks.{layer}."
    return [
        (block + "attention.query.weight", (c.layers, c.dim, c.dim)),
        (block + "attention.key.weight", (c.layers, kv, c.dim)),
        (block + "attention.value.weight", (c.layers, kv, c.dim)),
        (block + "attention.output.weight", (c.layers, c.dim, c.dim)),
        (block + "mlp.gate.weight", (c.layers, c.mlp_dim, c.dim)),
        (block + "mlp.down.weight", (c.layers, c.dim, c.mlp_dim)),
        (block + "mlp.up.weight", (c.layers, c.mlp_dim, c.dim)),
    ]


def _order_v0(c: DecoderConfig) -> Pieces:
    projections = _projections(c)
    half = c.head_dim // 2
    return [
        ("embedding.weight", (c.vocab_size, c.dim)),
        ("blocks.{layer}.attention_norm.weight", (c.layers, c.dim)), *projections[:4],
        ("blocks.{layer}.mlp_norm.weight", (c.layers, c.dim)), *projections[4:],
        ("norm.weight", (c.dim,)),
        (None, (c.context, half)), (None, (c.context, half)),  # cosines and sines, which we compute
        *([] if c.tied_head else [("head.weight", (c.vocab_size, c.dim))]),
    ]


def _order_v1(c: DecoderConfig) -> Pieces:
    return [
        ("blocks.{layer}.attention_norm.weight", (c.layers, c.dim)),
        ("blocks.{layer}.mlp_norm.weight", (c.layers, c.dim)),
        ("norm.weight", (c.dim,)),
        ("embedding.weight", (c.vocab_size, c.dim)), *_projections(c),
        *([] if c.tied_head else [("head.weight", (c.vocab_size, c.dim))]),
    ]
