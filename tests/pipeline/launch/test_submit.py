"""Submitting through stub clients."""

import signal
import subprocess
import sys

import pytest
from launch_jobs import job

from gristmill.core.errors import MachineError, UserError
from gristmill.pipeline.launch.schedulers import SCHEDULERS, check_options
from gristmill.pipeline.launch.submit import submit
from tests.shared import HANG, wait_for

CLIENTS = {
    "slurm": ("sbatch", "echo '4711;cluster'", "4711"),
    "kubernetes": ("kubectl", "echo configmap/toy; echo job.batch/toy", "job.batch/toy"),
    "skypilot": ("sky", "echo 'Job ID: 12' >&2", "12"),
    "ray": ("ray", "echo \"Job 'raysubmit_ab12' submitted successfully\"", "raysubmit_ab12"),
}


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Puts one command into an otherwise ordinary PATH; it keeps its arguments and standard input."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(name: str, body: str) -> None:
        (folder / name).write_text(
            f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat > {tmp_path}/stdin\n'
            f'[ -f "${{@: -1}}" ] && cp "${{@: -1}}" {tmp_path}/file\n{body}\n')
        (folder / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:/bin")
    return make


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_the_client_gets_the_text_and_its_answer_is_read(name, client, tmp_path):
    program, body, identity = CLIENTS[name]
    client(program, body)
    made = job(image="registry.example/g:1")
    text = SCHEDULERS[name].text(made)
    answer = submit(name, made, text)
    assert answer.identity == identity
    assert answer.exit_code == 0
    if SCHEDULERS[name].by_stdin:
        assert (tmp_path / "stdin").read_text() == text
    elif name == "skypilot":
        assert (tmp_path / "file").read_text() == text
    else:
        assert (tmp_path / "arguments").read_text().startswith("job\nsubmit\n--no-wait\n")


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_a_refusal_is_shown_in_the_client_s_words(name, client):
    client(CLIENTS[name][0], "echo 'no such queue' >&2; exit 3")
    made = job(image="registry.example/g:1")
    with pytest.raises(MachineError, match=r"refused with exit code 3: no such queue"):
        submit(name, made, SCHEDULERS[name].text(made))


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_a_missing_client_is_named(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=f"the program {SCHEDULERS[name].program} is not there") as error:
        submit(name, job(), "")
    assert "--write FILE" in str(error.value)


def test_secrets_of_skypilot_come_from_the_caller(client, tmp_path, monkeypatch):
    client("sky", "true")
    made = job(secrets=("HF_TOKEN",))
    with pytest.raises(UserError, match="HF_TOKEN is not set"):
        submit("skypilot", made, "x: 1\n")
    monkeypatch.setenv("HF_TOKEN", "value")
    submit("skypilot", made, "x: 1\n")
    words = (tmp_path / "arguments").read_text().split("\n")
    assert words[:5] == ["jobs", "launch", "--yes", "--detach-run", "--secret=HF_TOKEN"]
    assert "value" not in words


def test_torchrun_runs_here_and_keeps_its_exit_code(client, tmp_path):
    client("torchrun", "exit 7")
    made = job(workdir=str(tmp_path))
    assert submit("torchrun", made, SCHEDULERS["torchrun"].text(made)).exit_code == 7
    assert (tmp_path / "arguments").read_text().endswith("-m\ngristmill\nrun\nrecipes/toy.yaml\n--runs-dir=runs\n")


def test_what_runs_here_is_told_to_stop_and_waited_for(tmp_path):
    """As `docker stop` and systemd do: to this process alone. What trains must not be left behind."""
    told = tmp_path / "told"
    inner = f"trap 'echo saved > {told}.end; exit 7' TERM; echo ready > {told}; while :; do sleep 0.05; done"
    outer = ("import sys; from gristmill.pipeline.launch.submit import _run_here; "
             "sys.exit(_run_here(sys.argv[1:]))")
    process = subprocess.Popen([sys.executable, "-c", outer, "bash", "-c", inner])
    wait_for(told.exists, lambda: process.poll() is None)
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANG) == 7
    assert (tmp_path / "told.end").read_text() == "saved\n"


def test_torchrun_on_several_nodes_is_not_started_from_here(client):
    client("torchrun", "exit 0")
    with pytest.raises(UserError, match="this machine's processes only"):
        submit("torchrun", job(nodes=2), "")


def test_options_that_a_scheduler_does_not_have():
    check_options("slurm", {"account", "time"})
    with pytest.raises(UserError, match="torchrun has no use for it") as error:
        check_options("torchrun", {"node_selector"})
    assert error.value.where == "--node-selector"
    assert "kubernetes" in str(error.value)
