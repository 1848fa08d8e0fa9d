"""Bytes on the fullest device: weights, gradients, optimizer, activations, logits, buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.planning.activations import Activations, Checkpointing, activations
from gristmill.planning.anatomy import Anatomy, anatomy
from gristmill.planning.layout import Layout

OPTIMIZERS: Mapping[str, tuple[float, float]] = {
    "adamw": (8, 8), "adam": (8, 8), "muon": (4, 8), "lion": (4, 4), "sgd": (0, 0), "momentum": (4, 4),
    "adamw-8bit": (2, 2), "adamw8bit": (2.03, 2.03), "adafactor": (0.02, 0.02),
}
"""Kind -> bytes of state a parameter: of the matrices inside blocks, of the others."""
WEIGHT_BYTES: Mapping[str, float] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "int4": 0.5}
"""Bytes a parameter at rest, without the scales of quantised formats."""

LOGIT_ROWS = 512
"""Tokens whose logits exist at a time (objectives/cross_entropy.py)."""
CONTEXT_BYTES = 0.8e9
"""Of the CUDA context and its libraries, on each device."""
COLLECTIVE_BYTES = 0.5e9
"""Of the buffers of collectives, where there is more than one device."""
USABLE = 0.92
"""Share of a device's memory that can be filled before the allocator's gaps make it fail."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one update reads."""

    context: int
    """Tokens a row."""
    rows: int
    """Rows in an update, over all devices."""
    micro_batch: int = 1
    """Rows that go through a replica at once."""
    documents: bool = True
    """Whether rows hold several documents that do not see each other."""

    def __post_init__(self) -> None:
        for name in ("context", "rows", "micro_batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}", where="batch", fix="must be at least 1")

    @property
    def tokens(self) -> int:
        return self.rows * self.context

    def accumulation(self, layout: Layout) -> int:
        """Micro-batches that each replica runs for an update."""
        return max(1, -(-self.rows // (layout.replicas * self.micro_batch)))


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on the device that holds most."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    """Of the head and the loss: one chunk of logits, and the gradients that are taken at once."""
    buffers: float
    """Recomputed blocks, gathered weights, the optimizer's workspace, and what the driver takes."""
    checkpointing: Checkpointing
    available: float | None = None
    """Of the device; None where nobody said which."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.buffers

    @property
    def fits(self) -> bool | None:
        return None if self.available is None else self.total <= USABLE * self.available

    def as_json(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in
                 ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "total")}
        return {**parts, "checkpointing": self.checkpointing, "available": self.available, "fits": self.fits}


def memory(
    config: Any, batch: Batch, *, layout: Layout | None = None, optimizer: str = "adamw", precision: str = "bf16",
    checkpointing: Checkpointing = "none", average: bool = False, device: str = "cuda",
    available: float | None = None,
) -> Memory:
    """Memory of one update at its peak.

    precision: fp32, or bf16 for products in bf16 over fp32 weights, gradients and optimizer states. average: whether an
    exponential average of the weights is kept. device: cpu or cuda. available: bytes of the device.
    """
    layout = layout or Layout()
    if optimizer not in OPTIMIZERS:
        raise UserError(f"the optimizer {optimizer!r} is not known", where="--optimizer",
                        fix=f"choose one of {', '.join(OPTIMIZERS)}")
    found = anatomy(config)
    if problem := layout.problem(found):
        raise UserError(problem, where="--parallel", fix="choose other degrees")
    kept = activations(config, batch.context, precision=precision, device=device, documents=batch.documents)
    stages = [_stage(found, kept, batch, layout, number, optimizer, precision, checkpointing, average, device,
                     available) for number in sorted({0, layout.pipeline - 1})]
    return max(stages, key=lambda m: m.total)


def _stage(
    found: Anatomy, kept: Activations, batch: Batch, layout: Layout, stage: int, optimizer: str, precision: str,
    checkpointing: Checkpointing, average: bool, device: str, available: float | None,
) -> Memory:
    first, last = stage == 0, stage == layout.pipeline - 1
    per_stage = -(-len(found.per_block) // layout.pipeline)
    blocks = slice(0, per_stage) if first else slice(len(found.per_block) - per_stage, None)
    inside, outside, experts = _parameters(found, layout, blocks, first, last)
    split = layout.shard * layout.context
    low = 2 if precision == "bf16" else 4
    gathered = layout.zero == 3 and split > 1
    matrix_bytes, other_bytes = OPTIMIZERS[optimizer]
    whole = max(sum(found.per_block), 1)
    inner_bytes = (matrix_bytes * found.matrices + other_bytes * (whole - found.matrices)) / whole
    averaged = 4.0 if average else 0.0

    def held(inner: float, outer: float, zero: int) -> float:
        """Bytes of a number so large for every parameter: experts are split already, shard shares the rest."""
        shares = split if layout.zero >= zero else 1
        return (inner * inside + outer * outside) / shares + inner * experts / max(1.0, shares / layout.expert)

    rows = batch.micro_batch / (layout.tensor * layout.context)
    in_flight = min(layout.pipeline - stage, batch.accumulation(layout))
    saved = kept.saved(rows, checkpointing, blocks, layout.tensor)
    copies = sum(b.fixed[checkpointing] for b in kept.blocks[blocks])
    if gathered:  # sharded weights are gathered block by block and let go; no copy of them stays
        saved -= copies
    elif layout.tensor > 1:
        saved -= copies * (1 - 1 / layout.tensor)
    logits = _logits(found, batch, layout, low) if last else 0.0
    waiting = saved * in_flight
    largest = found.largest_block * (inside + experts) / max(sum(found.per_block[blocks]), 1)
    buffers = kept.recomputed(rows, checkpointing, blocks, layout.tensor) + (2 * low * largest if gathered else 0)
    if optimizer == "muon":
        # Its workspace comes when activations are gone: only what is larger than they were adds to the peak.
        buffers += max(0.0, _muon_workspace(found, held(1, 0, 1)) - waiting - logits - buffers)
    if device == "cuda":
        buffers += CONTEXT_BYTES + (COLLECTIVE_BYTES if layout.devices > 1 else 0)
    return Memory(
        weights=held(4, 4, 3), gradients=held(4, 4, 2),
        optimizer=held(inner_bytes + averaged, other_bytes + averaged, 1), activations=waiting, logits=logits,
        buffers=buffers, checkpointing=checkpointing, available=available)


def _parameters(found: Anatomy, layout: Layout, blocks: slice, first: bool, last: bool) -> tuple[float, float, float]:
    """Parameters of a stage on one device before any ZeRO: inside blocks but for experts, outside, of experts."""
    whole = sum(found.per_block)
    share = sum(found.per_block[blocks]) / max(whole, 1)
    norms = sum(p for part, p in found.parameters.items() if part == "norms")
    uncut = norms + found.beside_experts  # tensor leaves a layer of experts whole
    inside = share * ((whole - found.parameters["experts"] - uncut) / layout.tensor + uncut)
    experts = share * found.parameters["experts"] / layout.expert
    ends = found.total - whole
    head = found.parameters["head"]
    outside, cut = 0.0, _vocabulary_cut(found, layout)
    if first:
        outside += (ends - head) / cut
    if last:
        tied = not head and layout.pipeline > 1 and not first
        outside += (found.parameters["embedding"] if tied else head) / cut
    return inside, outside, experts


def _vocabulary_cut(found: Anatomy, layout: Layout) -> int:
    """Into how many parts `tensor` cuts what lies outside of the blocks: that of decoders only."""
    return layout.tensor if isinstance(found.config, DecoderConfig) else 1


def _logits(found: Anatomy, batch: Batch, layout: Layout, low: int) -> float:
    config = found.config
    tokens = batch.micro_batch * batch.context / layout.context
    wide = config.vocab_size / _vocabulary_cut(found, layout)
    # fp32 logits and their log-softmax, and the slope in the precision of products where that is another one.
    chunk = min(tokens, LOGIT_ROWS) * wide * (8 + (2 if low == 2 else 0))
    head = wide * config.dim * (4 + (2 * low if low == 2 else 0))
    return chunk + head + tokens * config.dim * (2 * low if low == 2 else low)


def _muon_workspace(found: Anatomy, inside: float) -> float:
    """Updates and their stack in fp32, and four stacks in bf16, of the largest group of equal shapes: at most all."""
    share = found.largest_group / max(sum(found.per_block), 1)
    return 16 * inside * share
