"""Signal `pii_v1`: how much personal data a text holds."""

from __future__ import annotations

from collections import Counter

import numpy as np

from gristmill.data.pii import KINDS
from gristmill.data.signals.batch import Batch
from gristmill.data.signals.signal import signal


@signal
def pii_v1(batch: Batch) -> dict[str, np.ndarray]:
    """email, phone, ip, card, iban, national_id, wallet: finds of each kind (`data.pii.find`, usual options); total:
    of all."""
    from gristmill.data.pii import find  # its patterns are built on first use

    counts = np.zeros((len(KINDS), len(batch)), np.int64)
    for row, text in enumerate(batch.texts):
        for kind, count in Counter(span.kind for span in find(text)).items():
            counts[KINDS.index(kind), row] = count
    return {**dict(zip(KINDS, counts, strict=True)), "total": counts.sum(axis=0)}
