"""Metrics in Weights & Biases, MLflow or trackio, besides the files of the run: `--track wandb:PROJECT` and the like.

A run-time choice, no part of what a run is. The libraries are imported when one is asked for. Everything a tracker does
happens in a thread of its own behind a queue: one that is slow or away costs training nothing but memory, and one that
fails is counted, reported and in the end left alone. The run's id and how far it got lie in `telemetry/trackers.json`,
so that a resumed training goes on in the same run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import queue
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json

FAILURES = 10
"""Tries after which some records, or a service that does not open, are given up; the pauses between them double up to
a minute, so that a service which is away for some minutes misses nothing."""
LONGEST_PAUSE = 60.0
WAITING = 100_000
"""Records that wait for a tracker at most; further ones are dropped and counted."""
PATIENCE = 60.0
"""Seconds that the end of a training waits for a tracker to send what is left."""
INTERRUPTED = 10.0
"""The same for a training that was told to stop."""
NOTED = 5.0
"""Seconds between two notes of how far a tracker got: so much may be sent twice after a kill."""
STOP = object()


class Service(Protocol):
    """A library that takes metrics. All of it runs in the tracker's own thread; any exception is a failure."""

    def open(self, run: str | None, name: str, config: Mapping[str, Any], folder: Path) -> str:
        """Begin a run, or go on with the run of this id; its id."""

    def log(self, records: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Steps in order, each with its values."""

    def close(self, finished: bool) -> None:
        """Send what is left. finished: the training is done, not interrupted."""


class Wandb:
    """project or entity/project. Offline where WANDB_MODE says so, or where nobody is logged in."""

    package = "wandb"

    def __init__(self, target: str) -> None:
        self.entity, _, self.project = target.rpartition("/")

    def open(self, run: str | None, name: str, config: Mapping[str, Any], folder: Path) -> str:
        wandb = importlib.import_module("wandb")
        known = "WANDB_MODE" in os.environ or wandb.login(prompt=False)
        self.run = wandb.init(
            project=self.project, entity=self.entity or None, id=run or uuid.uuid4().hex[:12], name=name,
            config=dict(config), dir=str(folder), resume="allow", mode=None if known else "offline",
            settings=wandb.Settings(silent=True, console="off", finish_timeout=PATIENCE, finish_timeout_raises=False))
        return self.run.id

    def log(self, records: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in records:
            self.run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


class MLflow:
    """The address of a server, or a folder. The experiment is called as the recipe."""

    package = "mlflow-skinny"
    MOST = 1000
    """Metrics that one request may carry, by the service's own limit."""

    def __init__(self, target: str) -> None:
        parts = urllib.parse.urlsplit(target)
        if parts.password:
            raise UserError("an address with a password would be written into the run's record",
                            where="--track mlflow:...", fix="leave it out and set MLFLOW_TRACKING_USERNAME and "
                                                            "MLFLOW_TRACKING_PASSWORD")
        # A drive letter is no scheme.
        self.address = target if len(parts.scheme) > 1 else Path(target).absolute().as_uri()

    def open(self, run: str | None, name: str, config: Mapping[str, Any], folder: Path) -> str:
        if self.address.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        for limit, value in (("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"), ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")):
            os.environ.setdefault(limit, value)
        client_class = importlib.import_module("mlflow.tracking").MlflowClient
        self.entities = importlib.import_module("mlflow.entities")
        self.client = client_class(tracking_uri=self.address)
        if run is None:
            called = name.partition("/")[0]
            found = self.client.get_experiment_by_name(called)
            experiment = found.experiment_id if found else self.client.create_experiment(called)
            run = self.client.create_run(experiment, run_name=name).info.run_id
            parameters = [self.entities.Param(key, str(value)[:500]) for key, value in flat(config).items()]
            for at in range(0, len(parameters), 100):
                self.client.log_batch(run, params=parameters[at:at + 100])
        else:
            self.client.update_run(run, status="RUNNING")
        self.run: str = run
        return run

    def log(self, records: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        now = int(time.time() * 1000)
        metrics = [self.entities.Metric(name, value, now, step) for step, values in records
                   for name, value in values.items()]
        for at in range(0, len(metrics), self.MOST):
            self.client.log_batch(self.run, metrics=metrics[at:at + self.MOST])

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.run, "FINISHED" if finished else "KILLED")


class Trackio:
    """project; kept on this computer (TRACKIO_DIR), or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""

    package = "trackio"

    def __init__(self, target: str) -> None:
        self.project = target

    def open(self, run: str | None, name: str, config: Mapping[str, Any], folder: Path) -> str:
        trackio = importlib.import_module("trackio")
        # Runs are found by their name there; so it carries an id that no other run has.
        run = run or f"{name.replace('/', ' ')} {uuid.uuid4().hex[:6]}"
        with contextlib.redirect_stdout(sys.stderr):  # it greets on stdout, where a script reads our JSON
            self.run = trackio.init(project=self.project, name=run, resume="allow", config=dict(config), embed=False,
                                    auto_log_gpu=False, auto_log_cpu=False)
        return run

    def log(self, records: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in records:
            self.run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.run.finish()


SERVICES: dict[str, Callable[[str], Service]] = {"wandb": Wandb, "mlflow": MLflow, "trackio": Trackio}
EXAMPLES = {"wandb": "wandb:PROJECT", "mlflow": "mlflow:http://localhost:5000 (or a folder)",
            "trackio": "trackio:PROJECT"}


def service(spec: str) -> Service:
    """`kind:target` -> what it names. UserError where it names nothing, or its library is not installed."""
    kind, _, target = spec.partition(":")
    if kind not in SERVICES or not target:
        raise UserError(f"{spec!r} names no tracker", where="--track", fix=f"use {', '.join(EXAMPLES.values())}")
    made = SERVICES[kind](target)
    if importlib.util.find_spec(kind) is None:
        package = made.package  # type: ignore[attr-defined]
        raise UserError(f"{kind} is not installed", where=f"--track {spec}", fix=f"pip install {package}")
    return made


def check(specs: Sequence[str]) -> None:
    """Raise UserError now for what would fail later."""
    for spec in specs:
        service(spec)


@dataclass
class _Count:
    sent: int = 0
    failed: int = 0
    dropped: int = 0


class Tracker:
    """One service behind a queue. `write` and `close` never raise and never wait for it, but for `PATIENCE` at the
    end."""

    def __init__(self, spec: str, name: str, folder: Path, config: Mapping[str, Any], say: Callable[[str], None],
                 patience: float = PATIENCE, pause: float = 1.0) -> None:
        """name: of the run, recipe/stage@version. folder: the run's telemetry. config: what to write beside it.
        pause: seconds after a first failure."""
        self.spec, self.count = spec, _Count()
        self._service, self._name, self._config, self._say = service(spec), name, config, say
        self._patience, self._pause = patience, pause
        self._folder, self._notes = folder, folder / "trackers.json"
        note = _read(self._notes).get(spec, {})
        self._run, self._sent_to = note.get("run"), int(note.get("step", -1))
        self._opened, self._finished, self._error = False, True, ""
        self._closing = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name=f"tracker {spec}", daemon=True)
        self._thread.start()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers of a step; all else is left out, and so is what an earlier process sent."""
        numbers = {name: float(value) for name, value in values.items()
                   if isinstance(value, (int, float)) and not isinstance(value, bool)}
        if step <= self._sent_to or not numbers:
            return
        try:
            self._queue.put_nowait((step, numbers))
        except queue.Full:
            self.count.dropped += 1

    def close(self, finished: bool = True) -> None:
        """Wait until what is left is sent, not for ever; then say what failed. Who interrupts a training waits less."""
        self._finished = finished
        patience = self._patience if finished else min(self._patience, INTERRUPTED)
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._queue.put(STOP, timeout=patience)
        self._thread.join(patience)
        late = self._thread.is_alive()
        if late:
            self.count.dropped += self._queue.qsize()
        if late or self.count.failed or self.count.dropped:
            self._say(f"  tracker {self.spec}: {self.count.sent} steps sent, {self.count.failed} failed, "
                      f"{self.count.dropped} dropped" + (f"; last error: {self._error}" if self._error else "") + (
                          f"; it did not end within {patience:.0f} s" if late else ""))

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if not self._tried(self._open):
            self._closing.wait()
        last, noted, stopping = self._sent_to, time.monotonic(), False
        while not stopping:
            records, stopping = self._take()
            if self._opened and records and self._tried(partial(self._service.log, records)):
                last = records[-1][0]
                self.count.sent += len(records)
            else:
                self.count.failed += len(records)
            if self._opened and (stopping or time.monotonic() - noted > NOTED):
                self._note(last)
                noted = time.monotonic()
        if self._opened:
            self._tried(lambda: self._service.close(self._finished))

    def _open(self) -> None:
        self._run = self._service.open(self._run, self._name, self._config, self._folder)
        self._opened = True
        self._note(self._sent_to)

    def _tried(self, action: Callable[[], None]) -> bool:
        """Whether it worked in the end; near the end of a run there is one try."""
        for attempt in range(FAILURES):
            try:
                action()
                return True
            except Exception as error:  # whatever a tracker does, training goes on
                text = str(error).splitlines()[0] if str(error) else ""
                first, self._error = not self._error, f"{type(error).__name__}: {text}"
                if first:
                    self._say(f"  tracker {self.spec}: {self._error} (training goes on)")
            if self._closing.wait(min(self._pause * 2**attempt, LONGEST_PAUSE)):
                break
        return False

    def _take(self) -> tuple[list[tuple[int, Mapping[str, float]]], bool]:
        """All that waits, at least one; and whether that was all."""
        items = [self._queue.get()]
        while len(items) < 1000:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        stopping = STOP in items
        return [item for item in items if item is not STOP], stopping

    def _note(self, step: int) -> None:
        with _NOTES, contextlib.suppress(OSError, Exception):
            write_json(self._notes, {**_read(self._notes), self.spec: {"run": self._run, "step": step}})


_NOTES = threading.Lock()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names; lists as JSON."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
    return found
