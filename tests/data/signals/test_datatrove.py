"""datatrove's definitions: equal to what datatrove 0.10.1 said of hand-made documents (recorded in
datatrove_golden.json), and, where its Python is named, to what it says now of real ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.core.errors import MachineError
from gristmill.data.decide import Filter, first_broken
from gristmill.data.rules import COMPAT_PRESETS
from gristmill.data.signals import Batch
from gristmill.data.signals.compat.datatrove import datatrove_c4_text, datatrove_signals
from gristmill.data.signals.compat.spacy_words import SpacyWords
from tests.data.signals.documents import MADE, real_documents
from tests.shared import HANG

HERE = Path(__file__).parent
PYTHON = os.environ.get("GRISTMILL_DATATROVE_PYTHON", "")
NAMES = {
    "gopher_short_doc": "min_words", "gopher_long_doc": "max_words",
    "gopher_below_avg_threshold": "min_mean_word_length", "gopher_above_avg_threshold": "max_mean_word_length",
    "gopher_too_many_hashes": "max_hash_words", "gopher_too_many_ellipsis": "max_ellipsis_words",
    "gopher_too_many_bullets": "max_bullet_lines", "gopher_too_many_end_ellipsis": "max_ellipsis_lines",
    "gopher_below_alpha_threshold": "min_alphabetic_words", "gopher_enough_stop_words": "min_stop_words",
    "dup_para_frac": "max_duplicate_paragraphs", "dup_para_char_frac": "max_duplicate_paragraph_characters",
    "dup_line_frac": "max_duplicate_lines", "dup_line_char_frac": "max_duplicate_line_characters",
    **{f"top_{n}_gram": f"max_top_{n}gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"max_duplicate_{n}gram" for n in range(5, 11)},
    "lorem_ipsum": "max_lorem_ipsum", "curly_bracket": "max_curly_brackets", "too_few_sentences": "min_sentences",
    "line_punct_ratio": "min_punctuated_lines", "short_line_ratio": "max_short_lines",
    "char_dup_ratio": "max_duplicate_line_characters_fineweb", "list_ratio": "max_newline_words",
}
"""datatrove's reason -> our rule."""
READS = {"quality": "quality", "repetition": "repetition", "c4": "c4", "c4_any_end": "c4", "fineweb": "fineweb"}


class Recorded:
    """The words and sentences that were recorded for each text."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        self._words = {row["text"]: row["words"] for row in found}
        self._sentences = {line: count for row in found for line, count in row["sentences"].items()}

    def words(self, text: str) -> list[str]:
        return self._words[text]

    def sentences(self, text: str) -> int:
        return self._sentences[text]


def check(found: list[dict[str, Any]], splitter: Any) -> None:
    texts = [row["text"] for row in found]
    batch = Batch(texts)
    columns = {f"{signal.name}.{value}": column for signal in datatrove_signals(splitter)
               for value, column in signal.columns(batch).items()}
    rules = COMPAT_PRESETS["datatrove"]["fineweb"]
    terminal = COMPAT_PRESETS["datatrove"]["c4"]
    for place, row in enumerate(found):
        signals = {name: float(column[place]) for name, column in columns.items()}
        for name, value in row["values"].items():
            assert signals[name] == pytest.approx(value, rel=1e-12, abs=0), (name, texts[place][:80])
        for filter_, reason in row["reasons"].items():
            if reason in ("empty", "crash"):
                assert not texts[place].strip()
                continue
            chosen = terminal if filter_ == "c4" else rules
            broken = first_broken(signals, [rule for rule in chosen.values()
                                            if rule.signal.startswith(f"datatrove_{READS[filter_]}_v1.")], "en")
            assert (broken[0].name if broken else None) == (NAMES[reason] if reason else None), (filter_, place)
        for filter_, text in row["edited"].items():
            assert datatrove_c4_text(texts[place], splitter, terminal=filter_ == "c4").text == text


def golden() -> list[dict[str, Any]]:
    return json.loads((HERE / "datatrove_golden.json").read_text("utf-8"))


def test_equal_to_what_datatrove_said_of_hand_made_documents() -> None:
    found = golden()
    assert [row["text"] for row in found] == MADE, "make the golden file again: see datatrove_oracle.py"
    reasons = {reason for row in found for reason in row["reasons"].values()}
    assert len(reasons) >= 20
    assert reasons >= {"top_2_gram", "dup_line_frac", "lorem_ipsum", "curly_bracket", "too_few_sentences",
                       "line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio", None}
    check(found, Recorded(found))


def test_a_batch_says_the_same_as_each_text_alone() -> None:
    found = golden()
    for signal in datatrove_signals(Recorded(found)):
        together = signal.columns(Batch([row["text"] for row in found]))
        for place, row in enumerate(found):
            assert signal(row["text"]) == {name: float(column[place]) for name, column in together.items()}


def test_ngrams_of_other_words_with_the_same_letters_are_duplicates() -> None:
    class Spaces:
        def words(self, text: str) -> list[str]:
            return text.split()

        def sentences(self, text: str) -> int:
            return 1

    repetition = datatrove_signals(Spaces())[1]
    text = "ab c d e f a bc d e f"  # the 5-grams are joined without spaces: both read abcdef
    assert repetition(text)["duplicate_5gram"] == 6 / len(text)
    assert repetition("ab c d e f x bc d e f")["duplicate_5gram"] == 0


def test_without_spacy_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(MachineError, match=r"pip install spacy"):
        SpacyWords()


def test_a_preset_that_the_tool_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"datatrove has no preset 'strict'; choose from .*fineweb"):
        Filter(preset="strict", compat="datatrove")


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="GRISTMILL_DATATROVE_PYTHON does not name a Python that has datatrove and spaCy")
def test_equal_to_datatrove_on_real_documents(tmp_path: Path) -> None:
    documents = real_documents(60)
    (tmp_path / "documents.json").write_text(json.dumps(documents), "utf-8")
    for script, target in (("datatrove_oracle.py", "theirs.json"), ("spacy_words_oracle.py", "spacy.json")):
        subprocess.run([PYTHON, HERE / script, tmp_path / "documents.json", tmp_path / target], check=True,
                       env={**os.environ, "PYTHONPATH": str(HERE.parents[2])}, timeout=HANG)
    theirs = json.loads((tmp_path / "theirs.json").read_text("utf-8"))
    check(theirs, Recorded(theirs))
    ours = json.loads((tmp_path / "spacy.json").read_text("utf-8"))
    for row, mine in zip(theirs, ours, strict=True):
        assert mine["words"] == row["words"]
        assert mine["sentences"] == row["sentences"]
    assert np.mean([row["reasons"]["quality"] is None for row in theirs]) > 0.5
