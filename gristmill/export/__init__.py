"""Export: the release of a model, a public folder that other systems open, with its proof and its model card.

In: a model artifact, and the evaluation that its card quotes. Out: config.json, model.safetensors, tokenizer,
generation_config.json, README.md (the card) and proof.json. What does not compute the same is refused.
May call: core, data, tokenizer, tokens, models, objectives, training, generation, evaluation, finetuning, alignment.
"""

from gristmill.export.stage import Export
from gristmill.export.verify import verify_release

__all__ = ["Export", "verify_release"]
