"""UL2's mixture of seven denoisers: our T5 beside transformers' on the same rows.

    python -m benchmarks.learning.denoisers
"""

from __future__ import annotations

from benchmarks.learning.compare import Contest, main
from benchmarks.learning.span_corruption import T5, their_loss
from gristmill.objectives.pretraining import MixtureOfDenoisers

CONTEST = Contest(kind="denoisers", objective=MixtureOfDenoisers(), spec=T5, their_loss=their_loss)

if __name__ == "__main__":
    main(CONTEST)
