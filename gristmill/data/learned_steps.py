"""Trained models one at a time, from files to files: train them, put what they say of each row beside it, learn a list.

For whoever wants only one of them; in recipes the stages `classifier` and `ngram` train, and the stage `data` reads.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors, write_atomic, write_json
from gristmill.core.progress import Progress
from gristmill.data.classifier.examples import Examples, read_examples
from gristmill.data.classifier.stage import TrainClassifier
from gristmill.data.classifier.stage import train_on as train_classifier_on
from gristmill.data.classifier.words import WordCounts, learned_list
from gristmill.data.ngram.stage import TrainNgram
from gristmill.data.ngram.stage import train_on as train_ngram_on
from gristmill.data.signals.batch import batches
from gristmill.data.signals.learned import learned_values, open_learned
from gristmill.data.steps import RowWriter, read_rows

_BATCH = 256


def train(config: TrainClassifier | TrainNgram, folder: Path, *, seed: int, progress: Progress) -> dict[str, Any]:
    """Train into a folder; gives the report that is written there."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".scratch") as scratch:
        if isinstance(config, TrainClassifier):
            return train_classifier_on(config, {}, seed=seed, work=folder, scratch=Path(scratch), progress=progress)
        return train_ngram_on(config, {}, seed=seed, work=folder, scratch=Path(scratch), progress=progress)


def apply(source: str, target: Path, model: Mapping[str, Any], *, column: str = "text",
          advance: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """The rows of `source` with a column for each value of a model ({kind, name, model: folder}, see
    `signals.open_learned`). Gives counts, and the mean of each column."""
    signal, names = open_learned(model), learned_values(model)
    counts, total = Counter[str](), np.zeros(len(names))
    with RowWriter(target) as writer:
        for rows in read_rows(source, column, counts):
            start = 0
            for batch in batches([row[column] for row in rows]):
                columns = signal.columns(batch)
                for place, (name, values) in enumerate(zip(names, columns.values(), strict=True)):
                    total[place] += values.sum()
                    for row, value in zip(rows[start:], values.tolist(), strict=False):
                        row[name] = value
                start += len(batch)
            writer.write(rows)
            advance(len(rows))
    return {**counts, "means": dict(zip(names, (total / max(counts["read"], 1)).tolist(), strict=True))}


def learn_words(examples: Sequence[Examples], label: str, target: Path, *, size: int = 200, precision: float = 0.5,
                least: int = 5, longest: int = 1, seed: int = 0,
                advance: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """The entries that speak most for a label, into a .txt file (one a line, ready for `bad_words`) or a .json file
    (with z-score, texts with the label, other texts). longest: words of the longest entries."""
    if target.suffix not in (".txt", ".json"):
        raise UserError(f"{target.name} is neither .txt nor .json", where=str(target), fix="choose one of the two")
    counts = Counter[str]()
    every = chain.from_iterable(read_examples(one, {}, seed, counts) for one in examples)
    counted = WordCounts((label,), longest)
    while batch := list(islice(every, _BATCH)):
        counted.add([one.text for one in batch], [one.labels for one in batch])
        advance(len(batch))
    if not counted.texts[label] or counted.texts[label] == counted.texts[""]:
        raise UserError(f"{counted.texts[label]} of {counted.texts['']} texts have the label {label!r}",
                        where="--label", fix=f"texts with and without it are needed; labels are "
                        f"{', '.join(sorted(name for name in counted.texts if name)) or 'not there'}")
    found = learned_list(counted, label, size=size, precision=precision, least=least)
    if target.suffix == ".txt":
        write_atomic(target, "".join(f"{entry}\n" for entry, *_ in found))
    else:
        write_json(target, [{"entry": entry, "z": round(z, 3), "texts": own, "other_texts": others}
                            for entry, z, own, others in found])
    return {"texts": counted.texts[""], "with_label": counted.texts[label], "entries": len(found)}
