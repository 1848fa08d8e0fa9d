"""The whole stage on three tiny models: the shape of its results, resuming, and what it refuses."""

import json
import math

import numpy as np
import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.errors import InternalError, UserError
from gristmill.core.stage import Runtime
from gristmill.data.documents import Document, row, write_shard
from gristmill.evaluation import Evaluate
from gristmill.evaluation.tasks import Docstring, Perplexity, PythonFunctions, Samples
from gristmill.evaluation.tasks.perplexity import held_out_text
from tests.evaluation.conftest import finish, payload

MODELS = ["base", "assistant", "aligned"]
SMALL = {"max_bytes": 6000, "prompts": 6, "samples": 2}
TASKS = [Perplexity(), PythonFunctions(max_tokens=12), Docstring(max_tokens=6), "forgetting", Samples(max_tokens=5)]


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    work = tmp_path_factory.mktemp("scores")
    metrics = Evaluate(models=MODELS, corpus="corpus", tasks=TASKS, **SMALL).run(world.context(work))
    return work, metrics


def tables(work):
    return {(t["task"], t["metric"]): t for t in payload(work)["results.json"]["tasks"]}


def test_results_have_the_promised_shape(done):
    work, _ = done
    results = payload(work)["results.json"]
    assert [m["name"] for m in results["models"]] == MODELS
    assert all(m["parameters"] > 10_000 for m in results["models"])
    assert [m["prompting"] for m in results["models"]] == ["plain", "chat", "chat"]
    for table in results["tasks"]:
        assert {"task", "metric", "unit", "better", "split", "n", "rows", "baselines", "comparisons"} <= table.keys()
        assert [r["model"] for r in table["rows"]] == MODELS
        for entry in table["rows"]:
            assert entry["low"] <= entry["value"] <= entry["high"]
        for c in table["comparisons"]:
            assert c["low"] <= c["difference"] <= c["high"]
            assert 0 < c["p_value"] <= 1
    assert len(results["samples"]) == 4 + 4 + 2
    assert all(list(s["outputs"]) == MODELS for s in results["samples"])
    assert len(results["forgetting"]) == 2


def test_untrained_models_are_as_bad_as_chance_and_the_baselines_are_not(done):
    work, _ = done
    table = tables(work)["perplexity", "bits per byte"]
    for entry in table["rows"]:
        assert entry["bits_per_token"] == pytest.approx(math.log2(400), abs=0.5)
    baselines = {b["name"]: b["value"] for b in table["baselines"]}
    assert baselines["5-gram"] < baselines["xz"]
    assert baselines["5-gram"] < min(r["value"] for r in table["rows"])
    against = [c for c in table["comparisons"] if (c["from"], c["to"]) == ("5-gram", "base")]
    assert against[0]["difference"] > 0


def test_gains_say_plainly_where_nothing_was_gained(done):
    work, metrics = done
    gains = payload(work)["results.json"]["gains"]
    assert [(g["stage"], g["model"], g["against"]) for g in gains] == [
        ("pretrain", "base", "5-gram"), ("finetune", "assistant", "base"), ("align", "aligned", "assistant")]
    assert not gains[0]["improved"]
    assert "is NOT shown to be better than 5-gram" in gains[0]["text"]
    assert metrics["improved"] == {g["model"]: g["improved"] for g in gains}
    assert "matched_length" in gains[2]


def test_forgetting_is_the_difference_in_bits_per_byte(done):
    work, _ = done
    rows = {r["model"]: r["value"] for r in tables(work)["perplexity", "bits per byte"]["rows"]}
    for entry in payload(work)["results.json"]["forgetting"]:
        assert entry["difference"] == pytest.approx(rows[entry["model"]] - rows["base"], abs=1e-12)


def test_answers_are_kept_with_their_verdicts(done):
    work, _ = done
    kept = payload(work)["samples.json"]["python_functions"]
    assert {len(a) for a in kept["answers"].values()} == {12}
    assert all(a["tokens"] <= 12 for answers in kept["answers"].values() for a in answers)
    share = tables(work)["python_functions", "parses"]["rows"][0]["value"]
    assert share == np.mean([a["accepted"] and a["ended"] for a in kept["answers"]["base"]])


class Stop(Exception):
    pass


class StopsAt:
    """A progress that fails when the n-th bar is opened."""

    def __init__(self, n):
        self.left = n

    def say(self, text):
        pass

    def bar(self, label, total, unit="items"):
        from gristmill.core.progress import Silent

        self.left -= 1
        if self.left < 0:
            raise Stop
        return Silent().bar(label, total, unit)


@pytest.mark.parametrize("point", [1, 4, 9])
def test_an_interrupted_evaluation_continues_to_the_same_bytes(done, world, tmp_path, point):
    stage = Evaluate(models=MODELS, corpus="corpus", tasks=TASKS, **SMALL)
    with pytest.raises(Stop):
        stage.run(world.context(tmp_path, progress=StopsAt(point)))
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / ".scratch").iterdir()}
    assert len(kept) == point
    assert stage.run(world.context(tmp_path)) == done[1]
    for name in ("results.json", "samples.json"):
        assert (tmp_path / name).read_bytes() == (done[0] / name).read_bytes()
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_results_do_not_depend_on_which_other_tasks_run(done, world, tmp_path):
    Evaluate(models=MODELS, corpus="corpus", tasks=["perplexity"], **SMALL).run(world.context(tmp_path))
    assert payload(tmp_path)["results.json"]["tasks"] == [
        tables(done[0])["perplexity", m] for m in ("bits per byte", "next-token accuracy")]


def test_text_without_python_leaves_its_tasks_out_and_says_so(world, tmp_path):
    folder = tmp_path / "prose@1"
    rows = [row(Document(f"p/{n}", f"It is a truth {n} universally acknowledged.\n" * 5, "p"), split="test")
            for n in range(4)]
    write_shard(folder / "documents" / "test-00000.parquet", rows)
    context = world.context(tmp_path / "work", "base")
    context.inputs = {**context.inputs, "prose": finish(folder, "corpus", "prose", "data", {})}
    Evaluate(models=["base"], corpus="prose").run(context)
    results = payload(tmp_path / "work")["results.json"]
    assert [s["task"] for s in results["skipped"]] == ["python_functions", "docstring", "forgetting"]
    assert {t["task"] for t in results["tasks"]} == {"perplexity"}
    with pytest.raises(UserError, match="0 documented Python functions"):
        Evaluate(models=["base"], corpus="prose", tasks=["docstring"]).run(context)


def test_a_corpus_without_test_split_is_refused(world, tmp_path):
    folder = tmp_path / "train-only@1"
    write_shard(folder / "documents" / "train-00000.parquet", [row(Document("a", "text", "p"), split="train")])
    context = world.context(tmp_path / "work", "base")
    context.inputs = {**context.inputs, "c": finish(folder, "corpus", "c", "data", {})}
    with pytest.raises(UserError, match="no test documents"):
        Evaluate(models=["base"], corpus="c", tasks=["perplexity"]).run(context)


def test_prompts_longer_than_the_context_are_refused_with_the_way_out(world, tmp_path):
    with pytest.raises(UserError, match="none leaves 120 tokens for the answer"):
        Evaluate(models=["base"], corpus="corpus", tasks=[PythonFunctions(max_tokens=120)]).run(
            world.context(tmp_path))


def test_weights_that_are_not_numbers_name_the_model(world, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken@1"
    shutil.copytree(world.artifacts["base"].path, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, folder / "model.safetensors")
    record = json.loads((folder / "artifact.json").read_text()) | {"name": "tiny/broken", "digest": "other"}
    (folder / "artifact.json").write_text(json.dumps(record))
    for task in (Perplexity(), PythonFunctions(max_tokens=4)):
        context = world.context(tmp_path / task.kind, "corpus")
        context.inputs = {**context.inputs, "broken": Artifact.open(folder)}
        with pytest.raises(InternalError, match="broken"):
            Evaluate(models=["broken"], corpus="corpus", tasks=[task], prompts=3).run(context)


@pytest.mark.parametrize(("settings", "message"), [
    ({"models": []}, "models: name at least one"), ({"models": ["a", "a"]}, "stands twice"),
    ({"models": ["a"], "tasks": ["bleu"]}, "choose from"), ({"models": ["a"], "prompts": 0}, "at least 1"),
    ({"models": ["a"], "tasks": ["docstring", Docstring()]}, "the same task stands twice"),
    ({"models": ["a"], "prompting": {"b": "chat"}}, "none of the models"),
])
def test_wrong_settings_are_refused_before_any_work(settings, message):
    with pytest.raises(ValueError, match=message):
        Evaluate(corpus="c", **settings)


def test_bf16_gives_nearly_the_same_bits_and_writes_answers_too(done, world, tmp_path):
    context = world.context(tmp_path)
    context.runtime = Runtime(device="cpu", threads=1, precision="bf16")
    tasks = [Perplexity(baselines=[]), PythonFunctions(max_tokens=4)]
    Evaluate(models=MODELS, corpus="corpus", tasks=tasks, **SMALL).run(context)
    for here, there in zip(tables(tmp_path)["perplexity", "bits per byte"]["rows"],
                           tables(done[0])["perplexity", "bits per byte"]["rows"], strict=True):
        assert here["value"] == pytest.approx(there["value"], rel=5e-3)


def test_a_model_can_be_asked_otherwise_than_its_record_suggests(world, tmp_path):
    stage = Evaluate(models=["base", "aligned"], corpus="corpus", tasks=[Samples(max_tokens=2)],
                     prompting={"aligned": "plain"})
    stage.run(world.context(tmp_path))
    assert [m["prompting"] for m in payload(tmp_path)["results.json"]["models"]] == ["plain", "plain"]


def test_held_out_text_is_drawn_by_hash_and_comes_near_its_limit(world):
    path = world.artifacts["corpus"].path
    for limit in (1, 2000, 6000, 10**9):
        found = held_out_text(path, "test", limit, 3)
        assert found.ids == [i for i in held_out_text(path, "test", 10**9, 3).ids if i in found.ids]
        longest = max(len(t.encode()) for t in found.texts)
        assert found.whole or limit == 1 or abs(found.sizes.sum() - limit) <= longest
    assert held_out_text(path, "test", 10**9, 3).whole
    assert held_out_text(path, "test", 1, 3).sizes.size == 1
    assert held_out_text(path, "test", 2000, 3).ids != held_out_text(path, "test", 2000, 4).ids
