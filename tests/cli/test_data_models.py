"""`gristmill data classifier` and `gristmill data ngram`."""

import json
import random

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gristmill.cli.app import app

WORDS = {"good": ["rose", "soil", "seed", "bloom", "leaf"], "crawl": ["buy", "now", "click", "cheap", "price"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, chosen = tmp_path_factory.mktemp("models"), random.Random(0)
    rows = []
    for label, words in WORDS.items():
        here = [{"text": f"{' '.join(chosen.choices(words, k=12))} {n}", "label": label} for n in range(120)]
        (folder / f"{label}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in here))
        rows += here
    (folder / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(*arguments):
    found = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert found.exit_code == 0, (found.output, found.exception)
    return found.stdout


def test_a_classifier_from_files_of_each_label_applied(folder):
    said = run("classifier", "train", folder / "q", "--label", f"good={folder / 'good.jsonl'}", "--label",
               f"crawl={folder / 'crawl.jsonl'}")
    assert "precision" in said
    assert "accuracy 1.000" in said
    counts = json.loads(run("classifier", "apply", folder / "q", folder / "both.jsonl", folder / "scored.parquet",
                            "--name", "quality", "--json"))
    rows = pq.read_table(folder / "scored.parquet").to_pylist()
    assert counts["read"] == len(rows) == 240
    assert all((row["quality.good"] > 0.5) == (row["label"] == "good") for row in rows)
    assert counts["means"]["quality.good"] == pytest.approx(sum(row["quality.good"] for row in rows) / 240)


def test_labels_in_rows_and_a_learned_list(folder):
    report = json.loads(run("classifier", "train", folder / "r", "--examples", folder / "both.jsonl", "--json"))
    assert report["labels"] == ["crawl", "good"]
    run("classifier", "words", folder / "bad.txt", "--of", "crawl", "--examples", folder / "both.jsonl")
    assert set((folder / "bad.txt").read_text().split()) == set(WORDS["crawl"])
    found = json.loads(run("classifier", "words", folder / "bad.json", "--of", "crawl", "--examples",
                           folder / "both.jsonl", "--json"))
    assert found["entries"] == len(json.loads((folder / "bad.json").read_text())) == 5


def test_an_ngram_model_and_what_it_says(folder):
    said = run("ngram", "train", folder / "p", folder / "good.jsonl", "--reference", folder / "crawl.jsonl")
    assert "head up to" in said
    counts = json.loads(run("ngram", "apply", folder / "p", folder / "both.jsonl", folder / "surprise.jsonl", "--name",
                            "prose", "--json"))
    rows = [json.loads(line) for line in (folder / "surprise.jsonl").read_text().splitlines()]
    assert set(counts["means"]) == {"prose.perplexity", "prose.bits_per_byte", "prose.unknown"}
    assert max(r["prose.bits_per_byte"] for r in rows if r["label"] == "good") < min(
        r["prose.bits_per_byte"] for r in rows if r["label"] == "crawl")


@pytest.mark.parametrize(("arguments", "said"), [
    (["classifier", "train", "{}/x"], "there are no examples"),
    (["classifier", "train", "{}/x", "--label", "good"], "which label"),
    (["classifier", "train", "{}/x", "--examples", "{}/both.jsonl", "--passage", "5"], "at least 100"),
    (["classifier", "words", "{}/x.csv", "--of", "crawl", "--examples", "{}/both.jsonl"], "neither .txt nor .json"),
    (["classifier", "words", "{}/x.txt", "--of", "bad", "--examples", "{}/both.jsonl"], "labels are crawl, good"),
    (["ngram", "train", "{}/x", "{}/both.jsonl", "--unit", "byte"], "unit"),
    (["ngram", "apply", "{}", "{}/both.jsonl", "{}/x.jsonl"], "no n-gram model in this folder"),
])
def test_mistakes_are_said(folder, arguments, said):
    found = CliRunner().invoke(app, ["data", *(one.format(folder) for one in arguments)])
    assert found.exit_code != 0
    assert said in f"{found.output} {found.exception}"
