"""Trained models as signals and rules."""

import json

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from gristmill.core.errors import UserError
from gristmill.data.classifier.features import Features
from gristmill.data.classifier.fit import Fitted
from gristmill.data.classifier.model import Classifier
from gristmill.data.ngram.training import train
from gristmill.data.rules import spared
from gristmill.data.signals import Batch
from gristmill.data.signals.learned import (
    Learned,
    LearnedClassifier,
    LearnedNgram,
    definition,
    learned_values,
    open_learned,
)

TEXTS = ["a rose in the soil", "", "salt, and a PAN\nof dough"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    chosen = np.random.default_rng(0)
    for name in ("classifier", "word", "character"):
        (folder / name).mkdir()
    Classifier.of(["good", "Sci/Tech"], False, Features(buckets=1 << 12),
                  Fitted(chosen.normal(0, 1, (2, 1 << 12)).astype(np.float32), np.zeros(2), [])).save(
        folder / "classifier")
    for unit in ("word", "character"):
        model = train([["the rose and the pan"] * 2], unit, 3, min_count=1, keep_count=1, scratch=folder / f"{unit}-s")
        model.save(folder / unit)
    return folder


def test_columns_are_what_the_models_say(models):
    plain = {"kind": "classifier", "name": "quality", "model": str(models / "classifier"), "label": "good", "low": 0.5}
    signal = open_learned(plain)
    columns = signal.columns(Batch(TEXTS))
    assert signal.name == "quality"
    assert [f"quality.{value}" for value in columns] == learned_values(plain) == ["quality.good", "quality.sci_tech"]
    expected = Classifier.open(models / "classifier").probabilities(TEXTS)
    assert np.array_equal(np.stack(list(columns.values()), axis=1), expected)
    assert signal(TEXTS[2])["good"] == expected[2, 0]
    assert json.loads(signal.__doc__ or "")["kind"] == "classifier_v1"


@pytest.mark.parametrize("unit", ["word", "character"])
def test_an_ngram_model_gives_three_finite_values(models, unit):
    plain = {"kind": "ngram", "name": "prose", "model": str(models / unit)}
    columns = open_learned(plain).columns(Batch(TEXTS))
    assert [f"prose.{value}" for value in columns] == learned_values(plain)
    assert all(np.isfinite(column).all() for column in columns.values())
    assert columns["unknown"].tolist() == pytest.approx([3 / 6, 0, 4 / 7] if unit == "word" else [3 / 19, 0, 8 / 25])


def test_a_model_is_opened_once(models):
    plain = {"kind": "ngram", "name": "prose", "model": str(models / "word"), "value": "perplexity"}
    assert open_learned(plain) is open_learned({**plain, "high": 100.0})


def test_words_are_split_once_for_all_models(models, monkeypatch):
    from gristmill.data.signals import learned

    calls, split = [], learned.split_words
    monkeypatch.setattr(learned, "split_words", lambda *a, **k: calls.append(1) or split(*a, **k))
    batch = Batch(TEXTS)
    for kind, name in (("classifier", "classifier"), ("ngram", "word")):
        open_learned({"kind": kind, "name": name, "model": str(models / name)}).columns(batch)
    assert calls == [1]


def test_rules_of_bounds():
    quality = LearnedClassifier(name="quality", model="q", label="Sci/Tech", low=0.2, high=0.9, languages=["en"])
    assert [(rule.name, rule.signal, rule.low, rule.high) for rule in quality.rules()] == [
        ("min_quality", "quality.sci_tech", 0.2, None), ("max_quality", "quality.sci_tech", None, 0.9)]
    assert {rule.languages for rule in quality.rules()} == {("en",)}
    assert spared(quality.rules()[0], "de")
    assert not spared(quality.rules()[0], "en")
    prose = LearnedNgram(name="prose", model="p", high=500.0)
    assert [(rule.name, rule.signal) for rule in prose.rules()] == [("max_prose", "prose.perplexity")]
    assert not spared(prose.rules()[0], "de")
    assert LearnedNgram(name="prose", model="p").rules() == []


@pytest.mark.parametrize("wrong", [
    {"kind": "classifier", "name": "q", "model": "m", "low": 0.5},
    {"kind": "classifier", "name": "q", "model": "m", "label": "a", "low": 1.5},
    {"kind": "classifier", "name": "Q!", "model": "m"},
    {"kind": "classifier", "name": "quality_v1", "model": "m"},
    {"kind": "ngram", "name": "p", "model": "m", "low": 5.0, "high": 4.0},
    {"kind": "ngram", "name": "p", "model": "m", "value": "loss"},
    {"kind": "tree", "name": "p", "model": "m"},
])
def test_configs_that_make_no_sense(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(Learned).validate_python(wrong)


def test_wrong_folders_and_labels(models, tmp_path):
    with pytest.raises(UserError, match="no classifier in this folder"):
        open_learned({"kind": "classifier", "name": "q", "model": str(tmp_path)})
    with pytest.raises(UserError, match="no n-gram model"):
        learned_values({"kind": "ngram", "name": "q", "model": str(models / "classifier")})
    with pytest.raises(UserError, match="no label 'bad'"):
        open_learned({"kind": "classifier", "name": "q", "model": str(models / "classifier"), "label": "bad"})


def test_the_definition_changes_with_the_model(models, tmp_path):
    plain = {"kind": "classifier", "name": "q", "model": str(models / "classifier")}
    assert definition(plain).startswith("classifier_v1 ")
    for path in (models / "classifier").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert definition({**plain, "model": str(tmp_path)}) == definition(plain)
    about = json.loads((tmp_path / "classifier.json").read_text())
    (tmp_path / "classifier.json").write_text(json.dumps({**about, "labels": ["good", "tech"]}))
    assert definition({**plain, "model": str(tmp_path)}) != definition(plain)
