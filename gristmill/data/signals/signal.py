"""What a signal is: a named function from text to values, for one text or for a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gristmill.data.signals.batch import Batch

Columns = Callable[[Batch], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Signal:
    """Values of a text under a versioned name.

    columns: for a batch, {value: (texts,) numbers}. Calling the signal with one text gives {value: float}.
    """

    name: str
    columns: Columns
    __doc__: str | None = None

    def __call__(self, text: str) -> dict[str, float]:
        return {value: float(column[0]) for value, column in self.columns(Batch([text])).items()}


def signal(columns: Columns) -> Signal:
    """Make a signal of the function of a batch that carries its name and definition."""
    return Signal(columns.__name__, columns, columns.__doc__)
