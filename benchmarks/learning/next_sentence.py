"""BERT's two tasks at once, hidden tokens and pairs of texts: ours beside transformers'. Curves are those of the hidden
tokens.

    python -m benchmarks.learning.next_sentence
"""

from __future__ import annotations

from typing import Any

from benchmarks.learning import masked_lm
from benchmarks.learning.compare import Batch, Contest, Losses, loss_of_logits, main
from gristmill.objectives.pretraining import NextSentencePrediction


def their_loss(model: Any, batch: Batch, config: Any) -> Losses:
    """The public class minimises the sum of both."""
    inputs = masked_lm.unpacked(batch, config)
    out = model(**inputs)
    return loss_of_logits(out.prediction_logits, inputs["labels"])[0], out.loss


CONTEST = Contest(
    kind="next_sentence", objective=NextSentencePrediction(masking=masked_lm.MASKING), their_loss=their_loss,
    optimizer=masked_lm.OPTIMIZER, spec={"family": "bert", **masked_lm.SIZES}, context=16, batch=128, vocabulary=288,
    special=masked_lm.CONTEST.special)

if __name__ == "__main__":
    main(CONTEST)
