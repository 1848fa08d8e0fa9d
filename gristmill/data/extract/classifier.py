"""The chance of each block to be main content: small networks of three layers, the last two also over neighbours.

    h1 = relu(x W1 + b1)                                  each block by itself
    h2 = relu([h1 at NEAR offsets, mean of h1] W2 + b2)   with its neighbours and the page
    h3 = relu([h2 at FAR offsets] W3 + b3)                with what stands further away
    chance = sigmoid(mean over the networks of h3 w + b)

Beyond the ends of the page stand zeros. `fit.py` finds the weights; they are kept as numbers in `weights.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gristmill.core.errors import InternalError, UserError
from gristmill.data.extract.features import NAMES

Floats = npt.NDArray[np.float32]
NEAR = (-2, -1, 0, 1, 2)
FAR = (-6, -3, 0, 3, 6)
# Products of more rows are spread over threads by numpy, whose waiting costs several times the CPU time of the product.
ROWS = 32
WEIGHTS = Path(__file__).with_name("weights.json")
LAYERS = ("w1", "b1", "w2", "b2", "w3", "b3", "w", "b")


@dataclass(frozen=True)
class Layers:
    """One network."""

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    w3: Floats
    b3: Floats
    w: Floats
    b: Floats


@dataclass(frozen=True)
class Classifier:
    """Several networks whose logits are averaged, and the chance from which a block is kept."""

    members: tuple[Layers, ...]
    threshold: float = 0.5

    @cached_property
    def stacked(self) -> Layers:
        """All networks side by side: one product of matrices for all of them."""
        def stack(name: str) -> Floats:
            return np.stack([getattr(member, name) for member in self.members])

        w1, width = np.concatenate([member.w1 for member in self.members], axis=1), self.members[0].b1.size
        if any(member.b1.size != width for member in self.members):
            raise InternalError("the networks of a classifier differ in width", where="Classifier.members",
                                fix="fit them together")
        return Layers(w1, np.concatenate([member.b1 for member in self.members]), stack("w2"), stack("b2")[:, None],
                      stack("w3"), stack("b3")[:, None], stack("w"), stack("b"))

    def __call__(self, x: Floats) -> Floats:
        """(blocks, features) -> (blocks,) chances."""
        all_of, count, networks = self.stacked, len(x), len(self.members)
        alone = np.empty((count, all_of.w1.shape[1]), dtype=np.float32)
        for at in range(0, count, ROWS):
            np.matmul(x[at:at + ROWS], all_of.w1, out=alone[at:at + ROWS])
        alone += all_of.b1
        first = np.maximum(alone, 0).reshape(count, networks, -1).transpose(1, 0, 2)
        inner = len(NEAR) * first.shape[2]
        page = first.mean(axis=1, keepdims=True) @ all_of.w2[:, inner:]
        second = np.maximum(_window(first, NEAR) @ all_of.w2[:, :inner] + (page + all_of.b2), 0)
        third = np.maximum(_window(second, FAR) @ all_of.w3 + all_of.b3, 0)
        logits = (third @ all_of.w[:, :, None])[:, :, 0].mean(axis=0) + all_of.b.mean()
        chances: Floats = 1 / (1 + np.exp(-logits))
        return chances


def _window(rows: Floats, offsets: tuple[int, ...]) -> Floats:
    """(networks, blocks, width) -> (networks, blocks, offsets x width): each row beside those of its neighbours."""
    networks, count, width = rows.shape
    out = np.zeros((networks, count, len(offsets) * width), dtype=np.float32)
    for number, offset in enumerate(offsets):
        begin, end = max(0, -offset), min(count, count - offset)
        if begin < end:
            out[:, begin:end, number * width:(number + 1) * width] = rows[:, begin + offset:end + offset]
    return out


@lru_cache(maxsize=4)
def load(path: Path = WEIGHTS) -> Classifier:
    """The classifier in a JSON file. Raises UserError where it belongs to other features."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    if tuple(stored["features"]) != NAMES:
        raise UserError("the weights belong to other features than this version measures", where=str(path),
                        fix="fit them anew with benchmarks/data_extract_fit.py")
    members = tuple(Layers(**{name: np.array(member[name], dtype=np.float32) for name in LAYERS})
                    for member in stored["members"])
    return Classifier(members, float(stored["threshold"]))


def save(classifier: Classifier, path: Path, about: dict[str, object]) -> None:
    """Write the weights, rounded to four digits, with what is to be known of their origin."""
    def rounded(value: object) -> object:
        return [rounded(one) for one in value] if isinstance(value, list) else float(f"{value:.4g}")

    members = [{name: rounded(getattr(member, name).tolist()) for name in LAYERS} for member in classifier.members]
    stored = {**about, "threshold": classifier.threshold, "features": list(NAMES), "members": members}
    text = json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text.replace('{"w1"', '\n{"w1"') + "\n", encoding="utf-8")
