"""From labelled texts to a classifier's folder, and back."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.core.progress import Silent
from gristmill.core.stage import StageContext
from gristmill.data.classifier.calibrate import Calibration
from gristmill.data.classifier.examples import Examples
from gristmill.data.classifier.features import Features
from gristmill.data.classifier.fit import Fitted
from gristmill.data.classifier.model import Classifier, column_name
from gristmill.data.classifier.stage import TrainClassifier
from gristmill.data.split import Split
from gristmill.recipe import load_recipe

WORDS = {"garden": ["rose", "soil", "seed", "bloom", "leaf", "water", "spade"],
         "kitchen": ["pan", "salt", "oven", "dough", "fry", "taste", "spoon"]}
SMALL = Features(buckets=1 << 12)


def texts(count=400, seed=0):
    """Rows of texts about gardens and kitchens, with some words of the other."""
    chosen, rows = random.Random(seed), []
    for number in range(count):
        label = chosen.choice(["garden"] * 3 + ["kitchen"])
        other = "kitchen" if label == "garden" else "garden"
        words = [chosen.choice(WORDS[label if chosen.random() < 0.9 else other] + ["the", "and", "of"])
                 for _ in range(12)]
        rows.append({"text": f"{' '.join(words)} {number}", "label": label, "author": f"a{number % 40}"})
    return rows


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(folder: Path, config: TrainClassifier, inputs=None):
    folder.mkdir(parents=True, exist_ok=True)
    context = StageContext("t/classifier@1", 7, folder, folder / "cache", inputs or {}, progress=Silent())
    return config.run(context)


def trained(folder: Path, rows=None, **changes):
    path = write(folder / "rows.jsonl", texts() if rows is None else rows)
    examples = Examples(path=str(path), label_column="label", group_column="author")
    run(folder / "out", TrainClassifier(examples=[examples], features=SMALL, **changes))
    return Classifier.open(folder / "out"), json.loads((folder / "out/report.json").read_text())


def test_it_learns_calibrates_and_says_why(tmp_path):
    model, report = trained(tmp_path)
    assert model.labels == ("garden", "kitchen")
    found = report["held_out"]["labels"]["kitchen"]
    assert found["f1"]["value"] > 0.9
    assert found["auc"]["low"] > 0.9
    assert report["held_out"]["calibration_error"] < 0.1
    assert {one["entry"] for one in report["telling"]["kitchen"][:5]} & set(WORDS["kitchen"])
    p = model.probabilities(["salt the dough in a pan", "a rose in the soil"])
    assert p.argmax(axis=1).tolist() == [1, 0]
    assert np.allclose(p.sum(axis=1), 1)
    assert sum(report["texts"]["train"].values()) > 250


def test_the_same_bytes_again(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trained(tmp_path / name)
    for name in ("classifier.safetensors", "classifier.json", "report.json"):
        assert (tmp_path / "a/out" / name).read_bytes() == (tmp_path / "b/out" / name).read_bytes()


def test_groups_are_never_split_and_labels_reach_every_part(tmp_path):
    rows = [{**row, "author": row["label"] + str(n % 3)} for n, row in enumerate(texts())]  # three groups a label
    _, report = trained(tmp_path, rows)
    assert report["groups"] == 6
    assert all(count > 0 for part in report["texts"].values() for count in part.values())


@pytest.fixture(scope="module")
def model():
    chosen = np.random.default_rng(0)
    return Classifier.of(["a", "b", "c"], False, Features(characters=[3], buckets=1 << 12),
                         Fitted(chosen.normal(0, 1, (3, 1 << 12)).astype(np.float32), chosen.normal(0, 1, 3), []))


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("ab c\nä中.")), max_size=8))
def test_a_text_gets_the_same_bits_in_any_batch(model, batch):
    together = model.probabilities(batch)
    assert together.tobytes() == b"".join(model.probabilities([text]).tobytes() for text in batch)


def test_sixteen_bits_are_close_to_the_weights(model):
    chosen = np.random.default_rng(0)
    weights = chosen.normal(0, 1, (3, 1 << 12)).astype(np.float32)
    assert np.abs(model.weights * model.steps[:, None] - weights).max() <= model.steps.max() * 0.51


def test_saving_and_opening(tmp_path, model):
    shaped = Classifier(model.labels, False, model.features, model.weights, model.steps, model.bias,
                        Calibration(np.array([2.0] * 3), np.array([0.1, 0.2, 0.3])))
    shaped.save(tmp_path)
    again = Classifier.open(tmp_path)
    assert again.probabilities(["some text"]).tobytes() == shaped.probabilities(["some text"]).tobytes()
    about = json.loads((tmp_path / "classifier.json").read_text())
    (tmp_path / "classifier.json").write_text(json.dumps({**about, "labels": ["a", "b"]}))
    with pytest.raises(UserError, match="do not fit"):
        Classifier.open(tmp_path)
    (tmp_path / "classifier.json").write_text(json.dumps({**about, "features_version": "hashed_ngrams_v9"}))
    with pytest.raises(UserError, match="another version"):
        Classifier.open(tmp_path)
    (tmp_path / "classifier.json").write_text(json.dumps(about))
    (tmp_path / "classifier.safetensors").write_bytes(b"\x08")
    with pytest.raises(UserError, match="cannot be read"):
        Classifier.open(tmp_path)


def test_several_labels_for_a_text(tmp_path):
    chosen, rows = random.Random(1), []
    for number in range(500):
        has = [label for label in WORDS if chosen.random() < 0.4]
        words = [chosen.choice(WORDS[label]) for label in has for _ in range(5)] + ["the", "and", str(number)]
        rows.append({"text": " ".join(words), "label": has, "author": str(number)})
    model, report = trained(tmp_path, rows, multi_label=True)
    p = model.probabilities(["the salt pan oven dough and rose soil leaf bloom", "and the"])
    assert (p[0] > 0.5).all()
    assert (p[1] < 0.5).all()
    assert report["held_out"]["accuracy"]["value"] > 0.9


def test_files_of_one_label_each_cut_into_passages(tmp_path):
    for label, words in WORDS.items():
        (tmp_path / label).mkdir()
        for number in range(12):
            chosen = random.Random(f"{label}{number}")
            body = "\n".join(" ".join(chosen.choices(words, k=8)) for _ in range(60))
            (tmp_path / label / f"{number}.txt").write_text(body)
    config = TrainClassifier(examples=[Examples(path=str(tmp_path / label), label=label, passage=200, limit=150)
                                       for label in WORDS], features=SMALL)
    found = run(tmp_path / "out", config)
    assert sum(found["texts"].values()) == 300
    assert found["accuracy"] > 0.95
    assert json.loads((tmp_path / "out/report.json").read_text())["groups"] <= 24


def test_tables_with_commas_and_tabs(tmp_path):
    rows = texts(300)
    (tmp_path / "a.csv").write_text("label,text\n" + "".join(f'{r["label"]},"{r["text"]}\nand, so"\n' for r in rows))
    (tmp_path / "b.tsv").write_text("label\ttext\n" + "".join(f'{r["label"]}\t"{r["text"]}\n' for r in rows))
    config = TrainClassifier(examples=[Examples(path=str(tmp_path / name), label_column="label")
                                       for name in ("a.csv", "b.tsv")], features=SMALL)
    assert sum(run(tmp_path / "out", config)["texts"].values()) == 600


def test_equal_texts_are_taken_once_and_contradictions_counted(tmp_path):
    rows = texts()
    more = [rows[0], {**rows[1], "label": "neither"}, {"text": "x", "label": ""}, {"n": 1}]
    _, report = trained(tmp_path, [*rows, *more])
    assert report["read"] == {"duplicates": 2, "duplicates_labelled_otherwise": 1, "read": 402, "unlabelled": 1,
                              "unreadable": 1}


@pytest.mark.parametrize(("rows", "said"), [
    ([{"text": f"t {n}", "label": "one"} for n in range(30)], "1 label"),
    ([{"text": f"t {n}", "label": "a" if n else "b"} for n in range(30)], "no text with the label 'b'"),
    ([{"text": f"t {n}", "label": ["a", "b"] if n % 2 else "a"} for n in range(30)], "several labels"),
    ([{"text": f"t {n}", "label": "a!" if n % 2 else "a?"} for n in range(30)], "names that differ"),
])
def test_what_cannot_be_learned_from_is_refused(tmp_path, rows, said):
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=said):
        run(tmp_path / "out", TrainClassifier(examples=[Examples(path=str(path), label_column="label")]))


@pytest.mark.parametrize("wrong", [
    {"path": "x"}, {"path": "x", "label": "a", "label_column": "b"}, {"label": "a"},
    {"path": "x", "label": "a", "limit": 0},
    {"path": "x", "label": "a", "passage": 5}, {"corpus": "c", "label_column": "b"},
])
def test_examples_that_make_no_sense(wrong):
    with pytest.raises(ValueError):
        Examples(**wrong)


def test_no_part_for_testing_is_allowed_but_none_for_calibration_is_not(tmp_path):
    _, report = trained(tmp_path, split=Split(valid=0.2, test=0.0))
    assert "held_out" not in report
    with pytest.raises(ValueError, match="calibrated"):
        TrainClassifier(examples=[Examples(path="x", label="a")], split=Split(valid=0.0, test=0.2))


def test_a_recipe_trains_on_a_corpus_and_files(tmp_path):
    recipe = load_recipe({"name": "x", "stages": {
        "corpus": {"uses": "data", "sources": [{"kind": "python_stdlib"}]},
        "quality": {"uses": "classifier", "examples": [{"corpus": "corpus", "label": "good"},
                                                       {"path": "web.jsonl", "label": "crawl", "limit": 100}]}}})
    assert recipe.stages["quality"].examples[0].corpus == "corpus"


def test_names_of_columns():
    assert [column_name(label) for label in ("Sci/Tech", " hate speech ", "2", "Größe")] == [
        "sci_tech", "hate_speech", "2", "größe"]
