"""Pieces of bash that several schedulers' scripts share. Every text of a user passes `shlex.quote` exactly once."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from gristmill.pipeline.launch.job import GRACE, Job


def exports(job: Job) -> list[str]:
    """`export NAME=VALUE` for every variable of the job."""
    return [f"export {name}={shlex.quote(value)}" for name, value in job.variables().items()]


def needs(names: Iterable[str]) -> list[str]:
    """Lines that end the script, with a sentence, where a secret is not in the environment."""
    return [f': "${{{name}:?the secret {name} is not set in the environment of this job}}"' for name in names]


def prelude(job: Job, *, cd: bool, own: bool = True) -> list[str]:
    """The first lines of every script: folder, the user's own lines, secrets, environment.

    `set -u` comes after the user's lines, because activating a conda environment breaks under it.
    own: write the environment here; not where the scheduler's file has its own place for it.
    """
    lines = ["set -eo pipefail"]
    if cd:
        lines.append(f"cd -- {shlex.quote(job.workdir)}")
    lines += [*job.setup, "set -u"]
    if own:
        lines += [*needs(job.secrets), *exports(job)]
    return lines


def limited(job: Job, command: str) -> str:
    """`command` under the job's time limit, for schedulers that have none of their own."""
    if job.seconds is None:
        return command
    return f"timeout --signal=TERM --kill-after={GRACE} {job.seconds} {command}"
