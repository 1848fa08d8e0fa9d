"""A SkyPilot task: https://docs.skypilot.co/en/latest/reference/yaml-spec.html; for `sky jobs launch`."""

from __future__ import annotations

from typing import Any

from gristmill.core.errors import UserError
from gristmill.pipeline.launch.job import Job
from gristmill.pipeline.launch.manifest import yaml_text
from gristmill.pipeline.launch.shell import limited, prelude
from gristmill.pipeline.launch.torchrun import PORT, Rendezvous, scheduled_command, torchrun_exports


def text(job: Job) -> str:
    """The task's YAML."""
    return yaml_text(task(job))


def task(job: Job) -> dict[str, Any]:
    """The task; raises UserError where SkyPilot could not start it."""
    for where, path in (("RECIPE", job.recipe), ("workdir", job.workdir), ("--runs-dir", job.runs_dir)):
        if "$" in path:
            raise UserError(f"{path!r}: SkyPilot replaces $NAME in paths", where=where, fix="a path without '$'")
    if job.recipe.startswith(("/", "..")):
        raise UserError(f"{job.recipe} lies outside {job.workdir}, the folder that SkyPilot copies", where="RECIPE",
                        fix="start this command in a folder that holds the recipe")
    if job.gpus and not job.accelerator:
        raise UserError("SkyPilot needs the kind of GPU", where="--accelerator", fix="for example --accelerator H100")
    resources: dict[str, Any] = {}
    if job.gpus:
        resources["accelerators"] = {job.accelerator: job.gpus}
    if job.cpus is not None:
        resources["cpus"] = f"{job.cpus}+"
    if job.memory is not None:
        resources["memory"] = f"{-(-job.memory // 1024)}+"  # whole GiB, rounded up
    if job.image is not None:
        resources["image_id"] = f"docker:{job.image}"
    resources["job_recovery"] = {"max_restarts_on_errors": job.restarts}
    found: dict[str, Any] = {"name": job.name, "num_nodes": job.nodes, "workdir": job.workdir, "resources": resources}
    if variables := job.variables():
        found["envs"] = variables
    if job.secrets:
        found["secrets"] = dict.fromkeys(job.secrets)  # empty: `sky jobs launch --secret NAME` takes the caller's value
    if job.volume is not None:
        if not job.runs_dir.startswith("/"):
            raise UserError("a bucket is mounted at an absolute path", where="--runs-dir", fix="--runs-dir /runs")
        found["file_mounts"] = {job.runs_dir: {"source": job.volume, "mode": "MOUNT_CACHED"}}
    return found | {"run": _script(job)}


def _script(job: Job) -> str:
    lines = prelude(job, cd=False, own=False)
    rendezvous = None
    if job.world > 1:
        lines += torchrun_exports(job)
    if job.nodes > 1:
        lines.append('mapfile -t NODES <<< "$SKYPILOT_NODE_IPS"')
        rendezvous = Rendezvous(
            endpoint=f'"${{NODES[0]}}:{PORT}"', identity='"$SKYPILOT_TASK_ID"',
            is_host='"$([ "$SKYPILOT_NODE_RANK" = 0 ] && echo true || echo false)"',
            local_address='"${NODES[$SKYPILOT_NODE_RANK]}"')
    return "\n".join([*lines, limited(job, scheduled_command(job, rendezvous)), ""])
