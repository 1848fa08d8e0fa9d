"""The script for torchrun: real bash, real quoting, and a real torchrun."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launch_jobs import NASTY, VARIABLES, job

from gristmill.pipeline.launch import torchrun
from gristmill.pipeline.launch.schedulers import SCHEDULERS
from tests.shared import HANG

FRESH = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(recipe=NASTY, runs=NASTY, arguments=st.lists(NASTY, max_size=3), variables=VARIABLES,
       folder=NASTY.filter(lambda t: "/" not in t))
def test_no_text_breaks_out_of_its_quotes(stubs, tmp_path, recipe, runs, arguments, variables, folder):
    place = tmp_path / f"in {folder}"
    place.mkdir(exist_ok=True)
    made = job(recipe=recipe, runs_dir=runs, arguments=tuple(arguments), environment=tuple(variables.items()),
               workdir=str(place))
    done = stubs.bash("-c", torchrun.text(made))
    assert done.returncode == 0, done.stderr
    called = stubs.called
    path = f"./{recipe}" if recipe.startswith("-") else recipe
    assert called["argv"] == ["--nnodes=1", "--nproc-per-node=1", "--max-restarts=3", "--standalone", "-m", "gristmill",
                              "run", path, f"--runs-dir={runs}", *arguments]
    assert called["cwd"] == str(place)
    assert {name: called["environment"][name] for name in variables} == variables
    assert not list(place.iterdir())


def test_several_nodes_meet_at_the_address_that_they_are_told(stubs, tmp_path):
    text = torchrun.text(job(nodes=4, processes=8, workdir=str(tmp_path), cpus=16))
    assert stubs.bash("-c", text).returncode != 0
    assert "set HEAD" in stubs.bash("-c", text).stderr
    assert stubs.bash("-c", text, HEAD="10.0.0.1").returncode == 0
    assert stubs.called["argv"][:6] == ["--nnodes=4", "--nproc-per-node=8", "--max-restarts=3", "--rdzv-backend=c10d",
                                        "--rdzv-endpoint=10.0.0.1:29500", "--rdzv-id=toy"]
    assert stubs.called["environment"]["OMP_NUM_THREADS"] == "2"
    assert stubs.called["environment"]["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "120"


def test_a_range_of_nodes(stubs, tmp_path):
    text = torchrun.text(job(nodes=4, min_nodes=2, workdir=str(tmp_path)))
    assert stubs.bash("-c", text, HEAD="10.0.0.1").returncode == 0
    assert stubs.called["argv"][0] == "--nnodes=2:4"
    assert stubs.called["environment"][FRESH] == "1"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_several_nodes_meet_anew_at_every_start(scheduler):
    """One node's processes do that by themselves, and better with a store that outlives them."""
    whole = SCHEDULERS[scheduler].text
    assert f"{FRESH}=1" in whole(job(nodes=2, processes=2, image="image", runs_dir="/runs"))
    assert FRESH not in whole(job(nodes=1, processes=2, image="image", runs_dir="/runs"))


STARTED = """
import os, sys, torch
from gristmill.training.parallel import Layout, World
world = World.join(Layout(replicate=2), torch.device("cpu"))
assert float(world.sum(torch.ones(()), "tokens")) == 2
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and world.rank == 1:
    os._exit(9)
world.barrier()
print("together again", flush=True)
"""


@pytest.mark.slow
def test_two_real_torchruns_go_on_after_a_lost_process(tmp_path):
    (tmp_path / "again.py").write_text(STARTED)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    made = job(nodes=2, processes=1, restarts=2, workdir=str(tmp_path))
    text = torchrun.text(made).replace("-m gristmill run", "again.py").replace(f":{torchrun.PORT}", f":{port}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1",
                   "HEAD": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    nodes = [subprocess.Popen(["bash", "-c", text], env=environment, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) for _ in range(2)]
    said = [node.communicate(timeout=HANG) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert all("together again" in out for out, _ in said)


def test_setup_secrets_limit_and_exit_code(stubs, tmp_path):
    made = job(workdir=str(tmp_path), setup=("export FROM_SETUP=1 OTHER=$UNSET",), secrets=("HF_TOKEN",), seconds=60)
    text = torchrun.text(made)
    missing = stubs.bash("-c", text)
    assert missing.returncode != 0
    assert "the secret HF_TOKEN is not set" in missing.stderr
    assert not (stubs.folder / "called.json").exists()
    assert stubs.bash("-c", text, HF_TOKEN="value", STUB_CODE="17").returncode == 17
    assert stubs.called["environment"]["FROM_SETUP"] == "1"
    assert "value" not in text
    slow = torchrun.text(job(workdir=str(tmp_path), seconds=1))
    assert stubs.bash("-c", slow, STUB_SLEEP=str(HANG)).returncode == 124
    assert (stubs.folder / "term").exists()
    assert stubs.bash("-c", torchrun.text(job(workdir="/nowhere/at/all"))).returncode != 0
    assert not (stubs.folder / "called.json").exists()


@pytest.mark.slow
def test_a_real_torchrun_starts_the_real_program(tmp_path):
    """`gristmill run` of a recipe that is not there: its own message and a failure come back through torchrun."""
    script = tmp_path / "job.sh"
    script.write_text(torchrun.text(job(workdir=str(tmp_path), recipe="not here.yaml", restarts=0)))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, timeout=HANG)
    assert "not here.yaml" in done.stderr
    assert "exitcode  : 2" in done.stderr
    assert done.returncode == 1
