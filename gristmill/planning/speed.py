"""How long a layout takes: the share of the peak that is reached, and what the layout itself costs on top.

The factor of a layout is a first-order model that puts layouts in order; it counts recomputed blocks, idle stages of
a pipeline, and traffic that products do not hide. It is never below 1, and 1 where the speed was measured or given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gristmill.planning.activations import Checkpointing
from gristmill.planning.anatomy import anatomy
from gristmill.planning.flops import Flops
from gristmill.planning.layout import Layout
from gristmill.planning.memory import Batch
from gristmill.planning.tables import Device

RECOMPUTED: dict[Checkpointing, float] = {"none": 0.0, "selective": 0.02, "full": 1.0}
"""Share of the forward pass of the blocks that is run again; the selective one repeats no product."""


@dataclass(frozen=True, kw_only=True)
class LayoutCost:
    """Time of an update over the time of its FLOPs alone."""

    recompute: float
    bubble: float
    """Idle share of a pipeline: (stages - 1) / micro-batches (arXiv:2104.04473, section 2.2)."""
    exposed: float
    """Traffic that products do not hide, over the time of the products."""

    @property
    def factor(self) -> float:
        return (self.recompute + self.exposed) * (1 + self.bubble)

    def as_json(self) -> dict[str, Any]:
        return {"recompute": self.recompute, "bubble": self.bubble, "exposed": self.exposed, "factor": self.factor}


def layout_cost(
    config: Any, counted: Flops, batch: Batch, layout: Layout, device: Device, checkpointing: Checkpointing,
    rate: float, low: int = 2,
) -> LayoutCost:
    """rate: FLOPs a second that products reach on a device; low: bytes of a number on the wire."""
    found = anatomy(config)
    micro = batch.accumulation(layout)
    forward = counted.matmul + counted.attention
    head = 2 * sum(p.parameters for p in found.products if p.layer is None)
    recompute = 1 + RECOMPUTED[checkpointing] * max(forward - head, 0.0) / (3 * forward)
    tokens = batch.micro_batch * batch.context / layout.context
    seconds = tokens * 3 * forward / (layout.tensor * layout.pipeline) / rate

    experts = found.parameters["experts"]
    local = (found.total - experts + experts / layout.expert) / (layout.tensor * layout.pipeline)
    wire = device.link if layout.shard * layout.tensor * layout.context <= device.per_host else device.network
    hidden = 0.0
    if layout.shard > 1:
        passes = 2 * micro + 1 if layout.zero == 3 else 2
        hidden += passes * local * low * (1 - 1 / layout.shard) / wire / micro
    if layout.replicate > 1:
        hidden += 2 * local * 4 * (1 - 1 / layout.replicate) / device.network / micro
    blocks = len(found.per_block) / layout.pipeline
    exposed = 0.0
    if layout.tensor > 1:
        near = device.link if layout.tensor <= device.per_host else device.network
        exposed += 8 * blocks * tokens * config.dim * low * (1 - 1 / layout.tensor) / near
    if layout.expert > 1:  # rows go to their experts and back, forward and backward
        near = device.link if layout.expert <= device.per_host else device.network
        exposed += 4 * blocks * tokens * config.active_experts * config.dim * low * (1 - 1 / layout.expert) / near
    if layout.pipeline > 1:
        exposed += 2 * tokens * config.dim * low / device.network
    return LayoutCost(recompute=recompute, bubble=(layout.pipeline - 1) / micro,
                      exposed=(max(0.0, hidden - seconds) + exposed) / seconds)
