"""Optimizers and the rule that gives each parameter its own: matrices, embeddings and head, vectors."""

from gristmill.training.optimizers.build import OptimizerConfig, build_optimizer
from gristmill.training.optimizers.muon import Muon

__all__ = ["Muon", "OptimizerConfig", "build_optimizer"]
