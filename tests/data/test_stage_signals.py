"""The data stage beyond rules over built-in signals: personal data, licences, models, bounds of one's own."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.hashing import digest_folder
from gristmill.core.stage import Runtime, StageContext
from gristmill.data import units
from gristmill.data.classifier.model import column_name
from gristmill.data.classifier.stage import TrainClassifier
from gristmill.data.documents import iterate_documents
from gristmill.data.signals import FURTHER, further_signal
from gristmill.data.stage import Data

STORY = "The keeper of the lighthouse went down to the water and looked for the boat that had left in the morning. "


def stage(folder: Path, **options: Any) -> Data:
    return TypeAdapter(Data).validate_python({
        "sources": [{"kind": "files", "path": str(folder)}], "languages": "none", "split": {"valid": 0, "test": 0},
        "filter": {"preset": "none"}, "dedup": {"near": None}, **options})


def run(work: Path, data: Data, workers: int = 1, **inputs: Path) -> dict[str, dict[str, Any]]:
    work.mkdir()
    context = StageContext(
        name="t/corpus@1", seed=1, work=work, cache=work / "cache", runtime=Runtime(workers=workers),
        inputs={name: Artifact(path, {"kind": "x", "name": name, "digest": name, "version": 1})
                for name, path in inputs.items()})
    data.run(context)
    return {document["id"]: document for document in iterate_documents(work, "train")}


def rejects(work: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((work / "rejects").glob("*")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "letter.txt").write_text(f"{STORY}Write to anna.keeper@lighthouse.org or call +49 30 901820.")
    (folder / "list.txt").write_text("\n".join(f"person{n}@mail{n}.org" for n in range(9)))
    (folder / "story.txt").write_text(STORY * 3)
    (folder / "free.txt").write_text(f"{STORY}This text is licensed under CC BY-SA 4.0.")
    return folder


def test_personal_data_is_masked_counted_and_dropped(texts: Path, tmp_path: Path) -> None:
    found = run(tmp_path / "mask", stage(texts, pii={"action": "mask"}))
    assert found["files/letter.txt"]["metadata"]["pii"] == {"email": 1, "phone": 1}
    assert found["files/letter.txt"]["text"] == f"{STORY}Write to <EMAIL> or call <PHONE>.\n"
    assert found["files/story.txt"]["text"] == (STORY * 3).strip() + "\n"
    assert "pii" not in found["files/story.txt"]["metadata"]
    found = run(tmp_path / "drop", stage(texts, pii={"action": "drop", "least": 5}))
    assert "files/list.txt" not in found
    [gone] = rejects(tmp_path / "drop")
    assert (gone["id"], gone["reason"], gone["detail"]) == ("files/list.txt", "pii", "9 email")
    assert "@" not in gone["text"]  # personal data is not kept among the rejects either
    funnel = json.loads((tmp_path / "drop/funnel.json").read_text())
    assert [(phase["phase"], phase["documents"]) for phase in funnel["phases"]][:2] == [("collect", 4), ("pii", 3)]
    found = run(tmp_path / "none", stage(texts))
    assert "anna.keeper@lighthouse.org" in found["files/letter.txt"]["text"]


def test_licences_that_texts_state_are_taken_over_where_none_is_known(texts: Path, tmp_path: Path) -> None:
    found = run(tmp_path / "a", stage(texts, stated_licenses=True))
    assert found["files/free.txt"]["metadata"]["license"] == "CC-BY-SA-4.0"
    assert found["files/story.txt"]["metadata"]["license"] == "unknown"
    source = {"kind": "files", "path": str(texts), "license": "MIT"}
    found = run(tmp_path / "b", stage(texts, stated_licenses=True, sources=[source]))
    assert {document["metadata"]["license"] for document in found.values()} == {"MIT"}


def test_bounds_of_ones_own_on_any_signal(texts: Path, tmp_path: Path) -> None:
    data = stage(texts, signals=["license_v1", "pii_v1"], filter={
        "preset": "none", "bounds": {"pii_v1.email": {"high": 0}, "license_v1.stated": {"low": 1}}})
    assert list(run(tmp_path / "a", data)) == ["files/free.txt"]
    gone = {row["id"].removeprefix("files/"): (row["reason"], row["detail"]) for row in rejects(tmp_path / "a")}
    assert gone["letter.txt"] == ("pii_v1.email", "pii_v1.email is 1, above 0")
    assert gone["story.txt"] == ("license_v1.stated", "license_v1.stated is 0, below 1")
    signals = json.loads((tmp_path / "a/signals.json").read_text())
    assert signals["pii_v1.email"]["rules"] == [{"rule": "pii_v1.email", "low": None, "high": 0.0}]
    with pytest.raises(UserError, match=r"no signal 'pii_v1.mail'[^;]*pii_v1.email"):
        run(tmp_path / "b", stage(texts, signals=["pii_v1"], filter={"bounds": {"pii_v1.mail": {"high": 0}}}))
    with pytest.raises(UserError, match="measured only if `signals` names them"):
        run(tmp_path / "c", stage(texts, filter={"bounds": {"pii_v1.email": {"high": 0}}}))


def test_values_are_recorded_in_the_metadata(texts: Path, tmp_path: Path) -> None:
    (texts / "program.py").write_text("x = 1\n" * 9)
    found = run(tmp_path / "a", stage(texts, record=["length_v1.words", "c4_v1.sentences"]))
    assert found["files/story.txt"]["metadata"]["length_v1.words"] == len((STORY * 3).split())
    assert found["files/story.txt"]["metadata"]["c4_v1.sentences"] == 3.0
    assert "c4_v1.sentences" not in found["files/program.py"]["metadata"]  # measured of prose only
    with pytest.raises(UserError, match=r"no signal 'length_v1\.word'"):
        run(tmp_path / "b", stage(texts, record=["length_v1.word"]))


@pytest.mark.parametrize("name", FURTHER)
def test_every_further_signal_can_be_asked_for(name: str, texts: Path, tmp_path: Path) -> None:
    assert further_signal(name).name == name
    run(tmp_path / "out", stage(texts, signals=[name]))
    signals = json.loads((tmp_path / "out/signals.json").read_text())
    assert any(value.startswith(f"{name}.") for value in signals)


def test_a_trained_classifier_judges_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for n in range(30):
        (texts / f"good{n:02d}.txt").write_text(f"{STORY}The {n}th boat was never seen again by the keeper. " * 3)
        (texts / f"spam{n:02d}.txt").write_text(f"Win cash now {n}! Click here to claim your free prize today. " * 5)
    folder = trained(tmp_path)
    data = stage(texts, learned=[{"kind": "classifier", "name": "quality", "model": "judge", "label": "good",
                                  "low": 0.5}])
    monkeypatch.setattr(units, "UNIT_BYTES", 2000)
    found = run(tmp_path / "out", data, judge=folder)
    assert len(found) == 30
    assert all("good" in id for id in found)
    assert {row["reason"] for row in rejects(tmp_path / "out")} == {"min_quality"}
    signals = json.loads((tmp_path / "out/signals.json").read_text())
    assert f"quality.{column_name('good')}" in signals
    run(tmp_path / "two", data, workers=2, judge=folder)
    assert digest_folder(tmp_path / "out/documents") == digest_folder(tmp_path / "two/documents")


def trained(folder: Path) -> Path:
    """A classifier of good text and spam."""
    rows = [{"text": f"{STORY} Number {n}.", "label": "good"} for n in range(60)]
    rows += [{"text": f"Win {n} cash! Click here for a free prize.", "label": "spam"} for n in range(60)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    work = folder / "judge"
    work.mkdir()
    examples = {"path": str(folder / "examples.jsonl"), "label_column": "label"}
    TypeAdapter(TrainClassifier).validate_python({"examples": [examples]}).run(
        StageContext(name="t/judge@1", seed=1, work=work, cache=work / "cache"))
    return work
