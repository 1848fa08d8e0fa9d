"""Fill-in-the-middle: our Llama beside transformers' on the same rearranged documents.

    python -m benchmarks.learning.fill_in_the_middle
"""

from __future__ import annotations

from benchmarks.learning.causal_lm import LLAMA, their_loss
from benchmarks.learning.compare import Contest, main
from gristmill.objectives.pretraining import FillInTheMiddle

CONTEST = Contest(kind="fill_in_the_middle", objective=FillInTheMiddle(), spec=LLAMA, their_loss=their_loss)

if __name__ == "__main__":
    main(CONTEST)
