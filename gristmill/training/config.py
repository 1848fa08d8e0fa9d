"""What a recipe says about training, whatever is trained."""

from __future__ import annotations

from gristmill.core.config import config, require
from gristmill.training.activation_checkpointing import Checkpointing, check_checkpointing
from gristmill.training.optimizers import OptimizerConfig
from gristmill.training.schedules import ScheduleConfig


@config
class TrainingConfig:
    """How long and how carefully to train; the same for every kind of training."""

    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float = 1.0
    """Largest gradient norm; 0 for no clipping."""
    skip_outliers: float = 0.0
    """An update whose loss or gradient norm lies more than this many standard deviations above those of the last 128 is
    not made; 6 is usual, 0 makes all."""
    noise_scale: bool = False
    """Trace the gradient noise scale (arXiv:1812.06162): the number of targets in an update beyond which more of them
    hardly make a step better. An update of a single micro-batch is run in halves."""
    activation_checkpointing: Checkpointing = "none"
    """What of each block is kept for the backward pass. none: everything. selective: the results of its projections and
    of fused attention. full: its input. A number from 0 to 1: a budget, that share of what `none` keeps. The rest is
    made again; gradients are the same (docs/training-memory.md)."""
    evaluations: int = 8
    """How many evaluations, evenly spread; the last is after the last step."""
    patience: int = 0
    """Stop after this many evaluations without a better one; 0 never stops early."""
    keep_best: bool = False
    """End with the weights of the best evaluation rather than the last ones."""
    ema: float = 0.0
    """Decay of an exponential average of the weights, used for evaluation and as the result; 0 for none. At update t
    (from 0) it is (1 + t) / (10 + t) where that is less."""
    checkpoint_seconds: float = 30.0
    """At least this long between checkpoints."""
    keep: int = 2
    """How many of the newest checkpoints stay."""
    keep_every: int | None = None
    """Checkpoints of steps that this divides are written, and stay too."""
    l1: float = 0.0
    """Adds l1 x the sum of |w| of all matrices but the embedding to what is minimised; `loss` is reported without."""
    l2: float = 0.0
    """Adds l2 / 2 x the sum of their w². Its gradient passes through the optimizer; for decay that does not, use
    optimizer.weight_decay."""
    r_drop: float = 0.0
    """Weight (alpha) of R-Drop: every batch is run twice, and what dropout makes of it is to agree (arXiv:2106.14448;
    1 to 5). Needs a model with dropout, and doubles the time of a step."""

    def __post_init__(self) -> None:
        for name in ("l1", "l2", "r_drop"):
            require(getattr(self, name) >= 0, name, "must not be negative")
        require(self.clip >= 0, "clip", "must not be negative")
        require(self.skip_outliers >= 0, "skip_outliers", "must not be negative")
        check_checkpointing(self.activation_checkpointing)
        require(self.evaluations >= 1, "evaluations", "must be at least 1")
        require(self.checkpoint_seconds >= 0, "checkpoint_seconds", "must not be negative")
        require(self.patience >= 0, "patience", "must not be negative")
        require(self.keep >= 1, "keep", "must be at least 1")
        require(self.keep_every is None or self.keep_every >= 1, "keep_every", "must be at least 1")
        require(0 <= self.ema < 1, "ema", "must be in [0, 1)")
