"""torchrun: the command that every scheduler's script ends in, and a script for nodes that somebody starts by hand.

https://docs.pytorch.org/docs/stable/elastic/run.html. The c10d rendezvous needs one address that all nodes know; who
hosts it and which address a node answers at are said outright, because guessing them from host names fails wherever a
node has several names.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from gristmill.pipeline.launch.job import GRACE, Job
from gristmill.pipeline.launch.shell import limited, prelude

PORT = 29500


@dataclass(frozen=True)
class Rendezvous:
    """Where nodes meet; every field is shell text that is already quoted."""

    endpoint: str
    identity: str
    is_host: str | None = None
    local_address: str | None = None


def process_command(job: Job, rendezvous: Rendezvous | None = None, recipe: str | None = None) -> str:
    """What one node runs. One process alone needs no torchrun, and keeps its exit code without it.

    torchrun ends with 1 whatever its processes ended with; `gristmill run` has 2 for a wrong recipe, 3 for a machine
    that cannot, 143 for a stop with everything saved.
    """
    if job.world == 1:
        return shlex.join(["gristmill", *job.words(recipe)])
    return torchrun_command(job, rendezvous, recipe)


def scheduled_command(job: Job, rendezvous: Rendezvous | None = None, recipe: str | None = None) -> str:
    """`process_command` for schedulers that begin a failed job again themselves: torchrun does not try too, which would
    multiply the attempts, and the exit code of its processes stays, by which they decide."""
    command = process_command(replace(job, restarts=0), rendezvous, recipe)
    options = command.removeprefix("torchrun ")
    return command if job.world == 1 else f"python -m gristmill.pipeline.launch.nanny {options}"


def torchrun_command(job: Job, rendezvous: Rendezvous | None = None, recipe: str | None = None) -> str:
    """`torchrun ... -m gristmill run RECIPE`; without a rendezvous it is for one node alone."""
    nodes = job.nodes if job.min_nodes is None else f"{job.min_nodes}:{job.nodes}"
    parts = ["torchrun", f"--nnodes={nodes}", f"--nproc-per-node={job.processes}", f"--max-restarts={job.restarts}"]
    if rendezvous is None:
        parts.append("--standalone")
    else:
        parts += ["--rdzv-backend=c10d", f"--rdzv-endpoint={rendezvous.endpoint}", f"--rdzv-id={rendezvous.identity}"]
        if rendezvous.is_host is not None:
            parts.append(f"--rdzv-conf=is_host={rendezvous.is_host}")
        if rendezvous.local_address is not None:
            parts.append(f"--local-addr={rendezvous.local_address}")
    return " ".join([*parts, "-m", "gristmill", shlex.join(job.words(recipe))])


def torchrun_exports(job: Job) -> list[str]:
    """What torchrun has to find in its environment.

    It kills its processes 30 s after SIGTERM unless told otherwise (older releases do not listen). And with several
    nodes each start has to make a store of its own: torchrun (torch 2.11 to 2.13) keeps the first one, in which the
    processes of the next start find the addresses of those that are gone, and a node that joins later waits for it in
    vain. On one node the processes tell starts apart by themselves (`World.join`), and a store that torchrun holds is
    safer: it outlives a killed process, and no port has to be found anew.
    """
    lines = [f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={GRACE}"]
    return lines if job.nodes == 1 else [*lines, "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]


def text(job: Job) -> str:
    """A bash script to be started on every node; HEAD must be the first node's address if there are more than one."""
    lines = ["#!/usr/bin/env bash", f"# {job.name}: start this on {'every node' if job.nodes > 1 else 'the machine'}",
             *prelude(job, cd=True), *torchrun_exports(job)]
    rendezvous = None
    if job.nodes > 1:
        lines.append(': "${HEAD:?set HEAD to the name or address of the first node, the same on every node}"')
        rendezvous = Rendezvous(f'"$HEAD:{PORT}"', shlex.quote(job.name))
    return "\n".join([*lines, f"exec {limited(job, torchrun_command(job, rendezvous))}", ""])
