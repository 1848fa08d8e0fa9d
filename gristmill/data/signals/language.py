"""Signals of natural language: `language_v1` of a text, `language_paragraphs_v1` of its paragraphs, by the eldc
detector (its models are in its wheel). docs/data/learned.md has its measured errors by length of text.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from gristmill.core.errors import MachineError
from gristmill.data.signals.batch import Batch
from gristmill.data.signals.signal import signal

UNDETERMINED = "und"
_SAMPLE = 4000
SHORTEST, SHORT = 20, 50
"""Characters: a paragraph below the first is not judged; below the second only where the detector is sure."""
MANY = 0.1
"""A language counts where it has more than this share of the characters."""
_detector: Any = None


def language_v1(text: str) -> str:
    """ISO 639-1 code of the language, judged by the first 4000 characters; "und" if there is nothing to judge by.

    Raises MachineError if the detector is not installed.
    """
    return _eldc().detect(text[:_SAMPLE]) or UNDETERMINED


@signal
def language_paragraphs_v1(batch: Batch) -> dict[str, np.ndarray]:
    """How much of a text is in one language. main: share of the characters of all judged paragraphs that are in the
    most frequent language; languages: how many have more than 10 % of them; judged: share of all characters that could
    be judged. A paragraph is a line. One of fewer than 20 characters is not judged, one of fewer than 50 only where the
    detector calls itself sure. A text in which nothing can be judged has main 1, languages 0, judged 0."""
    main, languages, judged = np.ones(len(batch)), np.zeros(len(batch)), np.zeros(len(batch))
    for row, lines in enumerate(batch.lines_of()):
        sizes = _by_language(lines)
        total = sum(sizes.values())
        if total:
            main[row] = max(sizes.values()) / total
            languages[row] = sum(size > MANY * total for size in sizes.values())
            judged[row] = total / sum(map(len, lines))
    return {"main": main, "languages": languages, "judged": judged}


def paragraph_languages(text: str) -> dict[str, float]:
    """Language -> its share of the characters of the paragraphs that `language_paragraphs_v1` judges, most first."""
    sizes = _by_language([line for line in map(str.strip, text.split("\n")) if line])
    total = sum(sizes.values())
    return {language: size / total for language, size in sizes.most_common()}


def _by_language(lines: list[str]) -> Counter[str]:
    detector, sizes = _eldc(), Counter[str]()
    for line in lines:
        if len(line) < SHORTEST:
            continue
        if len(line) < SHORT:
            found = detector.detect_details(line)
            language = found.language if found.reliable else UNDETERMINED
        else:
            language = detector.detect(line[:_SAMPLE])
        if language and language != UNDETERMINED:
            sizes[language] += len(line)
    return sizes


def _eldc() -> Any:
    """The detector, made ready once a process."""
    global _detector
    if _detector is None:
        try:
            import eldc
        except ImportError as error:
            raise MachineError(
                "the language detector `eldc` is not installed", where="languages: detect",
                fix="pip install eldc, or set `languages: none` in the data stage, or `language:` on each source",
            ) from error
        eldc.init()
        _detector = eldc
    return _detector
