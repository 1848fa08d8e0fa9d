"""Bytes on disk: the text, its tokens, and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gristmill.planning.anatomy import anatomy
from gristmill.planning.interval import Interval
from gristmill.planning.memory import OPTIMIZERS
from gristmill.planning.tables import Tables

KEPT = 2
"""Checkpoints that a run keeps (training/checkpoints); while one is written there is one more."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Bytes."""

    text: Interval
    tokens: float
    checkpoint: float
    checkpoints: float
    release: float
    """Weights in bf16."""

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text.as_json(), "tokens": self.tokens, "checkpoint": self.checkpoint,
                "checkpoints": self.checkpoints, "release": self.release}


def storage(config: Any, tokens: float, tables: Tables, *, epochs: float = 1.0, optimizer: str = "adamw",
            average: bool = False) -> Storage:
    """tokens: that training reads; epochs: how often it reads each."""
    found = anatomy(config)
    matrix, other = OPTIMIZERS[optimizer]
    inside = min(found.matrices, found.total)
    state = matrix * inside + other * (found.total - inside)
    checkpoint = found.total * (4 + (4 if average else 0)) + state
    unique = tokens / epochs
    width = 2 if config.vocab_size <= 2**16 else 4
    return Storage(text=tables.assumptions["text_bytes_per_token"].value * unique, tokens=width * unique,
                   checkpoint=checkpoint, checkpoints=(KEPT + 1) * checkpoint, release=2 * found.total)
