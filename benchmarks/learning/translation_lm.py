"""Translation LM: our XLM beside transformers' on translated command descriptions, English and Spanish. Half of the
rows are translations, half one language alone.

    python -m benchmarks.learning.translation_lm
"""

from __future__ import annotations

import gzip
from pathlib import Path

from benchmarks.learning import masked_lm
from benchmarks.learning.compare import Contest, Document, main
from gristmill.objectives.pretraining import TranslationLanguageModelling

LANGUAGES = ["en", "es"]
LONGEST = 40
"""Characters on either side of a pair."""


def translations(path: Path) -> list[list[Document]]:
    """A gzipped file: a pair a line, a tab between."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    pairs = [pair for pair in pairs if len(pair) == 2 and all(0 < len(side) <= LONGEST for side in pair)]
    return [[Document(side, language, str(number)) for side, language in zip(pair, LANGUAGES, strict=True)]
            for number, pair in enumerate(pairs)]


CONTEST = Contest(
    kind="translation_lm", objective=TranslationLanguageModelling(languages=LANGUAGES, masking=masked_lm.MASKING),
    their_loss=masked_lm.their_loss, optimizer=masked_lm.OPTIMIZER,
    spec={"family": "xlm", **masked_lm.SIZES, "options": {"languages": LANGUAGES}}, context=32, batch=64,
    vocabulary=512, special=masked_lm.CONTEST.special, text="translation/tldr_en-es.tsv.gz", read=translations)

if __name__ == "__main__":
    main(CONTEST)
