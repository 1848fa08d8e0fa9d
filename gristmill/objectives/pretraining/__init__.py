"""Pretraining objectives as recipes name them: options, the batches that they need, and their loss; one file each.

In: token shards and a tokenizer. Out: batches that are a pure function of (seed, step), an `Objective` for the loop,
and guesses for the prediction trace. The losses themselves are plain functions and classes of the room above.
A new one is a file here and one name in `PretrainingObjective`. May call: core, tokenizer, tokens, models, objectives.
"""

from __future__ import annotations

from typing import Any

from gristmill.objectives.pretraining.base import HeldOutBatches, Pretraining, TrainingBatches
from gristmill.objectives.pretraining.causal_lm import CausalLanguageModelling
from gristmill.objectives.pretraining.denoisers import MixtureOfDenoisers
from gristmill.objectives.pretraining.fill_in_the_middle import FillInTheMiddle
from gristmill.objectives.pretraining.masked_lm import MaskedLanguageModelling
from gristmill.objectives.pretraining.multi_token import MultiTokenPrediction
from gristmill.objectives.pretraining.next_sentence import NextSentencePrediction
from gristmill.objectives.pretraining.permutation_lm import PermutationLanguageModelling
from gristmill.objectives.pretraining.prefix_lm import PrefixLanguageModelling
from gristmill.objectives.pretraining.span_corruption import SpanCorruption
from gristmill.objectives.pretraining.translation_lm import TranslationLanguageModelling

PretrainingObjective = (
    CausalLanguageModelling | MaskedLanguageModelling | NextSentencePrediction | TranslationLanguageModelling
    | PrefixLanguageModelling | FillInTheMiddle | MultiTokenPrediction | PermutationLanguageModelling
    | SpanCorruption | MixtureOfDenoisers
)
"""Any of them; `kind` says which."""

KINDS: dict[str, type] = {cls.__dataclass_fields__["kind"].default: cls for cls in (
    CausalLanguageModelling, MaskedLanguageModelling, NextSentencePrediction, TranslationLanguageModelling,
    PrefixLanguageModelling, FillInTheMiddle, MultiTokenPrediction, PermutationLanguageModelling, SpanCorruption,
    MixtureOfDenoisers,
)}


def default_objective(kind: str) -> Any:
    """The objective of this kind with its default options."""
    return KINDS[kind]()


__all__ = [
    "KINDS", "CausalLanguageModelling", "FillInTheMiddle", "HeldOutBatches", "MaskedLanguageModelling",
    "MixtureOfDenoisers", "MultiTokenPrediction", "NextSentencePrediction", "PermutationLanguageModelling",
    "PrefixLanguageModelling", "Pretraining", "PretrainingObjective", "SpanCorruption", "TrainingBatches",
    "TranslationLanguageModelling", "default_objective",
]
