"""Ray submissions: the words, what reaches the nodes, and two nodes of a real cluster."""

import _thread
import json
import shlex
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launch_jobs import NASTY, VARIABLES, job

from gristmill.core.errors import UserError
from gristmill.pipeline.launch import ray, ray_nodes
from tests.shared import HANG


def test_submission_of_one_node():
    words = ray.submission(job(cpus=16, gpus=1, memory=65536))
    runtime = json.loads(words[words.index("--runtime-env-json") + 1])
    assert runtime == {"working_dir": "/work/place", "excludes": [".git", ".venv", "/runs/"]}
    at = words.index("--")
    assert words[at - 3:at] == ["--entrypoint-num-cpus=16", "--entrypoint-num-gpus=1", f"--entrypoint-memory={2**36}"]
    assert words[at + 1:at + 3] == ["bash", "-c"]


def test_ray_s_own_command_line_understands_the_words():
    cli = pytest.importorskip("ray.dashboard.modules.job.cli", reason="ray is not installed")
    from click.testing import CliRunner

    for given_job in (job(cpus=16, gpus=1, memory=65536), job(nodes=2, processes=8)):
        words = ray.submission(given_job)
        assert words[:3] == ["ray", "job", "submit"]
        context = cli.submit.make_context("submit", words[3:])
        assert context.params["entrypoint"] == tuple(words[words.index("--") + 1:])
        assert context.params["no_wait"]
    assert CliRunner().invoke(cli.submit, ["--no-such-option"]).exit_code == 2  # the check can fail


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(recipe=NASTY, runs=NASTY, arguments=st.lists(NASTY, max_size=3), variables=VARIABLES)
def test_no_text_breaks_out_of_its_quotes(stubs, recipe, runs, arguments, variables):
    given_job = job(recipe=f"r/{recipe}", runs_dir=runs, arguments=tuple(arguments),
                    environment=tuple(variables.items()))
    words = ray.submission(given_job)
    assert shlex.split(ray.text(given_job).split("\n", 2)[2])[1:] == words
    entrypoint = shlex.join(words[words.index("--") + 1:])  # as ray job submit joins it for the shell
    done = stubs.bash("-c", entrypoint)
    assert done.returncode == 0, done.stderr
    assert stubs.called["argv"] == ["run", f"r/{recipe}", f"--runs-dir={runs}", *arguments]
    assert {name: stubs.called["environment"][name] for name in variables} == variables


@pytest.mark.parametrize("rank", [0, 1])
def test_several_nodes_are_started_by_a_driver(stubs, rank, monkeypatch):
    given_job = job(nodes=2, processes=8, gpus=8, cpus=16, memory=1024)
    words = ray.submission(given_job)
    entry = words[words.index("--") + 1:]
    assert entry[:3] == ["python", "-m", "gristmill.pipeline.launch.ray_nodes"]
    asked = []
    monkeypatch.setattr(ray_nodes, "run", lambda *given: asked.append(given) or 9)
    assert ray_nodes.main(entry[3:]) == 9
    assert asked == [(ray.node_script(given_job), 2, 16, 8, 1024)]
    done = stubs.bash("-c", asked[0][0], HEAD="10.0.0.1", PORT="4444", NODE_RANK=str(rank), NODE_ADDRESS="10.0.0.2",
                      RAY_JOB_ID="0a")
    assert done.returncode == 0, done.stderr
    assert stubs.called["argv"][:8] == [
        "--nnodes=2", "--nproc-per-node=8", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-endpoint=10.0.0.1:4444",
        "--rdzv-id=0a", f"--rdzv-conf=is_host={'true' if rank == 0 else 'false'}", "--local-addr=10.0.0.2"]


def test_a_node_s_script_is_told_to_stop_when_the_task_is(tmp_path):
    assert ray_nodes.start("exit $CODE", {"CODE": "3"}) == 3
    script = f"trap 'touch {tmp_path}/told; exit 0' TERM; touch {tmp_path}/there; while :; do sleep 0.05; done"

    def interrupt() -> None:  # as Ray cancels: an exception in the main thread, without a signal that ends a wait
        while not (tmp_path / "there").exists():
            time.sleep(0.02)
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        ray_nodes.start(script, {}, grace=HANG)
    assert (tmp_path / "told").exists()


def test_a_recipe_outside_the_folder_is_not_copied():
    for recipe in ("/abs.yaml", "../up.yaml"):
        with pytest.raises(UserError, match="outside"):
            ray.text(job(recipe=recipe))


@pytest.mark.verify
def test_two_nodes_of_a_real_cluster(tmp_path, monkeypatch):
    real = pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        real.init(address=cluster.address, log_to_driver=False)
        write = f'echo "$HEAD $PORT $NODE_ADDRESS" > {tmp_path}/$NODE_RANK'
        assert ray_nodes.run(write, nodes=2, cpus=1, gpus=0) == 0
        first, second = ((tmp_path / rank).read_text().split() for rank in ("0", "1"))
        assert first[:2] == second[:2]
        assert first[0] == first[2]
        waits = f"trap 'touch {tmp_path}/told; exit 0' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done"
        fails = f"while [ ! -e {tmp_path}/up ]; do sleep 0.1; done; exit 5"
        assert ray_nodes.run(f'if [ "$NODE_RANK" = 1 ]; then {fails}; fi; {waits}', nodes=2, cpus=1, gpus=0) == 5
        assert (tmp_path / "told").exists()
    finally:
        real.shutdown()
        cluster.shutdown()
