"""Writing a model as a public folder, the form that transformers, vLLM and we ourselves open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gristmill.core.files import disk_errors, write_json
from gristmill.models.body import Body
from gristmill.models.families import FAMILIES

if TYPE_CHECKING:
    from gristmill.tokenizer import Tokenizer

SHARD_BYTES = 5_000_000_000
"""Most bytes of one weights file; larger models are written as shards with an index."""

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def save_model(
    model: Body, folder: Path | str, *, tokenizer: Tokenizer | None = None, dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json, model.safetensors, generation_config.json and the tokenizer's files into `folder`.

    dtype: of the stored weights; None keeps the model's. A tied head is stored once. Same model, same bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    family = FAMILIES[model.config.family]
    public = family.public_config(model.config)
    save_tensors(family.to_public(state, model.config), folder, shard_bytes)
    stored = dtype or next(model.parameters()).dtype
    tokens = _special_tokens(tokenizer)
    # Where a family's public config names its padding token itself, positions or masks of public code hang on it.
    write_json(folder / "config.json", {
        **tokens, **public, "dtype": DTYPES[stored], "torch_dtype": DTYPES[stored],
        "use_cache": True,
    })
    start = getattr(model.config, "start_id", None)  # of an encoder-decoder's answer
    write_json(folder / "generation_config.json", {
        **generation_config(tokenizer), **({} if start is None else {"decoder_start_token_id": start})})
    if tokenizer is not None:
        tokenizer.save(folder)


def generation_config(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The content of generation_config.json: what begins a text, and every token that ends an answer."""
    tokens: dict[str, Any] = dict(_special_tokens(tokenizer))
    if tokenizer is not None:
        ends = sorted(tokenizer.stop_ids)
        tokens["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return {**{name: value for name, value in tokens.items() if value is not None}, "do_sample": True}


def save_tensors(tensors: dict[str, Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as model.safetensors, or as shards with an index when they are larger than `shard_bytes`."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    if len(shards) == 1:
        _save(tensors, folder / "model.safetensors")
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save(shard, folder / file)
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            save_file(tensors, temporary, metadata={"format": "pt"})
            temporary.chmod(0o644)  # the library makes it private, and a server may be another user
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _special_tokens(tokenizer: Tokenizer | None) -> dict[str, int | None]:
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
