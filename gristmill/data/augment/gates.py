"""What every made text must pass, whatever made it, and how far it lies from its original."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gristmill.core.config import config, require, to_plain
from gristmill.core.hashing import canonical_json, digest_file
from gristmill.data.augment.method import Made, Original
from gristmill.data.decontaminate import Decontaminate
from gristmill.data.dedup.exact import content_hash
from gristmill.data.dedup.shingles import jaccard, shingle_sets
from gristmill.data.read import evaluation_files, evaluation_index, said
from gristmill.data.signals.language import UNDETERMINED, language_v1

JUDGED = 40
"""Characters from which on the language of a text is judged: of less, the detector knows little."""
_detector = threading.Lock()


@config
class Gates:
    """What a made text must be like to stay. Texts equal to their original or to any other document never stay."""

    least_length: float = 0.4
    """Characters of the made text for each of the original, at least; 0 to 1."""
    most_length: float = 2.5
    """Characters of the made text for each of the original, at most; 1 to 100."""
    language: bool = True
    """The made text must be in the language of its original (texts of fewer than 40 characters are not judged)."""
    evaluations: list[str] = field(default_factory=list)
    """Files of evaluation sets (as in the data stage's `decontaminate`): a made text that holds one of their texts does
    not stay. A model may know them by heart."""

    def __post_init__(self) -> None:
        require(0 <= self.least_length <= 1, "least_length", "must be from 0 to 1")
        require(1 <= self.most_length <= 100, "most_length", "must be from 1 to 100")

    def fingerprint(self) -> list[str]:
        """Digests of the evaluation sets. UserError if one is not there."""
        return [digest_file(path) for path in evaluation_files(self.evaluations)]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a made text lies from its original."""

    similarity: float
    """Jaccard similarity of their sets of word 5-grams."""
    ratio: float
    """Characters of the made text for each of the original."""
    changed: float
    """Share of the words (of the longer text) that the other does not have, each as often as it occurs."""


def detect(text: str) -> str:
    """The language of a text; one thread at a time, as the detector asks for."""
    with _detector:
        return language_v1(text)


def judge(original: Original, made: Sequence[Made], gates: Gates, most_similar: float | None) -> list[Distance]:
    """Set `reason` and `detail` of the texts made of one original that do not pass, and give their distances.

    most_similar: from this similarity on a text counts as a copy; None where small changes are what is wanted.
    """
    sets, offsets = shingle_sets([original.text, *(one.text for one in made)])
    own, words = sets[offsets[0] : offsets[1]], Counter(original.text.split())
    expected: set[str] = set()
    found = []
    for number, one in enumerate(made, 1):
        distance = Distance(
            round(float(jaccard(own, sets[offsets[number] : offsets[number + 1]])), 6),
            round(len(one.text) / max(len(original.text), 1), 6), round(_changed(words, Counter(one.text.split())), 6))
        found.append(distance)
        if one.reason:
            continue
        if not one.text.strip():
            one.reason, one.detail = "empty", "no text is left"
        elif content_hash(one.text) == content_hash(original.text):
            one.reason, one.detail = "unchanged", "equal to its original"
        elif most_similar is not None and distance.similarity >= most_similar:
            one.reason = "copy"
            one.detail = f"Jaccard {distance.similarity:.4f} with its original, at or above {most_similar:g}"
        elif distance.ratio < gates.least_length:
            one.reason = "too_short"
            one.detail = f"{distance.ratio:.3f} of its original's length, below {gates.least_length:g}"
        elif distance.ratio > gates.most_length:
            one.reason = "too_long"
            one.detail = f"{distance.ratio:.3f} of its original's length, above {gates.most_length:g}"
        elif gates.language and len(one.text) >= JUDGED:
            expected = expected or {original.language, detect(original.text)}
            language = detect(one.text)
            if language not in expected and language != UNDETERMINED:
                one.reason, one.detail = "other_language", f"{language} in place of {original.language}"
        if not one.reason and gates.evaluations:
            index = evaluation_index(canonical_json({"files": gates.evaluations, "rules": to_plain(Decontaminate())}))
            if held := index.examine([one.text])[0]:
                one.reason, one.detail = "contaminated", said(held)
    return found


def _changed(before: Counter[str], after: Counter[str]) -> float:
    longest = max(before.total(), after.total())
    return 1 - (before & after).total() / longest if longest else 0.0
