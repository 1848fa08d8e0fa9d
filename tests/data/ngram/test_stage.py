"""The stage: sampling, held-out text, percentiles, the same bytes again."""

import json
import random

import numpy as np
import pytest

from gristmill.core.errors import UserError
from gristmill.core.progress import Silent
from gristmill.core.stage import StageContext
from gristmill.data.ngram.model import NgramModel
from gristmill.data.ngram.stage import Texts, TrainNgram
from gristmill.recipe import load_recipe

SEA = ["the", "old", "man", "went", "down", "to", "the", "sea", "and", "was", "calm"]


def write(path, count=200, seed=0, words=SEA):
    chosen = random.Random(seed)
    path.write_text("".join(json.dumps({"text": " ".join(chosen.choices(words, k=40))}) + "\n" for _ in range(count)))
    return str(path)


def run(folder, **config):
    folder.mkdir(parents=True, exist_ok=True)
    context = StageContext("t/ngram@1", 3, folder, folder / "cache", {}, progress=Silent())
    found = TrainNgram(**config).run(context)
    return found, json.loads((folder / "report.json").read_text())


def test_strange_text_lies_in_the_tail(tmp_path):
    good = write(tmp_path / "good.jsonl")
    odd = write(tmp_path / "odd.jsonl", seed=1, words=["buy", "now", "the", "sea"])
    found, report = run(tmp_path / "out", texts=[Texts(path=good)], reference=[Texts(path=odd)], order=3)
    assert found["train"]["texts"] + found["held_out"]["texts"] == 200
    assert 0 < found["held_out"]["texts"] < 30
    assert report["reference"]["perplexity"] > 2 * report["held_out"]["perplexity"]
    cuts = report["reference"]["percentiles"]["perplexity"]
    assert report["thresholds"]["perplexity"] == {"head": cuts["33"], "tail": cuts["67"]}
    model = NgramModel.open(tmp_path / "out")
    values = [model.measure([json.loads(line)["text"]]).perplexity[0] for line in (tmp_path / "odd.jsonl").open()]
    assert np.mean(np.array(values) <= cuts["33"]) == pytest.approx(0.33, abs=0.02)


def test_the_same_bytes_again(tmp_path):
    texts = [Texts(path=write(tmp_path / "good.jsonl"))]
    for name in ("a", "b"):
        run(tmp_path / name, texts=texts, order=3)
    for name in ("keys.npy", "starts.npy", "bits.npy", "weights.npy", "ngram.json", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_sample_is_of_whole_texts_and_no_larger_than_asked(tmp_path):
    texts = [Texts(path=write(tmp_path / "good.jsonl"))]
    some, _ = run(tmp_path / "some", texts=texts, sample_mb=0.01)
    every, _ = run(tmp_path / "every", texts=texts)
    assert 9_000 < some["train"]["bytes"] <= 10_000
    assert some["train"]["texts"] < every["train"]["texts"]


def test_passages_and_text_files(tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books/one.txt").write_text(" ".join(f"It was night {number}." for number in range(500)))
    texts = [Texts(path=str(tmp_path / "books"), passage=500)]
    found, _ = run(tmp_path / "out", texts=texts, unit="character", order=4)
    assert found["train"]["texts"] + found["held_out"]["texts"] >= 15


def test_no_text_is_an_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(UserError, match="no text to train on"):
        run(tmp_path / "out", texts=[Texts(path=str(tmp_path / "empty.jsonl"))])


@pytest.mark.parametrize("wrong", [{"order": 1}, {"min_count": 0}, {"keep_count": 0}, {"held_out": 1.0}, {"texts": []}])
def test_what_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainNgram(**{"texts": [Texts(path="x")], **wrong})


def test_a_recipe_names_a_corpus():
    recipe = load_recipe({"name": "x", "stages": {
        "corpus": {"uses": "data", "sources": [{"kind": "python_stdlib"}]},
        "prose": {"uses": "ngram", "texts": [{"corpus": "corpus"}],
                  "reference": [{"corpus": "corpus", "split": "valid"}]}}})
    assert recipe.stages["prose"].texts[0].corpus == "corpus"
