"""Multi-token prediction: our Llama, which learns two tokens at a time, beside transformers', which learns one.

    python -m benchmarks.learning.multi_token
"""

from __future__ import annotations

from benchmarks.learning.causal_lm import LLAMA, their_loss
from benchmarks.learning.compare import Contest, main
from gristmill.objectives.pretraining import MultiTokenPrediction

CONTEST = Contest(kind="multi_token", objective=MultiTokenPrediction(), spec=LLAMA, their_loss=their_loss, same=False)

if __name__ == "__main__":
    main(CONTEST)
