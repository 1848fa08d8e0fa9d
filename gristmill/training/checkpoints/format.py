"""What lies in a checkpoint's files: safetensors, an index that says which piece of which tensor lies where, a state.

A file is complete in itself: any reader of safetensors opens it. A piece of a tensor is called `name@first,first,...`
by where it begins on each dimension; a whole tensor has just its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.core.hashing import digest

FORMAT = 1
INDEX = "index.json"

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}
"""safetensors' names of types."""
DTYPES = {name: dtype for dtype, name in NAMES.items()}


@dataclass(frozen=True)
class File:
    """A file that was written."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Place:
    """Where a piece lies: its file, and its first byte in it."""

    file: str
    begin: int


@dataclass
class Entry:
    """A tensor: type, whole shape, and its pieces as (offsets, sizes, place)."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: list[tuple[tuple[int, ...], tuple[int, ...], Place]] = field(default_factory=list)


Index = dict[str, Entry]
"""`<group>/<name>` -> where it lies."""


def piece_name(name: str, offsets: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> str:
    """The name of a piece inside of a file."""
    return name if tuple(sizes) == tuple(shape) else f"{name}@{','.join(map(str, offsets))}"


def header(pieces: Sequence[tuple[str, Tensor]]) -> tuple[bytes, list[int]]:
    """What a safetensors file begins with, and the first byte in the file of each piece; in the order given, which must
    not put a type before a wider one: readers map the file, and numbers have to lie at multiples of their size."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, begins = 0, []
    for name, tensor in pieces:
        table[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape),
                       "data_offsets": [at, at + tensor.nbytes]}
        begins.append(at)
        at += tensor.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, [8 + len(text) + begin for begin in begins]


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in the CPU's memory; shared where they lie in order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_index(index: Index) -> bytes:
    """The index as JSON; pieces are [file, first byte, offsets, sizes]."""
    files = sorted({place.file for entry in index.values() for _, _, place in entry.pieces})
    number = {name: at for at, name in enumerate(files)}
    tensors = {name: {"dtype": NAMES[entry.dtype], "shape": list(entry.shape),
                      "pieces": [[number[place.file], place.begin, list(offsets), list(sizes)]
                                 for offsets, sizes, place in entry.pieces]}
               for name, entry in sorted(index.items())}
    return json.dumps({"files": files, "tensors": tensors}, separators=(",", ":")).encode()


def read_index(data: bytes, where: str) -> Index:
    """What `write_index` wrote. Raises UserError where it is something else."""
    try:
        found = json.loads(data)
        return {name: Entry(DTYPES[entry["dtype"]], tuple(entry["shape"]), [
            (tuple(offsets), tuple(sizes), Place(found["files"][file], begin))
            for file, begin, offsets, sizes in entry["pieces"]]) for name, entry in found["tensors"].items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"this is no index of a checkpoint ({error})", where=where) from error


def write_state(state: dict[str, Any]) -> bytes:
    """state.json, with a digest of itself."""
    state = {"format": FORMAT, **state}
    return (json.dumps({**state, "digest": digest(state)}, indent=2, ensure_ascii=False) + "\n").encode()


def read_state(data: bytes, where: str) -> dict[str, Any]:
    """What `write_state` wrote. Raises UserError where anything of it was changed."""
    try:
        state = json.loads(data)
        claimed = state.pop("digest", None)
        if state.get("format") != FORMAT:
            raise UserError("this checkpoint was written in another format", where=where,
                            fix="go on with the version that wrote it, or delete its folder and train anew")
        if digest(state) == claimed:
            return state
    except (ValueError, AttributeError, TypeError):
        pass
    raise UserError("this checkpoint file is damaged", where=where,
                    fix="delete the checkpoint's folder; training goes on from an older one or from the start")
