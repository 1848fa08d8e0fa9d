"""One model on one text: equal to the stage's number, beside xz, and JSON-ready."""

import json
from pathlib import Path

import pytest

from gristmill.core.errors import UserError
from gristmill.evaluation import Evaluate, evaluate_model
from gristmill.generation import LanguageModel
from tests.evaluation.conftest import module, payload


@pytest.fixture(scope="module")
def model(world):
    return LanguageModel.open(world.artifacts["base"].path, device="cpu")


def test_a_corpus_gives_the_same_number_as_the_stage(world, model, tmp_path):
    stage = Evaluate(models=["base"], corpus="corpus", tasks=["perplexity"], max_bytes=5000, seed=3)
    stage.run(world.context(tmp_path))
    row = payload(tmp_path)["results.json"]["tasks"][0]["rows"][0]
    found = evaluate_model(model, corpus=world.artifacts["corpus"], max_bytes=5000, seed=3)
    assert found["bits_per_byte"]["value"] == pytest.approx(row["value"], rel=1e-6)
    assert found["tokens"] == row["tokens"]
    assert found["bits_per_byte"]["low"] < found["bits_per_byte"]["value"] < found["bits_per_byte"]["high"]
    assert 0.2 < found["baselines"]["xz"]["value"] < 8
    assert found["comparison"]["from"] == "xz"
    json.dumps(found, allow_nan=False)


def test_a_single_text_has_no_interval(model):
    found = evaluate_model(model, text=module(500))
    assert found["documents"] == 1
    assert found["bits_per_byte"]["low"] is None
    assert "comparison" not in found


def test_a_file_is_read_and_cut_at_a_whole_character(model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ä" * 100, encoding="utf-8")
    found = evaluate_model(model, text=path, max_bytes=51)
    assert (found["bytes"], found["whole"]) == (50, False)


@pytest.mark.parametrize(("arguments", "message"), [
    ({}, "either a corpus or a text"), ({"text": "a", "corpus": "b"}, "either a corpus or a text"),
    ({"text": ""}, "no text to evaluate"), ({"text": Path("/nowhere/at/all.txt")}, "no such file"),
])
def test_nothing_to_read_is_refused(model, arguments, message):
    with pytest.raises(UserError, match=message):
        evaluate_model(model, **arguments)


def test_bytes_that_are_no_text_are_refused(model, tmp_path):
    path = tmp_path / "image.bin"
    path.write_bytes(b"ab\xff\xfe")
    with pytest.raises(UserError, match="byte 2 is not UTF-8"):
        evaluate_model(model, text=path)
