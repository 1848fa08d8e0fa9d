"""The stage `classifier`: labelled texts in, a trained text classifier out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from itertools import chain
from pathlib import Path
from typing import Any

from gristmill.core.config import require
from gristmill.core.hashing import digest
from gristmill.core.progress import Progress
from gristmill.core.stage import StageContext, stage
from gristmill.data.classifier.examples import Examples, read_examples
from gristmill.data.classifier.features import Features
from gristmill.data.classifier.fit import STEPS
from gristmill.data.classifier.training import gather, train
from gristmill.data.split import Split


@stage(kind="classifier", produces="classifier", semantics_version=1)
class TrainClassifier:
    """Train a text classifier (quality, toxicity, topic) whose probabilities the stage `data` can read as a signal."""

    examples: list[Examples]
    """Labelled texts: rows with labels, or files and corpora with one label each. Of equal texts the first is taken."""
    multi_label: bool = False
    """A text may have several labels, or none: each label gets a probability of its own."""
    features: Features = field(default_factory=Features)
    """What is seen of a text."""
    balance: float = 0.5
    """How much rare labels are helped: a text counts by its label's share to the power of -balance. 0: as they come;
    1: all labels alike. Probabilities are calibrated for the shares as they come whatever is chosen."""
    passes: int = 10
    """At most so many passes over the training texts, with small and with bold steps; the weights with the lowest loss
    on the calibration texts are kept."""
    split: Split = field(default_factory=lambda: Split(valid=0.1, test=0.1))
    """Shares of the groups for calibration (valid) and for held-out measures (test), chosen by hash."""

    def __post_init__(self) -> None:
        require(len(self.examples) > 0, "examples", "name at least one")
        require(0 <= self.balance <= 1, "balance", "must be from 0 to 1")
        require(1 <= self.passes <= 1000, "passes", "must be from 1 to 1000")
        require(self.split.valid > 0, "split", "`valid` must be above 0: probabilities are calibrated on it")

    def fingerprint(self) -> str:
        """Digest of the files behind the examples."""
        return digest([one.fingerprint() for one in self.examples])

    def run(self, context: StageContext) -> dict[str, Any]:
        """Train in `context.work`: classifier.safetensors, classifier.json and report.json."""
        report = train_on(self, context.inputs, seed=context.seed, work=context.work, scratch=context.scratch,
                          progress=context.progress)
        return metrics(report)


def train_on(config: TrainClassifier, inputs: Mapping[str, Any], *, seed: int, work: Path, scratch: Path,
             progress: Progress) -> dict[str, Any]:
    """Read, fit, measure and save; gives the report. The same texts, config and seed give the same bytes."""
    counts = Counter[str]()
    every = chain.from_iterable(read_examples(one, inputs, seed, counts) for one in config.examples)
    with progress.bar("classifier: reading", None, "texts") as bar:
        data = gather(every, config.features, multi=config.multi_label, split=config.split, seed=seed, scratch=scratch,
                      counts=counts, advance=bar.advance)
    with progress.bar("classifier: fitting", len(STEPS) * config.passes * len(data.rows("train")), "texts") as bar:
        return train(data, config.features, balance=config.balance, passes=config.passes, seed=seed, work=work,
                     advance=bar.advance)


def metrics(report: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers that the artifact's record keeps."""
    held_out = report.get("held_out", {})
    return {
        "labels": report["labels"], "texts": {part: sum(of.values()) for part, of in report["texts"].items()},
        **({"accuracy": held_out["accuracy"]["value"], "macro_f1": held_out["macro_f1"],
            "calibration_error": held_out["calibration_error"],
            "auc": {label: one["auc"]["value"] for label, one in held_out["labels"].items()}} if held_out else {}),
    }
