"""Measured properties of a document: pure functions with versioned names, computed once, decided on later.

A signal never changes its meaning under the same name; a better one gets the next version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gristmill.data.signals.length import length_v1
from gristmill.data.signals.repetition import gopher_repetition_v1
from gristmill.data.signals.symbols import code_symbols_v1, gopher_symbols_v1

Signal = Callable[[str], dict[str, float]]

SIGNALS: Mapping[str, Signal] = {
    "length_v1": length_v1,
    "gopher_symbols_v1": gopher_symbols_v1,
    "gopher_repetition_v1": gopher_repetition_v1,
    "code_symbols_v1": code_symbols_v1,
}
"""Every signal by name. A value is called `<signal>.<value>`, e.g. `length_v1.words`."""

PROSE = ("length_v1", "gopher_symbols_v1", "gopher_repetition_v1")
CODE = ("length_v1", "code_symbols_v1")


def measure(text: str, *, code: bool) -> dict[str, float]:
    """The signals that make sense for a text of this class, by full name."""
    return {
        f"{name}.{key}": value for name in (CODE if code else PROSE) for key, value in SIGNALS[name](text).items()
    }


__all__ = ["SIGNALS", "code_symbols_v1", "gopher_repetition_v1", "gopher_symbols_v1", "length_v1", "measure"]
