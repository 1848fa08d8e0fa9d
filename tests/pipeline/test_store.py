"""Names to artifacts."""

import json
import shutil

import pytest
import toy_stages

from gristmill.core.errors import UserError
from gristmill.pipeline.runner import run
from gristmill.pipeline.store import ArtifactStore, resolve_model


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    runs = tmp_path_factory.mktemp("store") / "runs"
    run(toy_stages.RECIPE, runs_dir=runs, report=False)
    run(toy_stages.RECIPE, runs_dir=runs, report=False, set=["stages.tuned.rate=0.5"])
    run({**toy_stages.RECIPE, "name": "other"}, runs_dir=runs, report=False, until="base")
    return ArtifactStore(runs)


def test_every_form_of_a_name(store, monkeypatch):
    assert store.resolve("toy/tuned@1").name == "toy/tuned@1"
    assert store.resolve("toy/tuned").name == "toy/tuned@2"
    assert store.resolve("tuned@1").name == "toy/tuned@1"
    assert store.resolve("base", run="other").name == "other/base@1"
    assert store.resolve(str(store.root / "toy/artifacts/base@1")).name == "toy/base@1"
    monkeypatch.chdir(store.root / "toy")
    assert store.resolve("artifacts/base@1").name == "toy/base@1"
    assert store.resolve("./artifacts/base@1").name == "toy/base@1"
    assert resolve_model("toy/base", store.root) == store.root / "toy/artifacts/base@1"


def test_the_newest_is_what_the_last_run_stands_on(store):
    run(toy_stages.RECIPE, runs_dir=store.root, report=False)
    assert store.resolve("toy/tuned").name == "toy/tuned@1"
    run(toy_stages.RECIPE, runs_dir=store.root, report=False, set=["stages.tuned.rate=0.5"])
    assert store.resolve("toy/tuned").name == "toy/tuned@2"


@pytest.mark.parametrize(
    ("text", "kinds", "words"),
    [
        (
            "toy/tund",
            (),
            "there is no artifact `toy/tund`; did you mean `toy/tuned@",
        ),
        ("toy/base@7", (), "there is no version 7 of `toy/base`\n  to mend it: versions: 1"),
        ("base", (), "`base` is ambiguous: it is in the runs other, toy\n  to mend it: write other/base"),
        ("toy/corpus", ("model",), "`toy/corpus` is a corpus, but a model is needed here"),
        ("", (), "an empty name"),
        ("../../etc/passwd@1", (), "there is no artifact"),
        ("toy/../../x@1", (), "there is no artifact"),
    ],
)
def test_what_does_not_resolve_says_what_exists(store, text, kinds, words):
    with pytest.raises(UserError) as error:
        store.resolve(text, kinds)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../x", "", "a" * 65, "/etc", "a\0b", "-x"])
def test_names_that_would_leave_the_store_are_refused(store, name):
    with pytest.raises(UserError):
        store.run_folder(name)
    with pytest.raises(UserError):
        store.folder("toy", name, 1)


def test_public_folders(store, tmp_path):
    model = tmp_path / "public"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "tokenizer.json").write_text("{}")
    assert store.resolve(str(model)).kind == "model"
    assert store.resolve(str(model), ("tokenizer",)).kind == "tokenizer"
    digest = store.resolve(str(model), ("model",)).digest
    (model / "config.json").write_text('{"a": 1}')
    assert store.resolve(str(model), ("model",)).digest != digest
    with pytest.raises(UserError, match=r"this folder is not a corpus \(documents\)"):
        store.resolve(str(model), ("corpus",))
    with pytest.raises(UserError, match="a file, not a folder"):
        store.resolve(str(model / "config.json"))


def test_a_run_is_no_artifact(store):
    with pytest.raises(UserError, match=r"folder of a whole run\n  to mend it: name one of its artifacts: toy/base@1"):
        store.resolve(str(store.root / "toy"))


def test_an_unfinished_folder_is_not_found_and_not_overwritten(tmp_path):
    runs = tmp_path / "runs"
    recipe = {"name": "t", "stages": {"corpus": {"uses": "toy_corpus"}}}
    (runs / "t/artifacts/corpus@1").mkdir(parents=True)
    assert run(recipe, runs_dir=runs, report=False)["corpus"].name == "t/corpus@2"


def test_a_record_that_is_damaged_says_how_to_mend_it(tmp_path):
    recipe = {"name": "t", "stages": {"corpus": {"uses": "toy_corpus"}}}
    first = run(recipe, runs_dir=tmp_path, report=False)["corpus"]
    (first.path / "artifact.json").write_bytes(b"")
    with pytest.raises(UserError, match=r"artifact.json: this is not valid JSON(?s:.*)or delete the folder"):
        run(recipe, runs_dir=tmp_path, report=False)
    shutil.rmtree(first.path)
    again = run(recipe, runs_dir=tmp_path, report=False)["corpus"]
    assert (again.name, again.digest) == (first.name, first.digest)


def test_an_empty_store_says_what_to_do(tmp_path):
    with pytest.raises(
        UserError, match=r"there is no model under .* yet: run a recipe, give --runs-dir, or name a folder"
    ):
        ArtifactStore(tmp_path).resolve("x/base@1", ("model",))


def test_hub_ids_come_from_the_local_cache_only(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot(name, **options):
        asked.append(options)
        if name == "org/there":
            return str(tmp_path)
        raise FileNotFoundError(name)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    (tmp_path / "config.json").write_text(json.dumps({}))
    store = ArtifactStore(tmp_path / "runs")
    assert store.resolve("org/there", ("model",)).path == tmp_path
    with pytest.raises(UserError, match=r"nothing is downloaded silently: run `hf download org/gone` first"):
        store.resolve("org/gone", ("model",))
    assert all(options == {"local_files_only": True} for options in asked)
