"""`gristmill plan goal`: over a matrix of answers, an advice whose recipe can be planned; one runs to its end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gristmill.cli import plan_goal
from gristmill.cli.app import app
from gristmill.core.stage import Runtime
from gristmill.pipeline.runner import run
from gristmill.planning.advice import advise
from gristmill.planning.goal import WAYS, Goal
from gristmill.planning.tables import from_files

COSTS = ("time_s", "device_hours", "cost_usd", "energy_kwh", "co2e_kg")
STAGES = {"data", "tokenizer", "pretrain", "finetune", "align", "import", "evaluate", "export"}


def call(*arguments: object, typed: str | None = None) -> str:
    done = CliRunner().invoke(app, ["plan", "goal", *map(str, arguments)], input=typed)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["plan", "goal", *map(str, arguments)])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    return done.output.replace("\n", " ")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("Grain is milled between two stones. " * 200)
    return folder


MATRIX = list(itertools.product(
    ("chat", "write", "classify", "learn"), (("special", 400.0), ("general", 0.0), ("code", 30.0)), (0, 300, 20_000),
    (("private", 0.0), ("private", 500.0), ("own", 1e5))))


@pytest.mark.parametrize("purpose", ["chat", "write", "classify", "learn"])
def test_every_advice_has_a_recipe_that_can_be_planned(purpose, tmp_path):
    tables = from_files()
    seen = set()
    for _, (domain, text_mb), examples, (privacy, budget) in (row for row in MATRIX if row[0] == purpose):
        goal = Goal(purpose=purpose, domain=domain, text_mb=text_mb, examples=examples, privacy=privacy,
                    budget_usd=budget)
        advice = advise(goal, tables)
        way = advice.decision.way
        assert way != "lora"
        seen.add(way)
        (tmp_path / "my-model.yaml").write_text(advice.recipe)
        done = run(tmp_path / "my-model.yaml", runs_dir=tmp_path / "runs", dry_run=True)
        assert {step.kind for step in done.plan.wanted} <= STAGES
        assert not (tmp_path / "runs").exists()
        for name in COSTS:
            value = advice.cost[name]
            assert value["low"] <= value["expected"] <= value["high"]
            assert (value["expected"] > 0) == (way != "prompt" and not (name == "cost_usd" and budget == 0)), name
        assert advice.missing
        assert advice.risks
        assert ("lora" in "".join(advice.notes).lower()) == any("would suit best" in n for n in advice.notes)
        if budget:
            assert advice.cost["cost_usd"]["expected"] <= budget
    assert {"learn": {"scratch"}, "chat": {"prompt", "scratch"}, "write": {"continue", "scratch"},
            "classify": {"finetune", "scratch"}}[purpose] <= seen


def test_the_schema_is_stable():
    found = json.loads(call("--purpose", "chat", "--budget-usd", 500, "--text-mb", 300, "--domain", "special",
                            "--json"))
    assert set(found) == {
        "goal", "assumed_answers", "way", "title", "reasons", "doubts", "votes", "other_ways", "model", "hardware",
        "training_tokens", "training_flops", *COSTS, "missing", "risks", "notes", "assumptions", "recipe",
        "recipe_path"}
    assert found["way"] == "continue"
    assert {row["way"] for row in found["other_ways"]} == set(WAYS) - {"continue"}
    assert set(found["assumed_answers"]) == {"languages", "quality", "examples", "days", "privacy"}
    assert Path(found["recipe_path"]).read_text() == found["recipe"]


def test_data_at_hand_goes_into_the_recipe(texts):
    Path("c.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 60)
    found = json.loads(call("--purpose", "classify", "--domain", "special", "--budget-usd", 100, "--texts", texts,
                            "--conversations", "c.jsonl", "--out", "mine.yaml", "--json"))
    assert found["goal"]["examples"] == 60
    assert found["goal"]["text_mb"] == pytest.approx(0.0072)
    assert found["way"] == "finetune"
    assert f"path: {texts}" in found["recipe"]
    assert "path: c.jsonl" in found["recipe"]
    assert "name: mine" in found["recipe"]
    assert not any("(--texts)" in m or "(--conversations)" in m for m in found["missing"])


def test_it_says_so_where_adapters_would_suit_best():
    text = " ".join(call("--purpose", "chat", "--domain", "special", "--examples", 300, "--quality", "best").split())
    assert "low-rank adapters (LoRA) would suit best" in text


def test_with_a_terminal_it_asks_and_asks_again(monkeypatch):
    class Terminal:
        def isatty(self) -> bool:
            return True

    answers = iter(["fly", "learn", "code", "en", "try", "0", "0", "0", "1", "own"])
    monkeypatch.setattr(plan_goal.sys, "stdin", Terminal())
    monkeypatch.setattr(plan_goal.typer, "prompt", lambda text, default: next(answers))
    monkeypatch.setattr(plan_goal.sys.stdin, "isatty", lambda: True, raising=False)
    said: list[str] = []
    monkeypatch.setattr(plan_goal.typer, "echo", lambda text, err=False: said.append(text))
    nothing = dict.fromkeys(("purpose", "domain", "languages", "quality", "text_mb", "examples", "budget_usd", "days",
                             "privacy", "texts", "conversations", "model", "memory_gb", "region", "hardware_file",
                             "html"))
    plan_goal.command(**nothing, out=Path("asked.yaml"), force=False, hardware="h100-sxm", questions=True,
                      as_json=False)
    assert "'fly' is no answer" in said[0]
    assert "train a model from scratch" in said[1]
    assert "nobody said" not in said[1]
    assert next(answers, None) is None
    assert Path("asked.yaml").is_file()


def test_another_file_is_not_written_over():
    call("--purpose", "learn")
    call("--purpose", "learn")  # the same again is no loss
    assert "another file lies here" in refused("--purpose", "chat")
    call("--purpose", "chat", "--force")
    assert "uses: import" in Path("my-model.yaml").read_text()


def test_the_page(tmp_path):
    call("--purpose", "write", "--text-mb", 500, "--budget-usd", 300, "--html", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text("utf-8")
    for words in ("What it takes", "Still missing", "Risks", "The other ways", "The recipe", "uses: pretrain"):
        assert words in page


@pytest.mark.parametrize(("arguments", "says"), [
    (("--purpose", "fly"), "choose one of chat, write, classify, learn"),
    (("--days", "-1"), "no positive number"),
    (("--languages", "klingon"), "no ISO 639-1 code"),
    (("--budget-usd", "100", "--hardware", "abacus"), "abacus"),
    (("--purpose", "learn", "--region", "ATLANTIS"), "ATLANTIS"),
    (("--texts", "nowhere"), "there is no text here"),
    (("--conversations", "nowhere.jsonl"), "this file is missing"),
    (("--memory-gb", "0"), "no positive number"),
    (("--out", "a b.yaml"), "no name for a recipe"),
    (("--out", "a.txt"), "no name for a recipe"),
])
def test_nonsense_is_refused(arguments, says):
    assert says in refused(*arguments)
    assert not list(Path().glob("*.yaml"))


@pytest.mark.slow
def test_an_advised_recipe_runs_to_its_end(tmp_path):
    """The way that needs no network: from scratch, on a small text of one's own."""
    texts = tmp_path / "texts"
    texts.mkdir()
    library = Path(json.__file__).parents[1]
    for path in sorted(library.glob("[a-d]*.py")):
        (texts / path.name).write_bytes(path.read_bytes())
    found = json.loads(call("--purpose", "learn", "--domain", "code", "--texts", texts, "--out", "small.yaml",
                            "--json"))
    assert found["way"] == "scratch"
    done = run(tmp_path / "small.yaml", runs_dir=tmp_path / "runs", report=False, set=[
        "stages.base.model.depth=1", "stages.base.budget.tokens=20000", "stages.base.prompts=[]",
        "stages.base.training.evaluations=1", "stages.scores.max_bytes=4000",
        "stages.scores.samples=1", "stages.scores.prompts=2"], runtime=Runtime(device="cpu", threads=1))
    assert (done.folder / "artifacts").is_dir()
    release = next((done.folder / "artifacts").glob("release@*"))
    assert list(release.rglob("*.safetensors"))
