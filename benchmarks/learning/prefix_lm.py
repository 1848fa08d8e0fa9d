"""Prefix language modelling: our Llama beside transformers', which is told by a mask who sees whom.

    python -m benchmarks.learning.prefix_lm
"""

from __future__ import annotations

from benchmarks.learning.causal_lm import LLAMA, their_loss
from benchmarks.learning.compare import Contest, main
from gristmill.objectives.pretraining import PrefixLanguageModelling

CONTEST = Contest(kind="prefix_lm", objective=PrefixLanguageModelling(), spec=LLAMA, their_loss=their_loss)

if __name__ == "__main__":
    main(CONTEST)
