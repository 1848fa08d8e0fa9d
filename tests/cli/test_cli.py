"""The command line: output, exit codes, speed of its start."""

import json
import subprocess
import sys

import pytest
import toy_stages
import yaml
from typer.testing import CliRunner

from gristmill.cli.app import VERBS, app
from gristmill.pipeline.status import run_status

runner = CliRunner()


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_stages.RECIPE, sort_keys=False))
    return path


@pytest.fixture
def call(runs):
    def do(*arguments):
        verb, *rest = map(str, arguments)
        extra = (
            ["--runs-dir", str(runs)] if verb in ("run", "status", "report", "inspect", "generate", "evaluate") else []
        )
        return runner.invoke(app, [verb, *rest, *extra])

    return do


def test_run_status_inspect(call, recipe, runs):
    ran = call("run", recipe, "--no-report", "--json")
    assert ran.exit_code == 0, ran.output
    status = json.loads(ran.stdout.splitlines()[-1])
    assert status == run_status(runs / "toy")
    assert set(status) == {"run", "stages"}
    assert set(status["stages"][0]) == {"name", "kind", "version", "state", "path", "metrics", "seconds"}
    assert "base: running toy_model -> toy/base@1" in ran.stderr
    assert json.loads(call("status", "toy", "--json").stdout) == status
    assert json.loads(call("status", recipe, "--json").stdout) == status
    assert json.loads(call("status", runs / "toy", "--json").stdout) == status
    assert "tuned      toy_model      done   @1" in call("status", "toy").stdout
    inspected = call("inspect", "toy/scores", "--verify")
    assert "└─ toy/corpus@1  corpus" in inspected.stdout
    assert "payload verified" in inspected.stdout
    assert json.loads(call("inspect", "toy/scores@1", "--json").stdout)["artifact"] == "toy/scores@1"


def test_set_until_and_dry_run(call, recipe, runs):
    dry = call("run", recipe, "--dry-run", "--until", "base", "--set", "stages.base.budget.steps=9", "--json")
    assert json.loads(dry.stdout)["plan"] == [
        {"name": "corpus", "kind": "toy_corpus", "action": "run", "why": "new", "version": 1},
        {"name": "tokenizer", "kind": "toy_tokenizer", "action": "decide", "why": "depends on corpus", "version": None},
        {
            "name": "base",
            "kind": "toy_model",
            "action": "decide",
            "why": "depends on corpus, tokenizer",
            "version": None,
        },
    ]
    assert not runs.exists()
    done = call("run", recipe, "--no-report", "--until", "base", "--set", "stages.base.budget.steps=9")
    assert done.exit_code == 0
    assert len((runs / "toy/artifacts/base@1/trace.jsonl").read_text().splitlines()) == 9


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (("run", "nowhere.yaml"), 2, "error: nowhere.yaml: this recipe does not exist"),
    (("status", "nothing"), 2, "error: there is no run `nothing`"),
    (("inspect", "no/thing@1"), 2, "error: there is no artifact `no/thing@1`"),
    (("report", "nothing"), 2, "error: there is no run `nothing`"),
    (("generate", "no/thing@1"), 2, "error: --prompt: no prompt"),
    (("generate", "no/thing@1", "--prompt", "x"), 2, "error: there is no artifact `no/thing@1`"),
    (("generate", "m", "--prompt", "x", "--max-tokens", "0"), 2, "--max-tokens"),
    (("evaluate", "m"), 2, "give either a corpus or a text"),
    (("evaluate", "m", "--text", "nowhere.txt"), 2, "nowhere.txt: there is no such file"),
    (("evaluate", "m", "--corpus", "no/corpus", "--split", "tests"), 2, "choose train, valid or test"),
    (("fly",), 2, "No such command"),
])
def test_what_is_wrong_is_said_without_a_traceback(call, arguments, code, words):
    result = call(*arguments)
    assert result.exit_code == code
    assert words in result.output
    assert "Traceback" not in result.output


def test_recipe_problems_stand_on_stderr_each_on_its_line(call, recipe):
    recipe.write_text(recipe.read_text().replace("corpus: corpus", "corpus: corpse"))
    result = call("run", recipe)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "stages.tokenizer.corpus: there is no stage `corpse`; did you mean `corpus`?" in result.stderr
    assert "stages.base.corpus: there is no stage `corpse`" in result.stderr


@pytest.mark.parametrize(("mode", "code"), [("fail", 70), ("disk_full", 3), ("write_hole", 2)])
def test_exit_codes_tell_who_can_mend_it(call, recipe, mode, code):
    result = call("run", recipe, "--no-report", "--set", f"stages.base.mode={mode}")
    assert result.exit_code == code
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(call, recipe, monkeypatch):
    monkeypatch.setenv("GRISTMILL_DEBUG", "1")
    result = call("run", recipe, "--no-report", "--set", "stages.base.mode=fail")
    assert isinstance(result.exception.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches(verb):
    result = runner.invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    if verb not in ("serve", "chat"):
        assert "Example:" in result.output
    assert "-h, --help" in result.output


def test_doctor_and_version_and_schema_print_json(call, tmp_path):
    assert json.loads(call("doctor", "--json").stdout)["checks"]
    assert json.loads(call("version", "--json").stdout)["libraries"]["python"]
    assert runner.invoke(app, ["--version"]).stdout.startswith("gristmill ")
    out = tmp_path / "schema.json"
    assert call("schema", out).exit_code == 0
    assert "toy_model" in json.loads(out.read_text())["$defs"]


def test_the_start_imports_nothing_heavy():
    code = ("import sys, gristmill.cli.app; "
            "heavy = {'torch', 'pydantic', 'numpy', 'fastapi', 'yaml', 'nicegui', 'pyarrow'} & set(sys.modules); "
            "print(sorted(heavy))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    done = subprocess.run([sys.executable, "-m", "gristmill", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "run" in done.stdout


def test_errors_leave_a_process_with_their_code(tmp_path):
    done = subprocess.run([sys.executable, "-m", "gristmill", "run", "nowhere.yaml"], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == ("error: nowhere.yaml: this recipe does not exist\n  to mend it: check the path\n")
