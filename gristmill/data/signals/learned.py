"""Signals of trained models: a classifier's probabilities, an n-gram model's perplexity; and rules over them.

What such a signal says is fixed by the model: its definition names the kind, its version and the model's digest. Models
are opened once a process.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from gristmill.core.config import ClassifierRef, NgramRef, config, require
from gristmill.core.errors import UserError
from gristmill.core.files import read_json
from gristmill.core.hashing import digest
from gristmill.data.dedup.words import Words, split_words
from gristmill.data.signals.batch import Batch
from gristmill.data.signals.signal import Signal

if TYPE_CHECKING:
    from gristmill.data.rules import Rule

CLASSIFIER_VERSION, NGRAM_VERSION = "classifier_v1", "ngram_v1"
NGRAM_VALUES = ("perplexity", "bits_per_byte", "unknown")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WORDS = "split_words"


@config
class LearnedClassifier:
    """The probabilities of a trained classifier: `<name>.<label>` for each label."""

    kind: Literal["classifier"] = "classifier"
    """A trained classifier."""
    name: str
    """What the signal is called, e.g. quality; its rules are min_<name> and max_<name>."""
    model: ClassifierRef
    """The trained classifier."""
    label: str = ""
    """The label that the bounds are about, e.g. good."""
    low: float | None = None
    """Documents in which the label's probability is lower go."""
    high: float | None = None
    """Documents in which the label's probability is higher go."""
    languages: list[str] = field(default_factory=list)
    """Only documents in these languages are judged by the bounds, e.g. [en]; [] judges all. What a model has not been
    trained on it cannot judge."""

    def __post_init__(self) -> None:
        _check(self)
        require(self.label != "" or (self.low is None and self.high is None), "label",
                "say which label the bounds mean")
        for name in ("low", "high"):
            bound = getattr(self, name)
            require(bound is None or 0 <= bound <= 1, name, "a probability is from 0 to 1")

    @property
    def value(self) -> str:
        """The value that the bounds are about."""
        from gristmill.data.classifier.model import column_name

        return column_name(self.label)

    def rules(self) -> list[Rule]:
        """The rules that the bounds make."""
        return _rules(self)


@config
class LearnedNgram:
    """How surprising a text is to an n-gram model: `<name>.perplexity`, `<name>.bits_per_byte`, `<name>.unknown`."""

    kind: Literal["ngram"] = "ngram"
    """A trained n-gram model."""
    name: str
    """What the signal is called, e.g. prose; its rules are min_<name> and max_<name>."""
    model: NgramRef
    """The trained n-gram model."""
    value: Literal["perplexity", "bits_per_byte", "unknown"] = "perplexity"
    """What the bounds are about: perplexity per token, bits per byte, or the share of unknown tokens."""
    low: float | None = None
    """Documents below go: what is too predictable repeats itself."""
    high: float | None = None
    """Documents above go. The model's report.json has percentiles to choose from."""
    languages: list[str] = field(default_factory=list)
    """Only documents in these languages are judged by the bounds, e.g. [en]; [] judges all."""

    def __post_init__(self) -> None:
        _check(self)
        for name in ("low", "high"):
            bound = getattr(self, name)
            require(bound is None or bound >= 0, name, "must be 0 or more, or null")

    def rules(self) -> list[Rule]:
        """The rules that the bounds make."""
        return _rules(self)


def _discriminated() -> Any:
    from pydantic import Field

    return Annotated[LearnedClassifier | LearnedNgram, Field(discriminator="kind")]


if TYPE_CHECKING:
    Learned = LearnedClassifier | LearnedNgram
else:
    Learned = _discriminated()
"""A trained model read as a signal; `kind` says which."""


def _check(value: Any) -> None:
    require(_NAME.fullmatch(value.name) is not None, "name", "must be lower-case letters, digits and _, a letter first")
    require(not re.search(r"_v\d+$", value.name), "name", "built-in signals have names that end in _v and a number")
    require(value.low is None or value.high is None or value.low <= value.high, "low", "must not be above `high`")


def _rules(value: Any) -> list[Rule]:
    from gristmill.data.rules import Rule

    signal = f"{value.name}.{value.value}"
    bounds = [(f"min_{value.name}", value.low, None), (f"max_{value.name}", None, value.high)]
    return [Rule(name, signal, low=low, high=high, languages=tuple(value.languages), measured=True)
            for name, low, high in bounds if low is not None or high is not None]


def open_learned(plain: Mapping[str, Any]) -> Signal:
    """The signal of {kind, name, model: the folder} (other keys are left alone); the model is opened once a process.

    The signal's values are `learned_values(plain)`. Raises UserError if the folder holds no such model, or has no such
    label as `label`.
    """
    return _opened(plain["kind"], plain["name"], str(plain["model"]), plain.get("label") or "")


def learned_values(plain: Mapping[str, Any]) -> list[str]:
    """The columns that the signal will have, `<name>.<value>`, without opening the weights."""
    return [f"{plain['name']}.{value}" for value in _values(plain["kind"], Path(plain["model"]),
                                                            plain.get("label") or "")]


def definition(plain: Mapping[str, Any]) -> str:
    """What fixes the values of this signal: kind, version, and a digest of the model's files. For the identity of what
    is measured with it."""
    from gristmill.core.hashing import digest_file

    kind, folder = plain["kind"], Path(plain["model"])
    names = ("classifier.safetensors", "classifier.json") if kind == "classifier" else (
        *(f"{name}.npy" for name in ("keys", "starts", "bits", "weights")), "ngram.json")
    _values(kind, folder, "")
    version = CLASSIFIER_VERSION if kind == "classifier" else NGRAM_VERSION
    return f"{version} {digest([digest_file(folder / name) for name in names])[:16]}"


def _values(kind: str, folder: Path, label: str) -> tuple[str, ...]:
    about = folder / f"{kind}.json"
    if not about.is_file():
        raise UserError(f"there is no {'n-gram model' if kind == 'ngram' else 'classifier'} in this folder",
                        where=str(folder), fix="name what a stage of that kind, or `gristmill data`, has trained")
    if kind == "ngram":
        return NGRAM_VALUES
    from gristmill.data.classifier.model import column_name

    labels = read_json(about)["labels"]
    if label and label not in labels:
        raise UserError(f"this classifier has no label {label!r}", where=str(folder),
                        fix=f"choose from {', '.join(labels)}")
    return tuple(column_name(one) for one in labels)


@functools.lru_cache(maxsize=16)
def _opened(kind: str, name: str, folder: str, label: str) -> Signal:
    values = _values(kind, Path(folder), label)
    if kind == "classifier":
        from gristmill.data.classifier.model import Classifier

        classifier = Classifier.open(folder)

        def columns(batch: Batch) -> dict[str, np.ndarray]:
            words = _words(batch) if classifier.features.words else None
            return dict(zip(values, classifier.probabilities(batch.texts, words).T, strict=True))

        about: dict[str, Any] = {"kind": CLASSIFIER_VERSION, "labels": list(classifier.labels)}
    else:
        from gristmill.data.ngram.model import NgramModel

        model = NgramModel.open(folder)

        def columns(batch: Batch) -> dict[str, np.ndarray]:
            found = model.measure(batch.texts, _words(batch) if model.unit == "word" else None)
            return {"perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte,
                    "unknown": found.unknown / found.tokens}

        about = {"kind": NGRAM_VERSION, "unit": model.unit, "order": len(model.orders)}
    return Signal(name, columns, json.dumps(about, sort_keys=True))


def _words(batch: Batch) -> Words:
    """The words of a batch, with their places, split once for all learned signals."""
    found = batch.notes.get(_WORDS)
    if found is None:
        found = batch.notes[_WORDS] = split_words(batch.texts, positions=True)
    return found


__all__ = ["Learned", "LearnedClassifier", "LearnedNgram", "definition", "learned_values", "open_learned"]
