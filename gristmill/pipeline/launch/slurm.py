"""A Slurm batch script: https://slurm.schedmd.com/sbatch.html.

One task a node; several processes are started by torchrun inside it. Slurm sends SIGUSR1 to the script before the time
limit; the script passes SIGTERM on, waits for the checkpoint and puts the job back into the queue. USR1 and not
TERM, so that a job that somebody cancels (TERM) is not begun again.
"""

from __future__ import annotations

import shlex

from gristmill.core.errors import UserError
from gristmill.pipeline.launch.amounts import slurm_time
from gristmill.pipeline.launch.job import GRACE, Job
from gristmill.pipeline.launch.shell import prelude
from gristmill.pipeline.launch.torchrun import Rendezvous, process_command, torchrun_exports

_MEET = r"""mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export HEAD="${HOSTS[0]}" PORT=$((20000 + SLURM_JOB_ID % 10000))  # two jobs may share a node"""

# Not `kill` to srun: srun answers SIGTERM by killing its tasks at once (seen with Slurm 22.05).
_TRAPS = r"""child='' heard='' again=''
forward() { heard=1; [ -z "$child" ] || scancel --quiet --signal=TERM "$SLURM_JOB_ID" || true; }
trap forward TERM INT
trap 'again=1; forward' USR1"""

_WAIT = r"""child=$!
[ -z "$heard" ] || forward  # it came before there was anybody to tell
heard=''; code=0; wait "$child" || code=$?
while [ -n "$heard" ]; do  # a signal ends `wait` early
  heard=''; code=0; wait "$child" || code=$?
done
if [ -n "$again" ] && [ "$code" -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt %d ]; then
  echo "the time limit is near: back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this script here
fi
exit $code"""


def directives(job: Job) -> list[str]:
    """The values of the `#SBATCH` lines. None holds a text that a user wrote freely: sbatch quotes unlike bash."""
    warned = GRACE if job.seconds is None else max(1, min(GRACE, job.seconds // 2))
    lines = [f"--job-name={job.name}", f"--nodes={job.nodes}", "--ntasks-per-node=1"]
    optional = (("--cpus-per-task", job.cpus), ("--mem", None if job.memory is None else f"{job.memory}M"),
                ("--gpus-per-node", _gpus(job)), ("--time", None if job.seconds is None else slurm_time(job.seconds)),
                ("--partition", job.queue), ("--account", job.account))
    lines += [f"{option}={value}" for option, value in optional if value is not None]
    return [*lines, "--requeue", f"--signal=B:USR1@{warned}", "--open-mode=append", f"--output={job.name}-%j.log"]


def text(job: Job) -> str:
    """The batch script."""
    lines = ["#!/usr/bin/env bash", *(f"#SBATCH {line}" for line in directives(job)), *prelude(job, cd=True)]
    if job.world == 1:
        command = process_command(job)
    else:
        lines += [*torchrun_exports(job), _MEET]
        inner = process_command(job, Rendezvous(
            endpoint='"$HEAD:$PORT"', identity='"$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"',
            is_host='"$([ "$SLURM_NODEID" = 0 ] && echo true || echo false)"', local_address='"$SLURMD_NODENAME"'))
        command = f"bash -c {shlex.quote(f'exec {inner}')}"
    lines += [_TRAPS, f"srun {shlex.join(_step(job))} {command} &", _WAIT % job.restarts]
    return "\n".join([*lines, ""])


def _gpus(job: Job) -> str | None:
    if job.gpus == 0:
        return None
    return f"{job.accelerator}:{job.gpus}" if job.accelerator else str(job.gpus)


def _step(job: Job) -> list[str]:
    options = [f"--nodes={job.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    if job.cpus is not None:
        options.append(f"--cpus-per-task={job.cpus}")  # since Slurm 22.05 srun no longer takes it from sbatch
    if job.image is not None:
        if set(job.workdir) & set(",:"):
            raise UserError(f"{job.workdir} cannot be mounted: ',' and ':' divide mounts", where="--image")
        options += [f"--container-image={job.image}", f"--container-mounts={job.workdir}:{job.workdir}",
                    f"--container-workdir={job.workdir}"]
    return options
