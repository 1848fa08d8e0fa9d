"""Pretraining objectives as recipes name them: options, the batches that they need, and their loss; one file each.

In: token shards and a tokenizer. Out: batches that are a pure function of (seed, step), an `Objective` for the loop,
and guesses for the prediction trace. The losses themselves are plain functions and classes of the room above.
A new one is a file here and one name in `PretrainingObjective`. May call: core, tokenizer, tokens, models, objectives.
"""

from __future__ import annotations

from typing import Any

from gristmill.objectives.pretraining.base import HeldOutBatches, Pretraining, TrainingBatches
from gristmill.objectives.pretraining.causal_lm import CausalLanguageModelling

PretrainingObjective = CausalLanguageModelling
"""Any of them; `kind` says which."""

KINDS: dict[str, type] = {cls.__dataclass_fields__["kind"].default: cls for cls in (
    CausalLanguageModelling,
)}


def default_objective(kind: str) -> Any:
    """The objective of this kind with its default options."""
    return KINDS[kind]()


__all__ = [
    "KINDS", "CausalLanguageModelling", "HeldOutBatches", "Pretraining", "PretrainingObjective", "TrainingBatches",
    "default_objective",
]
