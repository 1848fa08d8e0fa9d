"""Objectives: what turns a model and a batch into summed losses; one file each.

In: a model and a batch of tensors. Out: `LossTerms`, sums with their counts known beforehand.
Objectives know nothing of devices, optimizers or loops; a trainer divides each sum by the count over the whole
accumulation window, which makes accumulation, packing and padding exact. May import: core, models.
"""

from gristmill.objectives.base import LossTerms, Objective
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.dpo import DPO

__all__ = ["DPO", "CausalLM", "LossTerms", "Objective"]
