"""From raw text to a served folder in one command, again for nothing, and through any number of kills."""

import json
import random
import time
from pathlib import Path

import pytest
import torch

import gristmill
from gristmill.core.files import read_json
from tests.processes import Started, command, run_command, start
from tests.shared import wait_for

STAGES = ["corpus", "tokenizer", "base", "assistant", "aligned", "scores", "release"]


def digests(run: Path) -> dict[str, str]:
    return {p.parent.name: json.loads(p.read_text())["digest"] for p in sorted(run.glob("artifacts/*/artifact.json"))}


@pytest.mark.slow
def test_status_lists_every_stage_as_done(tiny_run):
    status = json.loads(run_command("status", tiny_run, "--json").stdout)
    assert status["run"] == "tiny"
    assert [s["name"] for s in status["stages"]] == STAGES
    assert {s["state"] for s in status["stages"]} == {"done"}
    assert set(status["stages"][0]) == {"name", "kind", "version", "state", "path", "metrics", "seconds"}


@pytest.mark.slow
def test_running_again_makes_nothing_and_a_change_makes_only_what_depends_on_it(tiny_run, tiny_recipe):
    before = digests(tiny_run)
    again = run_command("run", tiny_recipe, "--runs-dir", tiny_run.parent)
    assert digests(tiny_run) == before
    assert "reuse" in (again.stdout + again.stderr)
    run_command("run", tiny_recipe, "--runs-dir", tiny_run.parent, "--set", "stages.assistant.steps=5",
            "--until", "assistant")
    after = digests(tiny_run)
    assert {k: v for k, v in after.items() if k in before} == before
    assert set(after) - set(before) == {"assistant@2"}


@pytest.mark.slow
def test_the_release_is_what_the_run_made(tiny_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_run / "artifacts" / "release@1"
    lm = gristmill.load(folder)
    public = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    names = AutoTokenizer.from_pretrained(folder)
    text = "def main(argv):\n    return"
    ids = torch.tensor([lm.tokenizer.encode_prompt(text)])
    assert names(text)["input_ids"] == ids[0].tolist()
    ours, theirs = lm.logits(ids), public(ids).logits
    assert float(((ours - theirs).abs().max() / theirs.abs().max()).detach()) < 1e-4
    greedy = public.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)[0, ids.shape[1]:].tolist()
    assert lm.generate(text, max_tokens=20, greedy=True).token_ids == greedy
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "bits per byte" in card


@pytest.mark.slow
def test_lineage_goes_back_to_the_source(tiny_run):
    shown = run_command("inspect", tiny_run / "artifacts" / "release@1")
    for name in ("tiny/corpus@1", "tiny/tokenizer@1", "tiny/base@1", "tiny/assistant@1", "texts.jsonl"):
        assert name in shown.stdout, shown.stdout


def killed_run(recipe: Path, runs: Path, seed: int, kills: int) -> int:
    """Start, kill -9 in the middle of a stage that chance chooses, start again, each time at a later stage; returns how
    often it was really killed under way."""
    chance, hit = random.Random(seed), 0

    def at_work(process: Started, at: int) -> bool:
        """Has it come to this stage, or beyond?"""
        found = read_json(runs / "tiny" / "run.json") if (runs / "tiny" / "run.json").exists() else {"pid": None}
        return found["pid"] == process.pid and found["stage"] in STAGES[at:]

    for at in sorted(chance.choices(range(len(STAGES)), k=kills)):
        process = start(command, "run", str(recipe), "--runs-dir", str(runs), session=True)
        wait_for(lambda at=at, process=process: at_work(process, at) or not process.alive())
        time.sleep(chance.random() / 2)
        hit += process.kill_session()
        process.ended()
    run_command("run", recipe, "--runs-dir", runs)
    return hit


@pytest.mark.slow
def test_kills_change_no_bit_of_any_artifact(tiny_run, tiny_recipe, tmp_path):
    """Three kills at random moments; thirty more in `make verify`."""
    assert killed_run(tiny_recipe, tmp_path, seed=1, kills=3) >= 1
    expected = {name: digest for name, digest in digests(tiny_run).items() if name.endswith("@1")}
    assert digests(tmp_path / "tiny") == expected


@pytest.mark.verify
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_kills_change_no_bit(tiny_run, tiny_recipe, tmp_path, seed):
    killed_run(tiny_recipe, tmp_path, seed=seed, kills=5)
    expected = {name: digest for name, digest in digests(tiny_run).items() if name.endswith("@1")}
    assert digests(tmp_path / "tiny") == expected
