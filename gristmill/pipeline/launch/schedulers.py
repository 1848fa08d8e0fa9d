"""The table of schedulers: how a job is written for each, what it takes, and how its client is called."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from gristmill.core.errors import UserError
from gristmill.pipeline.launch import kubernetes, ray, skypilot, slurm, torchrun
from gristmill.pipeline.launch.job import Job


@dataclass(frozen=True)
class Scheduler:
    """One row of the table."""

    text: Callable[[Job], str]
    takes: frozenset[str]
    """Which of the options that not every scheduler has."""
    program: str
    """The client, without which nothing can be submitted."""
    client: Callable[[Job, str], list[str]]
    """The command that submits, given the job and where its text lies."""
    by_stdin: bool
    """The client reads the text from its standard input; else it wants a file."""
    identity: re.Pattern[str]
    """Finds the job's identity in the client's answer."""
    install: str
    """How to come by the client."""
    suffix: str = ".sh"
    here: bool = False
    """Submitting runs the job on this machine, in the foreground."""


def _sky(job: Job, file: str) -> list[str]:
    return ["sky", "jobs", "launch", "--yes", "--detach-run", *(f"--secret={name}" for name in job.secrets), file]


SCHEDULERS: dict[str, Scheduler] = {
    "torchrun": Scheduler(
        torchrun.text, frozenset({"time", "min_nodes"}), "torchrun", lambda job, file: ["bash", file], False,
        re.compile(r"(?!)"), "torchrun comes with torch", here=True),
    "slurm": Scheduler(
        slurm.text, frozenset({"memory", "time", "accelerator", "image", "queue", "account"}),
        "sbatch", lambda job, file: ["sbatch", "--parsable"], True, re.compile(r"^(\d+)(?:;\S+)?$", re.MULTILINE),
        "sbatch is there on the login nodes of a Slurm cluster"),
    "kubernetes": Scheduler(
        kubernetes.text,
        frozenset({"memory", "time", "image", "queue", "runs_volume", "namespace", "node_selector", "toleration"}),
        "kubectl", lambda job, file: ["kubectl", "create", "--output=name", "--filename=-"], True,
        re.compile(r"^((?:job|jobset)[.\w-]*/\S+)$", re.MULTILINE), "https://kubernetes.io/docs/tasks/tools/", ".yaml"),
    "skypilot": Scheduler(
        skypilot.text, frozenset({"memory", "time", "accelerator", "image", "runs_volume"}), "sky", _sky, False,
        re.compile(r"[Jj]ob ID:? *(\d+)"), "pip install skypilot", ".yaml"),
    "ray": Scheduler(
        ray.text, frozenset({"memory", "time"}), "ray", lambda job, file: ["bash", file], False,
        re.compile(r"(raysubmit_\w+)"), "pip install 'gristmill[ray]'"),
}


def check_options(name: str, given: set[str]) -> None:
    """Raise UserError if an option was given that scheduler `name` knows nothing of."""
    known = set().union(*(row.takes for row in SCHEDULERS.values()))
    for option in sorted((given & known) - SCHEDULERS[name].takes):
        others = ", ".join(other for other, row in SCHEDULERS.items() if option in row.takes)
        raise UserError(f"{name} has no use for it", where=f"--{option.replace('_', '-')}",
                        fix=f"leave it out; it is for {others}")


def notes(name: str, job: Job) -> list[str]:
    """What somebody should know before this job is started."""
    found = []
    if job.nodes > 1:
        found.append({
            "kubernetes": "--runs-volume must be a claim that several nodes can write (ReadWriteMany)",
            "skypilot": "--runs-dir must be a file system that all nodes share, which a bucket is not",
        }.get(name, f"--runs-dir {job.runs_dir} must be a folder that all nodes share"))
    if name == "kubernetes":
        if job.volume is None:
            found.append("runs are lost with the pod: --runs-volume CLAIM --runs-dir /runs keeps them")
        if job.secrets:
            found.append(f"the Secret {kubernetes.secret_name(job)} must hold the keys {', '.join(job.secrets)}")
    if name == "skypilot" and job.volume is None:
        found.append("runs are lost with the machine: --runs-volume BUCKET_URL --runs-dir /runs keeps them")
    if name == "ray":
        if not job.runs_dir.startswith("/"):
            found.append("runs are lost with Ray's copy of this folder: name a shared folder, --runs-dir /shared/runs")
        if job.secrets:
            found.append(f"Ray keeps no secrets: {', '.join(job.secrets)} must be set where the cluster's nodes start")
    if name == "slurm" and job.image is not None:
        found.append("--image needs the Pyxis plugin on the cluster")
    if name == "torchrun" and job.nodes > 1:
        found.append("start the script on every node, with HEAD set to the first one's address")
    if job.elastic:
        found.append(f"a node may join at any time; each that is lost uses up one of --restarts {job.restarts}, and "
                     "the one that HEAD names must stay")
    return found
