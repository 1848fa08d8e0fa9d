"""A submission to a Ray cluster: https://docs.ray.io/en/latest/cluster/running-applications/job-submission/.

Ray starts one command on one node. For several nodes that command is `ray_nodes`, which starts torchrun on each.
The cluster's address is Ray's own affair (RAY_API_SERVER_ADDRESS).
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from gristmill.core.errors import UserError
from gristmill.pipeline.launch.job import Job
from gristmill.pipeline.launch.shell import limited, prelude
from gristmill.pipeline.launch.torchrun import Rendezvous, process_command, torchrun_exports


def text(job: Job) -> str:
    """A bash script that submits the job."""
    return "\n".join(["#!/usr/bin/env bash", f"# {job.name}: submits to the cluster of $RAY_API_SERVER_ADDRESS",
                      f"exec {shlex.join(submission(job))}", ""])


def submission(job: Job) -> list[str]:
    """The words of `ray job submit`; raises UserError where the recipe would not be found on the cluster."""
    if job.recipe.startswith(("/", "..")):
        raise UserError(f"{job.recipe} lies outside {job.workdir}, the folder that Ray copies", where="RECIPE",
                        fix="start this command in a folder that holds the recipe")
    words = ["ray", "job", "submit", "--no-wait", "--runtime-env-json", json.dumps(_runtime_env(job)),
             "--metadata-json", json.dumps({"name": job.name})]
    script = node_script(job)
    if job.nodes > 1:
        entry = ["python", "-m", "gristmill.pipeline.launch.ray_nodes", f"--nodes={job.nodes}", f"--gpus={job.gpus}",
                 f"--cpus={job.cpus or 1}", f"--memory={job.memory or 0}", "--", script]
    else:
        amounts = (("--entrypoint-num-cpus", job.cpus), ("--entrypoint-num-gpus", job.gpus or None),
                   ("--entrypoint-memory", job.memory and job.memory * 2**20))
        words += [f"{option}={amount}" for option, amount in amounts if amount is not None]
        entry = ["bash", "-c", script]
    return [*words, "--", *entry]


def node_script(job: Job) -> str:
    """What every node runs; variables are exported here because Ray expands ${NAME} in those of a runtime_env."""
    rendezvous = None
    if job.nodes > 1:
        rendezvous = Rendezvous('"$HEAD:$PORT"', '"$RAY_JOB_ID"',
                                is_host='"$([ "$NODE_RANK" = 0 ] && echo true || echo false)"',
                                local_address='"$NODE_ADDRESS"')
    lines = [*prelude(job, cd=False), *(torchrun_exports(job) if job.world > 1 else [])]
    return "\n".join([*lines, f"exec {limited(job, process_command(job, rendezvous))}", ""])


def _runtime_env(job: Job) -> dict[str, Any]:
    excludes = [".git", ".venv"] + ([] if job.runs_dir.startswith("/") else [f"/{job.runs_dir.strip('/')}/"])
    return {"working_dir": job.workdir, "excludes": excludes}
