"""Measured properties of a document: pure functions with versioned names, computed once, decided on later.

A signal never changes its meaning under the same name; a better one gets the next version. Each takes one text, or a
batch of texts whose split into lines and words all signals share.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from gristmill.core.errors import UserError
from gristmill.data.signals.bad_words import bad_words_v1
from gristmill.data.signals.batch import Batch, batches
from gristmill.data.signals.characters import characters_v1
from gristmill.data.signals.length import length_v1
from gristmill.data.signals.lines import c4_v1, fineweb_v1, remove_lines
from gristmill.data.signals.repetition import gopher_repetition_v1
from gristmill.data.signals.signal import Signal
from gristmill.data.signals.symbols import code_symbols_v1, gopher_symbols_v1, gopher_symbols_v2
from gristmill.data.signals.vocabulary import words_v1

SIGNALS: Mapping[str, Signal] = {
    signal.name: signal
    for signal in (length_v1, gopher_symbols_v1, gopher_symbols_v2, gopher_repetition_v1, c4_v1, fineweb_v1,
                   characters_v1, words_v1, code_symbols_v1)
}
"""Every signal that needs nothing but the text, by name. A value is called `<signal>.<value>`, e.g. `length_v1.words`.
"""

FURTHER: Mapping[str, str] = {
    "language_paragraphs_v1": "language", "license_v1": "licences", "mentions_v1": "mentions", "pii_v1": "pii",
}
"""Signals that are only measured where a recipe asks for them, and the module of each."""
PROSE = ("length_v1", "gopher_symbols_v2", "gopher_repetition_v1", "c4_v1", "fineweb_v1", "characters_v1", "words_v1")
CODE = ("length_v1", "code_symbols_v1")

Compat = Literal["none", "datatrove", "dolma"]
COMPAT = get_args(Compat)


def signals_for(*, code: bool, compat: Compat = "none", bad_words: Sequence[str] = ()) -> dict[str, Signal]:
    """The signals that make sense for a text of this class, by name.

    compat: also those by this tool's definitions (for prose). bad_words: also whether these words and phrases occur.
    Raises UserError for an unknown `compat`, MachineError if datatrove's need spaCy and it is not installed.
    """
    if compat not in COMPAT:
        raise UserError(f"there is no compat {compat!r}", where="compat", fix=f"choose from {', '.join(COMPAT)}")
    chosen = [SIGNALS[name] for name in (CODE if code else PROSE)]
    if not code:
        chosen += _compat(compat)
        if bad_words:
            chosen.append(_bad_words(tuple(bad_words)))
    return {signal.name: signal for signal in chosen}


def measure(text: str, *, code: bool, compat: Compat = "none", bad_words: Sequence[str] = ()) -> dict[str, float]:
    """The signals that make sense for a text of this class, by full name; arguments as of `signals_for`."""
    batch = Batch([text])
    return {
        f"{name}.{value}": float(column[0])
        for name, signal in signals_for(code=code, compat=compat, bad_words=bad_words).items()
        for value, column in signal.columns(batch).items()
    }


def measure_batch(
    texts: Sequence[str], *, code: bool | Sequence[bool] = False, compat: Compat = "none",
    bad_words: Sequence[str] = (), only: Iterable[str] | None = None, further: Sequence[Signal] = (),
) -> dict[str, np.ndarray]:
    """What `measure` says of each text, as columns: {"<signal>.<value>": (texts,) float64}.

    code: the class of all texts or of each; where a signal makes no sense for the class of a text, its values are NaN.
    only: the names of the signals that are wanted, of those that `signals_for` gives; the others are not computed.
    further: signals that are measured on texts of either class as well.
    Memory: a batch of about 2 MB of text is split at a time.
    """
    classes = np.full(len(texts), code) if isinstance(code, bool) else np.asarray(code, bool)
    wanted = None if only is None else set(only)
    columns: dict[str, np.ndarray] = {}
    for kind in (False, True) if len(texts) == 0 else np.unique(classes).tolist():
        rows = np.flatnonzero(classes == kind)
        chosen = [signal for name, signal in signals_for(code=kind, compat=compat, bad_words=bad_words).items()
                  if wanted is None or name in wanted] + list(further)
        start = 0
        for batch in batches([texts[row] for row in rows.tolist()]) if len(rows) else [Batch([])]:
            here = rows[start : start + len(batch)]
            start += len(batch)
            for signal in chosen:
                for value, column in signal.columns(batch).items():
                    name = f"{signal.name}.{value}"
                    if name not in columns:
                        columns[name] = np.full(len(texts), np.nan)
                    columns[name][here] = column
    return columns


def further_signal(name: str) -> Signal:
    """One of `FURTHER`."""
    return getattr(importlib.import_module(f"{__name__}.{FURTHER[name]}"), name)


@functools.cache
def _compat(compat: Compat) -> list[Signal]:
    if compat == "datatrove":
        from gristmill.data.signals.compat.datatrove import datatrove_signals
        from gristmill.data.signals.compat.spacy_words import SpacyWords

        return list(datatrove_signals(SpacyWords()))
    if compat == "dolma":
        from gristmill.data.signals.compat.dolma import dolma_c4, dolma_gopher_v1, dolma_gopher_v2

        return [dolma_gopher_v1, dolma_gopher_v2, dolma_c4(1), dolma_c4(2)]
    return []


@functools.lru_cache(maxsize=8)
def _bad_words(entries: tuple[str, ...]) -> Signal:
    return bad_words_v1(entries)


__all__ = [
    "CODE", "COMPAT", "FURTHER", "PROSE", "SIGNALS", "Batch", "Compat", "Signal", "bad_words_v1", "batches", "c4_v1",
    "characters_v1", "code_symbols_v1", "fineweb_v1", "further_signal", "gopher_repetition_v1", "gopher_symbols_v1",
    "gopher_symbols_v2", "length_v1", "measure", "measure_batch", "remove_lines", "signals_for", "words_v1",
]
