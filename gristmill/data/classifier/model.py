"""A trained classifier: weights of hashed n-grams and a calibration, as safetensors and JSON.

Weights are whole numbers of 16 bits with a step for each label. Sums of whole numbers are exact, so a text gets the
same bits whatever batch it is in, and however many workers there are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gristmill.core.config import to_plain
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_atomic, write_json
from gristmill.data.classifier.calibrate import Calibration
from gristmill.data.classifier.features import VERSION, Features, features
from gristmill.data.classifier.fit import Fitted, scales
from gristmill.data.dedup.words import Words

WEIGHTS, ABOUT = "classifier.safetensors", "classifier.json"
FORMAT = 1


@dataclass(frozen=True)
class Classifier:
    """labels: their names. multi: may a text have several? features: what is seen of a text. weights: (labels,
    buckets) int16, in units of `steps` (labels,); bias: (labels,)."""

    labels: tuple[str, ...]
    multi: bool
    features: Features
    weights: np.ndarray
    steps: np.ndarray
    bias: np.ndarray
    calibration: Calibration

    @classmethod
    def of(cls, labels: Sequence[str], multi: bool, seen: Features, fitted: Fitted) -> Classifier:
        """A classifier with these weights, in 16 bits, not calibrated."""
        steps = np.maximum(np.abs(fitted.weights).max(axis=1).astype(np.float64), 1e-12) / 32767
        whole = np.rint(fitted.weights / steps[:, None].astype(np.float32)).clip(-32767, 32767).astype(np.int16)
        return cls(tuple(labels), multi, seen, whole, steps, fitted.bias, Calibration.none(len(labels)))

    @classmethod
    def open(cls, folder: Path | str) -> Classifier:
        """The classifier in a folder; a UserError if there is none or it is of another format."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        about = read_json(folder / ABOUT)
        if about.get("format") != FORMAT or about.get("features_version") != VERSION:
            raise UserError("this classifier was written by another version", where=str(folder), fix="train it again")
        try:
            tensors = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise UserError(f"the weights cannot be read ({error})", where=str(folder / WEIGHTS),
                            fix="train the classifier again") from error
        seen = Features(**about["features"])
        if tensors["weights"].shape != (len(about["labels"]), seen.buckets):
            raise UserError("weights and labels do not fit together", where=str(folder), fix="train it again")
        return cls(tuple(about["labels"]), about["multi_label"], seen, tensors["weights"], tensors["steps"],
                   tensors["bias"], Calibration(tensors["slope"], tensors["shift"]))

    def save(self, folder: Path) -> None:
        """Write the two files, each whole or not at all."""
        from safetensors.numpy import save

        write_atomic(folder / WEIGHTS, save({
            "weights": self.weights, "steps": self.steps, "bias": self.bias, "slope": self.calibration.slope,
            "shift": self.calibration.shift}))
        write_json(folder / ABOUT, {"format": FORMAT, "features_version": VERSION, "labels": list(self.labels),
                                    "multi_label": self.multi, "features": to_plain(self.features)})

    def scores(self, texts: Sequence[str], words: Words | None = None) -> np.ndarray:
        """(texts, labels) float64, not calibrated. words: those of the texts, where they are known already."""
        return self.scores_of(*features(texts, self.features, words))

    def scores_of(self, ids: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """The scores of texts by their features (features,) and (texts + 1,) offsets."""
        total = np.empty((len(edges) - 1, len(self.labels)))
        for label, column in enumerate(self.weights):
            sums = np.zeros(len(ids) + 1, np.int64)
            np.cumsum(column.take(ids), dtype=np.int64, out=sums[1:])
            total[:, label] = sums[edges[1:]] - sums[edges[:-1]]
        return total * (self.steps * scales(np.diff(edges))[:, None]) + self.bias

    def probabilities(self, texts: Sequence[str], words: Words | None = None) -> np.ndarray:
        """(texts, labels) calibrated probabilities; over the labels they sum to 1 unless `multi`."""
        return self.calibration(self.scores(texts, words), self.multi)

    def columns(self) -> tuple[str, ...]:
        """The labels as names of values: lower case, `_` for what is neither letter nor digit."""
        return tuple(column_name(label) for label in self.labels)


def column_name(label: str) -> str:
    """`Sci/Tech` -> `sci_tech`: how a label is called as a value of a signal."""
    return re.sub(r"\W+", "_", label.strip().lower()).strip("_")
