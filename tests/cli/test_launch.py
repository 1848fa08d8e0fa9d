"""`gristmill launch`: what it prints, writes, refuses and submits."""

import json
import re
import shlex
from pathlib import Path

import pytest
import toy_stages
import yaml
from typer.testing import CliRunner

from gristmill.cli.app import app

runner = CliRunner()
DOCS = Path(__file__).parents[2] / "docs" / "launch.md"


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(toy_stages.RECIPE, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def launch(*words: str):
    return runner.invoke(app, ["launch", *words])


@pytest.mark.parametrize("on", ["torchrun", "slurm", "skypilot", "ray"])
def test_prints_the_text_and_writes_nothing(place, on):
    done = launch("toy.yaml", "--on", on, "--cpus", "4", "--", "--until", "base")
    assert done.exit_code == 0, done.output
    assert "run toy.yaml --runs-dir=runs --until base" in done.stdout
    assert "to submit it: " in done.stderr
    assert "to submit it" not in done.stdout
    assert [path.name for path in place.iterdir()] == ["toy.yaml"]


def test_write_and_json(place):
    done = launch("toy.yaml", "--on", "kubernetes", "--image", "r.example/g:1", "--write", "out/job.yaml", "--secret",
                  "HF_TOKEN", "--node-selector", "a/b=c", "--toleration", "gpu=yes:NoSchedule", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (place / "out" / "job.yaml").read_text() == said["text"]
    assert [path.name for path in (place / "out").iterdir()] == ["job.yaml"]
    assert (said["scheduler"], said["name"], said["processes"], said["submitted"], said["id"]) == (
        "kubernetes", "gristmill-toy", 1, False, None)
    assert said["command"][0] == "kubectl"
    assert any("toy-secrets must hold the keys HF_TOKEN" in note for note in said["notes"])
    configuration, main = yaml.safe_load_all(said["text"])
    assert configuration["data"]["recipe.yaml"] == (place / "toy.yaml").read_text()
    pod = main["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"a/b": "c"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}]


def test_submit(place, monkeypatch):
    (place / "bin").mkdir()
    (place / "bin" / "sbatch").write_text("#!/bin/bash\ncat > taken\necho 4711\n")
    (place / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}/bin:/bin")
    done = launch("toy.yaml", "--on", "slurm", "--submit")
    assert done.exit_code == 0, done.output
    assert done.stdout == "4711\n"
    assert "submitting: sbatch --parsable" in done.stderr
    assert (place / "taken").read_text().startswith("#!/usr/bin/env bash\n#SBATCH --job-name=gristmill-toy\n")
    said = json.loads(launch("toy.yaml", "--on", "slurm", "--submit", "--json").stdout)
    assert (said["submitted"], said["id"], said["answer"], said["exit_code"]) == (True, "4711", "4711", 0)
    monkeypatch.setenv("PATH", "/nowhere")
    refused = launch("toy.yaml", "--on", "slurm", "--submit")
    assert refused.exit_code == 3
    assert "the program sbatch is not there" in refused.stderr


def test_torchrun_s_exit_code_is_ours(place, monkeypatch):
    (place / "torchrun").write_text("#!/bin/bash\nexit 9\n")
    (place / "torchrun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    assert launch("toy.yaml", "--on", "torchrun", "--submit").exit_code == 9


@pytest.mark.parametrize(("words", "said"), [
    (["--nodes", "0"], "--nodes: 0 is too small"),
    (["--nodes", "2", "--gpus", "4", "--", "--parallel", "shard=4"], "shard=4 is for 4 processes, and this run has 8"),
    (["--", "--parallel", "shards=4"], "'shards' is no axis of a layout"),
    (["--namespace", "x"], "--namespace: slurm has no use for it"),
    (["--time", "soon"], "'soon' is not a time"), (["--memory", "lots"], "is not an amount of memory"),
    (["--env", "HF_TOKEN=x"], "--secret HF_TOKEN"), (["--env", "A"], "'A' has no '='"), (["--name", "A b"], "--name"),
    (["--", "--no-such-option"], "run options: "), (["--", "--runs-dir", "x"], "put it before the --"),
    (["--", "--until", "nothing"], "the recipe has no stage 'nothing'"),
    (["--", "--set", "stages.base.nonsense=1"], "nonsense"), (["--", "--help"], "--help is for you"),
])
def test_what_is_wrong_is_said_before_anything_waits_in_a_queue(place, words, said):
    done = launch("toy.yaml", "--on", "slurm", *words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "#SBATCH" not in done.stdout


def test_one_process_a_gpu_unless_told_otherwise(place):
    done = launch("toy.yaml", "--on", "slurm", "--nodes", "2", "--gpus", "8", "--", "--parallel", "shard=16")
    assert "#SBATCH --gpus-per-node=8\n" in done.stdout
    assert "--nnodes=2 --nproc-per-node=8" in done.stdout
    assert "a folder that all nodes share" in done.stderr
    alone = launch("toy.yaml", "--on", "slurm", "--gpus", "8", "--processes", "1")
    assert "#SBATCH --gpus-per-node=8\n" in alone.stdout
    assert "torchrun" not in alone.stdout
    assert "a folder that all nodes share" not in alone.stderr


def test_a_range_of_nodes_needs_a_layout_that_fits_each_of_them(place):
    words = ["toy.yaml", "--on", "torchrun", "--nodes", "4", "--min-nodes", "2", "--restarts", "9"]
    done = launch(*words)
    assert "--nnodes=2:4 " in done.stdout
    assert "each that is lost uses up one of --restarts 9, and the one that HEAD names must stay" in done.stderr
    fixed = launch(*words, "--", "--parallel", "shard=4")
    assert fixed.exit_code == 2
    assert "--parallel: shard=4 is for one number of processes, and with --min-nodes 2 it changes" in fixed.stderr
    more = launch(*words[:-2], "--min-nodes", "5")
    assert more.exit_code == 2
    assert "--min-nodes: 5 is more than --nodes 4" in more.stderr
    no_range = launch("toy.yaml", "--on", "torchrun", "--nodes", "2", "--min-nodes", "2", "--", "--parallel", "shard=2")
    assert no_range.exit_code == 0, no_range.output
    assert "uses up one of" not in no_range.stderr
    assert launch("toy.yaml", "--on", "slurm", "--nodes", "4", "--min-nodes", "2").exit_code == 2


def test_a_missing_recipe_is_named(place):
    done = launch("none.yaml", "--on", "slurm")
    assert done.exit_code == 2
    assert "none.yaml" in done.stderr


@pytest.mark.parametrize("line", re.findall(r"^gristmill (launch [^\n]+)$", DOCS.read_text("utf-8"), re.MULTILINE))
def test_the_page_s_commands_do_what_the_page_says(line, monkeypatch, tmp_path):
    monkeypatch.chdir(DOCS.parents[1])
    words = shlex.split(line)
    if "--write" in words:
        words[words.index("--write") + 1] = str(tmp_path / "written")
    done = runner.invoke(app, [word for word in words if word != "--submit"])
    assert done.exit_code == 0, done.output
    assert "--write" in words or done.stdout
