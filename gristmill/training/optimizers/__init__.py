"""Optimizers and the rule that gives each parameter its own: matrices, embeddings and head, vectors."""

from gristmill.training.optimizers.build import GroupRule, OptimizerConfig, build_optimizer
from gristmill.training.optimizers.muon import Muon

__all__ = ["GroupRule", "Muon", "OptimizerConfig", "build_optimizer"]
