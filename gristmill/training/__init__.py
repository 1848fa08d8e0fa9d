"""Training: the one loop, its optimizers, schedules, precision, checkpoints and metrics.

In: a model, an objective, a source of batches. Out: trained weights, a trace, resumable checkpoints.
Pretraining, fine-tuning and preference optimisation all run through `Trainer`; it knows nothing of which.
May import: core, data, tokenizer, tokens, models, planning, objectives.
"""

from gristmill.training.loop import BatchSource, Trainer, TrainingConfig
from gristmill.training.optimizers import OptimizerConfig
from gristmill.training.schedules import ScheduleConfig

__all__ = ["BatchSource", "OptimizerConfig", "ScheduleConfig", "Trainer", "TrainingConfig"]
