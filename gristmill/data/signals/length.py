"""Signal `length_v1`: how much text there is, and the shape of its lines."""

from __future__ import annotations

import numpy as np

from gristmill.data.signals.batch import Batch, maxima, share, sums
from gristmill.data.signals.signal import signal


@signal
def length_v1(batch: Batch) -> dict[str, np.ndarray]:
    """characters; words (split at white space); lines (that are not blank); mean and longest line in characters;
    mean_word_length in characters. All are 0 for empty text."""
    return {
        "characters": batch.characters,
        "words": batch.word_counts,
        "lines": batch.line_counts,
        "mean_line_length": share(sums(batch.line_sizes, batch.line_bounds), batch.line_counts),
        "max_line_length": maxima(batch.line_sizes, batch.line_bounds),
        "mean_word_length": share(batch.word_characters, batch.word_counts),
    }
