"""Fine-tuning: a trained model learns a task from examples.

In: a model and instruction data. Out: a model of the same shape. The loss is causal language modelling on the
answers only; a share of general text can be replayed against forgetting. Training is the one loop of `training`.
May import: core, data, tokenizer, tokens, models, objectives, training, generation, evaluation.
"""

from gristmill.finetuning.stage import Finetune

__all__ = ["Finetune"]
