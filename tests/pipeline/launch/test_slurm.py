"""The batch script, run by bash with stubs for srun, scontrol and scancel."""

import re
import shlex
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launch_jobs import NASTY, VARIABLES, job

from gristmill.core.errors import UserError
from gristmill.pipeline.launch import slurm
from tests.shared import HANG, wait_for

SLURM = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "n[0-2]"}


def directives(text: str) -> list[str]:
    """What sbatch reads: `#SBATCH` lines up to the first line that is no comment."""
    found = []
    for line in text.split("\n"):
        if not line.startswith("#"):
            return found
        if line.startswith("#SBATCH "):
            found.append(line.removeprefix("#SBATCH "))
    raise AssertionError("no command")


def test_directives():
    made = job(cpus=16, memory=65536, gpus=8, accelerator="h100", seconds=100_000, queue="long", account="me", nodes=4,
               processes=8)
    assert directives(slurm.text(made)) == [
        "--job-name=toy", "--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=16", "--mem=65536M",
        "--gpus-per-node=h100:8", "--time=1-03:46:40", "--partition=long", "--account=me", "--requeue",
        "--signal=B:USR1@120", "--open-mode=append", "--output=toy-%j.log"]
    assert "--signal=B:USR1@30" in directives(slurm.text(job(seconds=60)))
    assert "--gpus-per-node=2" in directives(slurm.text(job(gpus=2)))


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(recipe=NASTY, runs=NASTY, arguments=st.lists(NASTY, max_size=3), variables=VARIABLES,
       folder=NASTY.filter(lambda t: "/" not in t), nodes=st.sampled_from([1, 3]))
def test_no_text_breaks_out_of_its_quotes(stubs, tmp_path, recipe, runs, arguments, variables, folder, nodes):
    place = tmp_path / f"in {folder}"
    place.mkdir(exist_ok=True)
    made = job(recipe=recipe, runs_dir=runs, arguments=tuple(arguments), environment=tuple(variables.items()),
               workdir=str(place), nodes=nodes)
    text = slurm.text(made)
    assert directives(text) == [*slurm.directives(made)]
    done = stubs.bash("-c", text, **SLURM)
    assert done.returncode == 0, done.stderr
    path = f"./{recipe}" if recipe.startswith("-") else recipe
    expected = ["run", path, f"--runs-dir={runs}", *arguments]
    assert stubs.called["argv"][-len(expected):] == expected
    assert stubs.called["program"] == ("gristmill" if nodes == 1 else "torchrun")
    assert stubs.called["cwd"] == str(place)
    assert {name: stubs.called["environment"][name] for name in variables} == variables
    assert not list(place.iterdir())


@pytest.mark.parametrize("node", [0, 2])
def test_nodes_meet_at_the_first_host(stubs, tmp_path, node):
    text = slurm.text(job(nodes=3, processes=4, cpus=8, workdir=str(tmp_path)))
    assert stubs.bash("-c", text, STUB_NODE=str(node), SLURM_RESTART_COUNT="1", **SLURM).returncode == 0
    assert stubs.called["argv"][:9] == [
        "--nnodes=3", "--nproc-per-node=4", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-endpoint=n0:23456",
        "--rdzv-id=123456-1", f"--rdzv-conf=is_host={'true' if node == 0 else 'false'}", f"--local-addr=n{node}", "-m"]
    assert stubs.called["environment"]["OMP_NUM_THREADS"] == "2"
    assert stubs.said("srun").split("\n")[:4] == [
        "--nodes=3", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--cpus-per-task=8"]
    assert stubs.said("scontrol") == "show hostnames n[0-2] "


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_exit_codes_are_kept(stubs, tmp_path, code):
    assert stubs.bash("-c", slurm.text(job(workdir=str(tmp_path))), STUB_CODE=str(code), **SLURM).returncode == code
    assert "requeue" not in stubs.said("scontrol")


@pytest.mark.parametrize(("sent", "restarted", "requeued"), [
    (signal.SIGUSR1, "0", True), (signal.SIGUSR1, "3", False), (signal.SIGTERM, "0", False)])
def test_signals_reach_the_program_and_only_the_time_limit_requeues(stubs, tmp_path, sent, restarted, requeued):
    stubs.forget()
    script = tmp_path / "job.sh"
    script.write_text(slurm.text(job(workdir=str(tmp_path))))
    running = stubs.start(str(script), STUB_SLEEP=str(HANG), SLURM_RESTART_COUNT=restarted, **SLURM)
    wait_for((stubs.folder / "called.json").exists, lambda: running.poll() is None)
    running.send_signal(sent)
    assert running.wait(HANG) == 143
    assert (stubs.folder / "term").read_text() == "x"
    assert stubs.said("scancel") == "--quiet --signal=TERM 123456 "
    assert stubs.said("scontrol") == ("requeue 123456 " if requeued else "")


def test_a_container_is_srun_s_affair(tmp_path):
    text = slurm.text(job(workdir=str(tmp_path), image="registry.example/g:1"))
    words = shlex.split(re.search(r"^srun .*", text, re.MULTILINE)[0])
    assert f"--container-mounts={tmp_path}:{tmp_path}" in words
    assert "--container-image=registry.example/g:1" in words
    with pytest.raises(UserError, match="cannot be mounted"):
        slurm.text(job(workdir="/a,b", image="x:1"))
