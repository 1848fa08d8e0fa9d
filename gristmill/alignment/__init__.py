"""Alignment: a model learns which of its own answers are better.

In: a model and preferences (sampled from the model and judged by a program, or read from a file).
Out: a model of the same shape, and the preferences it learned from. Training is the one loop of `training`.
May import: core, data, tokenizer, tokens, models, objectives, training, generation, evaluation, finetuning.
"""

from gristmill.alignment.stage import Align

__all__ = ["Align"]
