"""How a model is spread over devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gristmill.core.errors import UserError
from gristmill.planning.anatomy import Anatomy

DEGREES = ("replicate", "shard", "tensor", "pipeline", "context", "expert")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Degrees of parallelism; replicate x shard x tensor x pipeline x context devices."""

    replicate: int = 1
    """Replicas that hold everything."""
    shard: int = 1
    """Replicas that share what `zero` says (Rajbhandari et al. 2020, arXiv:1910.02054; Zhao et al. 2023,
    arXiv:2304.11277)."""
    zero: int = 3
    """1: the optimizer's state is split over shard, 2: gradients too, 3: weights too."""
    tensor: int = 1
    """Matrices are split, and what lies between them along the sequence (arXiv:1909.08053, arXiv:2205.05198)."""
    pipeline: int = 1
    """Groups of blocks, one forward one backward (arXiv:2104.04473)."""
    context: int = 1
    """Parts of a row (ring attention, arXiv:2310.01889); these devices share what `zero` says too."""
    expert: int = 1
    """Experts are split over this many of the replicate, shard and context groups."""

    def __post_init__(self) -> None:
        for name in DEGREES:
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}", where="--parallel", fix="degrees are at least 1")
        if self.zero not in (1, 2, 3):
            raise UserError(f"zero = {self.zero}", where="--parallel", fix="choose 1, 2 or 3")
        if (holders := self.replicate * self.shard * self.context) % self.expert:
            raise UserError(f"{self.expert} groups of experts do not fit replicate x shard x context = {holders}",
                            where="--parallel", fix=f"choose a divisor of {holders}")

    @classmethod
    def parse(cls, text: str) -> Layout:
        """`shard=8,tensor=2,zero=3`."""
        values: dict[str, int] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, number = part.partition("=")
            if name not in (*DEGREES, "zero"):
                raise UserError(f"there is no kind of parallelism {name!r}", where="--parallel",
                                fix=f"choose from {', '.join(DEGREES)}, and zero for what shard splits; for example "
                                    "--parallel shard=8,tensor=2")
            if not number.isdecimal():
                raise UserError(f"{part!r} gives no whole number", where="--parallel", fix=f"write {name}=8")
            values[name] = int(number)
        return cls(**values)

    @property
    def devices(self) -> int:
        return self.replicate * self.shard * self.tensor * self.pipeline * self.context

    @property
    def replicas(self) -> int:
        """Groups that read different rows."""
        return self.replicate * self.shard

    def problem(self, found: Anatomy) -> str | None:
        """Why this model cannot be spread so, or None."""
        config = found.config
        heads = getattr(config, "kv_heads", config.heads)
        if self.tensor > 1 and (config.heads % self.tensor or heads % self.tensor):
            return f"{config.heads} heads over {heads} key/value heads cannot be split {self.tensor} ways (tensor)"
        if self.pipeline > len(found.per_block):
            return f"{len(found.per_block)} blocks cannot be split into {self.pipeline} groups (pipeline)"
        experts = getattr(config, "experts", 0) or 0
        if self.expert > 1 and (not experts or experts % self.expert):
            return f"{experts or 'no'} experts cannot be split {self.expert} ways (expert)"
        return None

    def text(self) -> str:
        """`shard=8,tensor=2`, what differs from one device."""
        said = [f"{name}={getattr(self, name)}" for name in DEGREES if getattr(self, name) > 1]
        return ",".join(said + ([f"zero={self.zero}"] if self.shard > 1 and self.zero != 3 else [])) or "one device"

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "devices": self.devices}


def candidates(devices: int, per_host: int, found: Anatomy) -> Iterator[Layout]:
    """Layouts worth trying on so many devices: tensor inside a host, pipeline by powers of two, shard for the rest."""
    tensor = 1
    while tensor <= min(per_host, devices):
        pipeline = 1
        while tensor * pipeline <= devices and pipeline <= 16:
            if devices % (tensor * pipeline) == 0:
                rest = devices // (tensor * pipeline)
                for zero in (1, 3) if rest > 1 else (3,):
                    layout = Layout(shard=rest, tensor=tensor, pipeline=pipeline, zero=zero)
                    if layout.problem(found) is None:
                        yield layout
            pipeline *= 2
        tensor *= 2
