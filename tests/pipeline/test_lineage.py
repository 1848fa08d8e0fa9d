"""From an artifact back to its sources."""

import shutil

import pytest
import toy_stages

from gristmill.core.errors import UserError
from gristmill.pipeline.lineage import lineage, tree_lines, verify
from gristmill.pipeline.runner import run
from gristmill.pipeline.store import ArtifactStore

SOURCES = ["stages.corpus.sources=[{kind: files, path: texts}]"]


@pytest.fixture
def result(runs):
    return run(toy_stages.RECIPE, runs_dir=runs, report=False, set=SOURCES)


def test_the_tree_ends_at_the_sources(result):
    value = lineage(result["scores"])
    assert [n["name"] for n in value["nodes"]] == [
        "toy/scores@1",
        "toy/base@1",
        "toy/tuned@1",
        "toy/corpus@1",
        "toy/tokenizer@1",
    ]
    assert {(e["from"].split("#")[0], e["to"].split("#")[0]) for e in value["edges"]} == {
        ("toy/base@1", "toy/scores@1"), ("toy/tuned@1", "toy/scores@1"), ("toy/base@1", "toy/tuned@1"),
        ("toy/corpus@1", "toy/base@1"), ("toy/tokenizer@1", "toy/base@1"), ("toy/corpus@1", "toy/tokenizer@1")}
    assert value["sources"] == [{"artifact": "toy/corpus@1", "kind": "files", "path": "texts"}]
    digests = {n["name"]: n["digest"][:12] for n in value["nodes"]}
    assert tree_lines(value) == [
        f"toy/scores@1  evaluation  {digests['toy/scores@1']}",
        f"├─ toy/base@1  model  {digests['toy/base@1']}",
        f"│  ├─ toy/corpus@1  corpus  {digests['toy/corpus@1']}",
        "│  │  └─ source  kind: files, path: texts",
        f"│  └─ toy/tokenizer@1  tokenizer  {digests['toy/tokenizer@1']}",
        f"│     └─ toy/corpus@1  corpus  {digests['toy/corpus@1']}  (above)",
        f"└─ toy/tuned@1  model  {digests['toy/tuned@1']}",
        f"   └─ toy/base@1  model  {digests['toy/base@1']}  (above)",
    ]


def test_it_survives_a_move_of_all_runs(result, runs, tmp_path):
    runs.rename(tmp_path / "moved")
    value = lineage(ArtifactStore(tmp_path / "moved").resolve("toy/scores"))
    assert {n["state"] for n in value["nodes"]} == {"present"}


def test_what_is_gone_or_changed_is_told(result, tmp_path):
    shutil.rmtree(result["tokenizer"].path)
    assert any("toy/tokenizer@1" in line and "[gone]" in line for line in tree_lines(lineage(result["scores"])))


def test_an_outside_folder_that_changed_is_told(runs, tmp_path):
    outside = tmp_path / "public"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    made = run(
        {"name": "x", "stages": {"m": {"uses": "toy_model", "start": str(outside)}}}, runs_dir=runs, report=False
    )["m"]
    assert lineage(made)["sources"][0]["kind"] == "external folder"
    (outside / "config.json").write_text('{"a": 1}')
    assert [n["state"] for n in lineage(made)["nodes"]] == ["present", "changed"]


def test_a_changed_payload_is_found(result):
    verify(result["base"])
    (result["base"].path / "config.json").write_text("other")
    with pytest.raises(UserError, match="the payload has changed since it was made"):
        verify(result["base"])
