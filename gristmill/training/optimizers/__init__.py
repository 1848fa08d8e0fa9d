"""Optimizers and the rule that gives each parameter its own: matrices, embeddings and head, vectors."""

from gristmill.training.optimizers.adafactor import Adafactor
from gristmill.training.optimizers.adamw8bit import AdamW8bit
from gristmill.training.optimizers.build import GroupRule, OptimizerConfig, build_optimizer
from gristmill.training.optimizers.joined import Joined
from gristmill.training.optimizers.lion import Lion
from gristmill.training.optimizers.muon import Muon

__all__ = ["Adafactor", "AdamW8bit", "GroupRule", "Joined", "Lion", "Muon", "OptimizerConfig", "build_optimizer"]
