"""Proof that two readings of the same weights compute the same: states of every block, and logits."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gristmill.core.errors import InternalError
from gristmill.core.seeds import derive_seed
from gristmill.models import reference
from gristmill.models.families import FAMILIES
from gristmill.models.loading import read_config

TOLERANCE = 1e-4
"""Largest allowed difference in fp32, relative to the largest magnitude."""
TOKENS = 48

Trace = tuple[list[Tensor], Tensor]
"""States (tokens, dim) after every block; logits (tokens, vocab)."""
Inputs = Mapping[str, Tensor]
"""Arguments of `forward` for one row, by the names that transformers and we share."""


def proof_ids(vocab_size: int, count: int = TOKENS) -> list[int]:
    """Token ids spread over the whole vocabulary, always the same ones."""
    return [derive_seed("proof", i) % vocab_size for i in range(count)]


def probe(config: Any, ids: list[int] | None = None) -> dict[str, Tensor]:
    """Inputs for a model of this config over `ids`, by default those of `proof_ids`."""
    if ids is None:
        ids = proof_ids(config.vocab_size, min(TOKENS, config.context))
    return FAMILIES[config.family].probe(config, ids)


@torch.no_grad()
def trace(model: Any, inputs: Inputs) -> Trace:
    """What our model computes, block by block."""
    device = model.head_weight.device
    return _hooked(model, model.all_blocks, {name: tensor.to(device) for name, tensor in inputs.items()})


@torch.no_grad()
def trace_reference(source: Path, inputs: Inputs) -> Trace:
    """What the slow reader computes from a folder or file."""
    return reference.run(source, inputs)


@torch.no_grad()
def trace_transformers(folder: Path, inputs: Inputs) -> Trace:
    """What transformers computes from a public folder."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it would list heads that this class does not open; here the numbers decide
    family, config = read_config(folder)
    public = getattr(transformers, family.public_class).from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager").eval()
    if getattr(config, "moe", None) is not None and hasattr(public, "set_experts_implementation"):
        public.set_experts_implementation("eager")  # its default fails where a width is no multiple of 16 bytes
    blocks = [block for path in family.public_blocks for block in public.get_submodule(path)]
    return _hooked(public, blocks, inputs)


def _hooked(model: Any, blocks: Iterable[Any], inputs: Inputs) -> Trace:
    states: list[Tensor] = []

    def keep(module: Any, given: Any, out: Any) -> None:
        states.append((out[0] if isinstance(out, tuple) else out).flatten(0, -2).float().cpu())

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        out = model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    logits = out if isinstance(out, Tensor) else next(
        out[name] for name in ("logits", "prediction_logits") if name in out)
    return states, logits[0].float().cpu()


def compare(ours: Trace, theirs: Trace) -> dict[str, Any]:
    """Largest difference of every block's states and of the logits, each relative to its largest magnitude."""
    states = [_difference(a, b) for a, b in zip(ours[0], theirs[0], strict=True)]
    logits = _difference(ours[1], theirs[1])
    greedy = bool((ours[1].argmax(-1) == theirs[1].argmax(-1)).all())
    return {"blocks": states, "logits": logits, "largest": max([*states, logits]), "same_greedy_tokens": greedy}


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        return math.inf
    return round(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)), 12)


def prove(model: Any, witnesses: dict[str, Callable[[Inputs], Trace]], where: str) -> dict[str, Any]:
    """Compare `model` with every witness; InternalError if one differs by more than the tolerance.

    The result is JSON-ready: {"tokens", "tolerance", "witnesses": {name: {"blocks", "logits", "largest", ...}}}.
    """
    inputs = probe(model.config)
    with full_precision():
        ours = trace(model, inputs)
        theirs = {name: witness(inputs) for name, witness in witnesses.items()}
    found: dict[str, Any] = {}
    for name, other in theirs.items():
        result = compare(ours, other)
        if not result["largest"] <= TOLERANCE:
            block = next((i for i, d in enumerate(result["blocks"]) if not d <= TOLERANCE), None)
            place = "the logits" if block is None else f"block {block}"
            size = result["logits"] if block is None else result["blocks"][block]
            raise InternalError(
                f"the model does not compute the same as {name}: first difference at {place}, {size:.2g} relative, "
                f"{TOLERANCE:g} allowed", where=where,
                fix="the files were changed or damaged since they were written, or our mapping is wrong; "
                    "write them anew, and report it if it stays")
        found[name] = result
    return {"tokens": inputs["input_ids"].shape[1], "tolerance": TOLERANCE, "witnesses": found}


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """fp32 products without the shortcuts that training may have allowed in this process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def has_transformers(config: Any) -> bool:
    """Whether transformers is there, and opens this family, to be a second witness."""
    return bool(FAMILIES[config.family].public_class) and importlib.util.find_spec("transformers") is not None
