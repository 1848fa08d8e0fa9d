"""SkyPilot tasks."""

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launch_jobs import NASTY, VARIABLES, job

from gristmill.core.errors import UserError
from gristmill.pipeline.launch import skypilot

FULL = {"cpus": 16, "memory": 65000, "gpus": 8, "accelerator": "H100", "image": "registry.example/g:1", "seconds": 60,
        "volume": "s3://bucket", "runs_dir": "/runs", "secrets": ("HF_TOKEN",), "environment": (("A", "1e3"),)}


def test_task():
    task = yaml.safe_load(skypilot.text(job(**FULL)))
    script = task.pop("run")
    assert task == {
        "name": "toy", "num_nodes": 1, "workdir": "/work/place",
        "resources": {"accelerators": {"H100": 8}, "cpus": "16+", "memory": "64+",
                      "image_id": "docker:registry.example/g:1", "job_recovery": {"max_restarts_on_errors": 3}},
        "envs": {"A": "1e3", "OMP_NUM_THREADS": "16"}, "secrets": {"HF_TOKEN": None},
        "file_mounts": {"/runs": {"source": "s3://bucket", "mode": "MOUNT_CACHED"}}}
    assert script.splitlines()[-1] == (
        "timeout --signal=TERM --kill-after=120 60 gristmill run recipes/toy.yaml --runs-dir=/runs")


@pytest.mark.parametrize("given", [{}, FULL, FULL | {"nodes": 2, "processes": 8}])
def test_tasks_fit_skypilot_s_own_schema(given):
    try:
        from sky.utils import schemas
    except ImportError:
        pytest.skip("skypilot is not installed")
    task = yaml.safe_load(skypilot.text(job(**given)))
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())
    with pytest.raises(jsonschema.ValidationError):  # the check can fail
        jsonschema.validate(task | {"nodes": 1}, schemas.get_task_schema())


@pytest.mark.parametrize("rank", [0, 1])
def test_nodes_meet_at_the_first_address(stubs, rank):
    script = skypilot.task(job(nodes=2, processes=8))["run"]
    done = stubs.bash("-c", script, SKYPILOT_NODE_IPS="10.0.0.5\n10.0.0.6", SKYPILOT_NODE_RANK=str(rank),
                      SKYPILOT_TASK_ID="sky-1", STUB_CODE="5")
    assert done.returncode == 5, done.stderr
    assert stubs.called["argv"][:10] == [
        "-m", "gristmill.pipeline.launch.nanny", "--nnodes=2", "--nproc-per-node=8", "--max-restarts=0",
        "--rdzv-backend=c10d", "--rdzv-endpoint=10.0.0.5:29500",
        "--rdzv-id=sky-1", f"--rdzv-conf=is_host={'true' if rank == 0 else 'false'}", f"--local-addr=10.0.0.{5 + rank}"]


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(recipe=NASTY, runs=NASTY, arguments=st.lists(NASTY, max_size=3), variables=VARIABLES)
def test_no_text_breaks_out_of_its_quotes(stubs, recipe, runs, arguments, variables):
    given = job(recipe=f"r/{recipe.replace('$', '')}", runs_dir=runs.replace("$", "") or "x",
                arguments=tuple(arguments), environment=tuple(variables.items()))
    task = yaml.safe_load(skypilot.text(given))
    assert task.get("envs", {}) == variables
    done = stubs.bash("-c", task["run"])
    assert done.returncode == 0, done.stderr
    assert stubs.called["argv"] == ["run", given.recipe, f"--runs-dir={given.runs_dir}", *arguments]


@pytest.mark.parametrize(("given", "where"), [
    ({"recipe": "/abs.yaml"}, "RECIPE"), ({"recipe": "../up.yaml"}, "RECIPE"), ({"recipe": "$X.yaml"}, "RECIPE"),
    ({"gpus": 1}, "--accelerator"), ({"volume": "s3://b"}, "--runs-dir"), ({"workdir": "/a$B"}, "workdir")])
def test_what_skypilot_could_not_start(given, where):
    with pytest.raises(UserError) as error:
        skypilot.text(job(**given))
    assert error.value.where == where
