import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data import decontaminate as module
from gristmill.data.decontaminate import (
    Contamination,
    ContaminationReport,
    Decontaminate,
    EvaluationIndex,
    decontaminated,
)
from gristmill.data.dedup.words import mix
from gristmill.data.evaluation_texts import evaluation_texts


def sentence(count: int, seed: int) -> str:
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices("abcdefghij", k=6)) for _ in range(count))


def index(*texts: tuple[str, str, str], **options: Any) -> EvaluationIndex:
    return EvaluationIndex.build(texts, Decontaminate(**options))


def ngrams(words: list[str], n: int) -> set[tuple[str, ...]]:
    n = min(n, len(words))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


WORDS = st.lists(st.sampled_from("abcd"), max_size=14)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(st.lists(st.sampled_from("abcD,"), max_size=25), max_size=4),
       st.integers(2, 3), st.integers(3, 5), st.sampled_from([None, 0.5, 1.0]), st.integers(1, 3))
def test_what_is_found_equals_brute_force(
    items: list[list[str]], documents: list[list[str]], short: int, long: int, share: float | None, least: int
) -> None:
    options = Decontaminate(ngram=long, short_ngram=short, share=share, least_matches=least, least_words=2, common=None)
    searched = [(number, words) for number, words in enumerate(items) if len(words) >= 2]
    if not searched:
        with pytest.raises(UserError, match="no evaluation text"):
            EvaluationIndex.build([("t", str(n), " ".join(w)) for n, w in enumerate(items)], options)
        return
    built = EvaluationIndex.build([("t", str(n), " ".join(w)) for n, w in enumerate(items)], options)
    found = built.examine([" ".join(words) for words in documents])
    for words, contaminations in zip(documents, found, strict=True):
        folded = [word.lower() for word in words if word != ","]
        expected = {}
        for number, item in searched:
            here = {n: ngrams(folded, n) if len(folded) >= n else set() for n in range(2, 6)}
            matches = len(ngrams(item, long) & here[min(long, len(item))])
            part = len(ngrams(item, short) & here[min(short, len(item))]) / len(ngrams(item, short))
            if matches >= min(least, len(item) - min(long, len(item)) + 1) or (share is not None and part >= share):
                expected[str(number)] = (matches, part)
        assert {c.item: (c.matches, c.share) for c in contaminations} == expected
        text = " ".join(words)
        for c in contaminations:
            assert c.words in text
            assert all(0 <= begin < end <= len(text) for begin, end in c.spans)


def test_a_planted_question_is_found_whatever_its_case_and_punctuation() -> None:
    question = sentence(30, 1)
    document = f"{sentence(200, 2)}\n{question.upper().replace(' ', ', ')}?\n{sentence(100, 3)}"
    found = index(("quiz", "q1", question), ("quiz", "q2", sentence(30, 4))).examine([document, sentence(300, 5), ""])
    assert [len(one) for one in found] == [1, 0, 0]
    hit = found[0][0]
    assert (hit.task, hit.item, hit.matches, hit.share) == ("quiz", "q1", 18, 1.0)
    begin, end = hit.spans[0]
    assert document[begin:end] == hit.words == question.upper().replace(" ", ", ")


def test_twelve_words_in_a_row_are_no_match_and_thirteen_are() -> None:
    words = sentence(40, 6).split()
    built = index(("t", "1", " ".join(words)))
    assert built.examine([f"{sentence(50, 7)} {' '.join(words[5:17])} {sentence(50, 8)}"]) == [[]]
    assert len(built.examine([f"{sentence(50, 7)} {' '.join(words[5:18])} {sentence(50, 8)}"])[0]) == 1


def test_many_short_pieces_count_by_their_share() -> None:
    """No 13 words in a row, but nearly all of the text."""
    words = sentence(60, 9).split()
    pieces = " ".join(f"{' '.join(words[at : at + 12])} x{at}" for at in range(0, 48, 4))
    assert len(index(("t", "1", " ".join(words))).examine([pieces])[0]) == 1
    assert index(("t", "1", " ".join(words)), share=None).examine([pieces]) == [[]]


def test_a_short_text_is_matched_as_a_whole_and_a_very_short_one_never() -> None:
    built = index(("t", "short", "the seven colours of the rainbow"), ("t", "tiny", "true or false"))
    assert built.too_short == {"t": 1}
    document = "he named The Seven Colours of the rainbow, one by one; true or false"
    assert [c.item for c in built.examine([document])[0]] == ["short"]
    assert built.examine(["he named the seven colours of a rainbow"]) == [[]]


def test_the_instructions_of_a_task_do_not_count() -> None:
    instruction = sentence(20, 10)
    items = [("t", str(n), f"{instruction} {sentence(20, 100 + n)}") for n in range(12)]
    built = EvaluationIndex.build(items)
    assert built.ignored["t"] == 13 + 8
    assert built.examine([f"{instruction} and more"]) == [[]]
    assert [c.item for c in built.examine([f"so: {sentence(20, 103)}"])[0]] == ["3"]
    every = EvaluationIndex.build(items, Decontaminate(common=None))
    assert len(every.examine([f"{instruction} and more"])[0]) == 12
    many = [*items, *(("t", f"other {n}", sentence(20, 1000 + n)) for n in range(600))]
    assert len(EvaluationIndex.build(many).examine([f"{instruction} and more"])[0]) == 12


def test_the_claim_is_about_text_not_about_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash that sends everything to one number, nothing false is claimed."""
    def flat(words: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        each = np.maximum(words.counts - n + 1, np.minimum(words.counts, 1))
        return np.full(each.sum(), 7, np.uint64), np.concatenate(([0], np.cumsum(each)))

    monkeypatch.setattr(module, "grams", flat)
    monkeypatch.setattr(module, "ngram_hashes", lambda words, n: np.full(len(words) - n + 1, 7, np.uint64))
    question = sentence(20, 11)
    built = index(("t", "1", question), common=None)
    assert built.examine([sentence(60, 12)]) == [[]]
    assert len(built.examine([f"a {question} b"])[0]) == 1


@pytest.mark.parametrize("count", [300, 5000])
def test_the_filter_passes_as_many_strangers_as_theory_says(count: int) -> None:
    built = index(("t", "1", " ".join(str(n) for n in range(count + 12))), share=None)
    length = built.lengths[13]
    slots = len(length.filter)
    expected = 1 - (1 - 1 / slots) ** count
    strangers = mix(np.arange(1 << 20, (1 << 20) + 200_000, dtype=np.uint64))
    rate = length.filter[strangers >> length.shift].mean()
    # The chance of this sample, and of which slots the index itself fills.
    assert abs(rate - expected) < 4 * (expected / 200_000) ** 0.5 + 4 * expected * (expected / count) ** 0.5
    assert expected < 1 / module.FILTER_SLOTS
    assert len(length.find(strangers)[0]) == 0


def test_drop_cut_and_report() -> None:
    question = sentence(20, 13)
    document = f"{sentence(150, 14)}\n{question}\n{sentence(150, 15)}"
    built = index(("t", "1", question))
    found = built.examine([document])[0]
    assert decontaminated(document, found, Decontaminate()) is None
    assert decontaminated(document, [], Decontaminate()) == document
    assert decontaminated(document, found, Decontaminate(action="report")) == document
    left = decontaminated(document, found, Decontaminate(action="cut", margin=50))
    assert left is not None
    assert built.examine([left]) == [[]]
    assert not set(question.split()) & set(left.split())
    assert set(left.split()) <= set(document.split())
    assert left.startswith(sentence(140, 14))
    assert left.endswith(sentence(150, 15)[100:])
    assert decontaminated(document, found, Decontaminate(action="cut", margin=1000)) is None
    japanese = "日本語の文章" * 30
    part = Contamination("t", "1", 1, 1.0, ((60, 80),), japanese[60:80])
    left = decontaminated(japanese, [part], Decontaminate(action="cut", margin=0))
    assert left == f"{japanese[:60]}\n\n{japanese[80:]}"


def test_the_report_is_the_same_in_any_order() -> None:
    built = index(("a", "1", sentence(20, 16)), ("b", "x", sentence(20, 17)), ("b", "y", "too short"))
    documents = {"d1": sentence(20, 16), "d2": f"{sentence(20, 17)} {sentence(20, 16)}", "d3": "nothing of it"}
    reports = []
    for order in (["d1", "d2", "d3"], ["d3", "d2", "d1"]):
        report = ContaminationReport(built)
        for name, found in zip(order, built.examine([documents[name] for name in order]), strict=True):
            report.add(name, found)
        reports.append(json.loads(json.dumps(report.as_dict())))
    assert reports[0] == reports[1]
    tasks = reports[0]["tasks"]
    assert (tasks["a"]["texts_found"], tasks["a"]["documents"], tasks["a"]["share_found"]) == (1, 2, 1.0)
    assert (tasks["b"]["texts"], tasks["b"]["too_short"], tasks["b"]["documents"]) == (1, 1, 1)
    assert [hit["task"] for hit in reports[0]["documents"]["d2"]] == ["a", "b"]
    assert list(reports[0]["documents"]) == ["d1", "d2"]


@pytest.mark.parametrize(("field", "value"), [
    ("ngram", 7), ("share", 0.0), ("share", 1.5), ("least_matches", 0), ("margin", -1), ("least_left", 2),
    ("common", 0)])
def test_options_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Decontaminate(**{field: value})


def test_evaluation_texts_of_squad(tmp_path: Path) -> None:
    article = {"title": "t", "paragraphs": [{"context": "c c", "qas": [{"id": "x", "question": "q?", "answers": []}]}]}
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": [article, article]}))
    assert [text for _, _, text in evaluation_texts(tmp_path / "squad.json")] == ["c c", "q?"] * 2
    (tmp_path / "other.json").write_text(json.dumps({"data": [{"question": "a", "paragraphs": 3}, "b"]}))
    assert [text for _, _, text in evaluation_texts(tmp_path / "other.json")] == ["a", "b"]


def test_evaluation_texts_from_files(tmp_path: Path) -> None:
    lines = ['{"id": 7, "question": "a\u2028b", "n": 1}', "", '{"question": "c", "more": ["d"]}']
    (tmp_path / "quiz.jsonl").write_text("\n".join(lines), "utf-8")
    with gzip.open(tmp_path / "code.test.json.gz", "wt") as file:
        json.dump([{"task_id": "H/0", "prompt": "p", "test": "t"}], file)
    (tmp_path / "plain.txt").write_text("one\ntwo\r\n\r\nthree")
    (tmp_path / "ignored.bin").write_bytes(b"\0")
    assert list(evaluation_texts(tmp_path / "quiz.jsonl")) == [("quiz", "7", "a\u2028b"), ("quiz", "3", "c\nd")]
    assert list(evaluation_texts(tmp_path / "quiz.jsonl", task="q", fields=["question"]))[1] == ("q", "3", "c")
    assert [task for task, *_ in evaluation_texts(tmp_path)] == ["code", "plain", "plain", "quiz", "quiz"]
    assert list(evaluation_texts(tmp_path / "code.test.json.gz")) == [("code", "H/0", "H/0\np\nt")]
    (tmp_path / "bad.jsonl").write_text('{"a": "b"}\n{broken')
    for path, fields, message in (("bad.jsonl", None, "line 2"), ("quiz.jsonl", ["answer"], "no field answer"),
                                  ("ignored.bin", None, "jsonl"), ("none.txt", None, "cannot be read")):
        with pytest.raises(UserError, match=message):
            list(evaluation_texts(tmp_path / path, fields=fields))


def test_the_example_of_the_documentation_runs() -> None:
    page = (Path(__file__).parents[2] / "docs/data/dedup.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert [c.item for c in names["found"]] == ["q17"]
    assert names["report"].as_dict()["tasks"]["maths"]["documents"] == 1
    assert names["question"].upper() not in names["left"]
    assert names["left"].startswith("Before it. ")
