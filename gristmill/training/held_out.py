"""Evaluation during pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gristmill.objectives.base import Objective
from gristmill.objectives.pretraining import HeldOutBatches, Pretraining
from gristmill.tokenizer import Tokenizer
from gristmill.training.accumulate import Passes
from gristmill.training.device import Compute
from gristmill.training.parallel.world import World
from gristmill.training.predictions import Prompt, trace_predictions
from gristmill.training.validation import bits_per_byte, validate


@dataclass
class HeldOut:
    """The loss on held-out text (bits a byte where every token is scored), and the prediction trace where a process can
    run the model alone."""

    batches: HeldOutBatches
    task: Pretraining
    loss: Objective
    tokenizer: Tokenizer
    compute: Compute
    prompts: list[Prompt]
    passes: Passes
    world: World
    rows: int | None = None
    """That a process runs at once; None for all of a batch."""

    def __call__(self, model: Any, step: int) -> dict[str, Any]:
        score = None if self.passes.whole else self.passes.score
        scores = validate(model, self.batches, self.compute, self.loss, score=score, world=self.world, rows=self.rows)
        values: dict[str, Any] = {f"valid_{name}": value for name, value in scores.items() if name != "tokens"}
        values["score"] = values["valid_loss"]
        if self.batches.total_bytes is not None:
            values["score"] = values["valid_bits_per_byte"] = bits_per_byte(scores, self.batches.total_bytes)
        if not self.passes.whole:
            return values
        with self.compute.autocast():  # as in training: shards of the weights are gathered in its precision
            return {**values, **trace_predictions(model, self.tokenizer, self.task, self.prompts)}
