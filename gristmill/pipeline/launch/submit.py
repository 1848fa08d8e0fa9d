"""Handing a job's text to the scheduler's own client."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gristmill.core.errors import MachineError, UserError
from gristmill.pipeline.launch.job import Job
from gristmill.pipeline.launch.schedulers import SCHEDULERS, Scheduler


@dataclass(frozen=True)
class Answer:
    """What the client said. identity: the scheduler's name for the job, where it could be found."""

    command: list[str]
    output: str
    identity: str | None
    exit_code: int = 0


def submit(name: str, job: Job, text: str, file: Path | None = None) -> Answer:
    """Submit `text`, which also lies in `file` if that is given.

    Raises MachineError where the client is missing or refuses; a job that runs here returns its own exit code instead.
    """
    row = SCHEDULERS[name]
    if row.here and job.nodes > 1:
        raise UserError("torchrun starts this machine's processes only", where="--submit",
                        fix="--write FILE, and start that on every node with HEAD set")
    missing = [secret for secret in job.secrets if name in ("torchrun", "skypilot") and secret not in os.environ]
    if missing:
        raise UserError(f"{', '.join(missing)} is not set", where="--secret", fix="export it before you submit")
    if shutil.which(row.program) is None:
        raise MachineError(f"the program {row.program} is not there, which is needed to submit", where="--submit",
                           fix=f"{row.install}; or --write FILE and submit that elsewhere")
    if file is not None or row.by_stdin:
        return _call(row, row.client(job, str(file)), text)
    with tempfile.TemporaryDirectory(prefix="gristmill-launch-") as folder:
        path = Path(folder, f"{job.name}{row.suffix}")
        path.write_text(text, encoding="utf-8")
        return _call(row, row.client(job, str(path)), text)


def _call(row: Scheduler, command: list[str], text: str) -> Answer:
    if row.here:
        return Answer(command, "", None, _run_here(command))
    done = subprocess.run(command, input=text if row.by_stdin else "", capture_output=True, encoding="utf-8",
                          errors="replace", check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise MachineError(f"{row.program} refused with exit code {done.returncode}: " + "\n  ".join(said[-20:]),
                           where="--submit")
    match = row.identity.search(done.stdout) or row.identity.search(done.stderr)
    return Answer(command, done.stdout.strip(), match[1] if match else None)


def _run_here(command: list[str]) -> int:
    """The exit code of a job that runs here. Told to stop it saves first, and that is waited for: SIGTERM is handed on,
    and so is SIGINT, unless a terminal has told both of us (torchrun leaves processes behind when told too often)."""
    process: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, _: object) -> None:
        if not process:
            raise SystemExit(128 + number)
        if number == signal.SIGTERM or not sys.stdin.isatty():
            process[0].send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        process.append(subprocess.Popen(command))
        code = process[0].wait()
        return code if code >= 0 else 128 - code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
