"""One run on several processes that torchrun started: the first leads, the others wait for stages that can use them.

They talk through the key-value store of torchrun (`torch.distributed.TCPStore`), not through collectives: a stage of
the first process may take days while the others sleep. A process group is there only during a stage of all.

    hello/<rank>        who has arrived, with which code and recipe; answered by `welcome`, agreed by `ack/<rank>`
    stage/<n>           the n-th stage of all: name, seed, folders, inputs
    ready/<n>/<rank>    the folders are there for this process too; `done/<n>/<rank>`: it has left the stage
    failed/<rank>       what went wrong there
    end                 the run is over: exit code, artifacts

A key may be left from processes that torchrun has replaced, so that everything after the greeting lies under a name
that the first process makes up.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from gristmill.core import interrupt
from gristmill.core.errors import GristmillError, InternalError, Interrupted, MachineError, Told, UserError

POLL = 0.1
"""Seconds between two looks into the store."""
ARRIVAL = 600.0
"""Seconds in which all processes must have arrived, seen a stage's folders, or left a stage."""
COLLECTIVE = datetime.timedelta(minutes=30)
"""A collective that waits longer than this fails: a process is gone or hangs."""
FAREWELL = 5.0
"""Seconds for the others to read how a run ended."""


@dataclass(frozen=True)
class Place:
    """Who this process is among those that torchrun started."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0


def place() -> Place:
    """From the environment (RANK, WORLD_SIZE); one process alone without torchrun."""
    if "RANK" not in os.environ:
        return Place()
    return Place(int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", 1)))


def check_layout(parallel: str, size: int) -> None:
    """Raise UserError where `--parallel` cannot be read, or is for another number of processes: at the start, and not
    when a training begins after hours of data work."""
    if parallel.strip() == "auto":
        return
    from gristmill.training.parallel.layout import Layout

    layout = Layout.parse(parallel)
    if layout.processes != size:
        raise UserError(f"{parallel} is for {layout.processes} processes, and this run has {size}", where="--parallel",
                        fix="`gristmill launch --processes N` starts N a node; --parallel auto takes what is there")


class ProcessLost(MachineError):
    """Another process is gone, or does not answer."""


class _Store:
    """JSON values under names that live as long as the processes of this start."""

    def __init__(self, here: Place) -> None:
        import torch.distributed as dist

        self.here = here
        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if not host or not port:
            raise UserError("RANK is set, but MASTER_ADDR and MASTER_PORT are not", where="environment",
                            fix="start several processes with torchrun (`gristmill launch`), or unset RANK")
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        try:
            store = dist.TCPStore(host, int(port), None, here.main and not served, multi_tenant=True,
                                  timeout=datetime.timedelta(seconds=ARRIVAL), wait_for_workers=False)
        except (RuntimeError, ValueError) as error:
            raise MachineError(f"process {here.rank} finds nobody at {host}:{port} ({first_line(error)})",
                               fix="the port must be open between the nodes") from error
        # Not by TORCHELASTIC_RESTART_COUNT: each node's torchrun counts for itself, and one that joins begins at 0.
        self.root = dist.PrefixStore("gristmill", store)
        self.session: Any = None

    def open_session(self, name: str) -> None:
        import torch.distributed as dist

        self.session = dist.PrefixStore(name, self.root)

    def put(self, key: str, value: Any, store: Any = None) -> None:
        with _reached():
            (store or self.session).set(key, json.dumps(value))

    def get(self, key: str, store: Any = None) -> Any:
        """The value, or None while there is none."""
        store = store or self.session
        with _reached():
            return json.loads(store.get(key)) if store.check([key]) else None

    @contextmanager
    def group(self, turn: int, device: str) -> Iterator[None]:
        """A process group of all, for one stage."""
        import torch.distributed as dist

        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        with _reached():
            dist.init_process_group(backend, store=dist.PrefixStore(f"group/{turn}", self.session),
                                    rank=self.here.rank, world_size=self.here.size, timeout=COLLECTIVE)
        yield
        if dist.is_initialized():  # not after an error: with a process gone it could wait for ever
            dist.destroy_process_group()


class Leader:
    """The first process's side."""

    def __init__(self, here: Place, say: Any = None) -> None:
        self.here, self.store, self.turn, self.met = here, _Store(here), 0, False
        self.left: dict[str, str] = {}
        """Stage -> path of what the run has left, for the others."""
        self.say = say or (lambda text: print(text, file=sys.stderr, flush=True))

    @property
    def others(self) -> range:
        return range(1, self.here.size)

    def meet(self, card: Mapping[str, Any], patience: float = ARRIVAL) -> None:
        """Wait for all. Raises UserError where a process has another code or another recipe than this one."""
        cards = self._greet(patience)
        self.met = True
        for rank, theirs in cards.items():
            if "error" in theirs:
                raise UserError(f"process {rank} could not begin: {theirs['error']}",
                                fix="every node needs the recipe and everything that it names")
            for name, value in card.items():
                if theirs.get(name) != value:
                    raise UserError(f"process {rank} has another {name}: {theirs.get(name)}, here {value}",
                                    where=f"{self.here.size} processes",
                                    fix="all nodes must run the same code with the same recipe and options")

    def _greet(self, patience: float) -> dict[int, dict[str, Any]]:
        root, session, deadline = self.store.root, uuid.uuid4().hex, time.monotonic() + patience
        said = time.monotonic()
        seen: dict[str, str] = {}
        while True:
            hellos = {rank: self.store.get(f"hello/{rank}", root) for rank in self.others}
            numbers = {str(rank): hello["number"] for rank, hello in hellos.items() if hello}
            if numbers != seen:
                seen = numbers
                self.store.put("welcome", {"session": session, "numbers": numbers}, root)
            missing = [rank for rank in self.others if not hellos[rank] or
                       self.store.get(f"ack/{rank}", root) != f"{session} {hellos[rank]['number']}"]
            if not missing:
                self.store.open_session(session)
                return {rank: hellos[rank]["card"] for rank in self.others}
            if time.monotonic() > deadline:
                raise MachineError(f"{_ranks(missing)} did not arrive within {patience:.0f} s",
                                   fix="look at the output of those processes")
            if time.monotonic() - said > 30:
                said = time.monotonic()
                self.say(f"waiting for {_ranks(missing)} ...")
            time.sleep(POLL)

    @contextmanager
    def together(self, message: Mapping[str, Any]) -> Iterator[None]:
        """All processes run a stage: it begins when each has what it needs, and ends when all have left it."""
        self.turn += 1
        try:
            self.store.put(f"stage/{self.turn}", dict(message))
            self._all("ready")
            with self.store.group(self.turn, device_of(message["runtime"]["device"])):
                yield
                self._all("done")
        except (Exception, Interrupted) as error:
            interrupt.acted_on()
            if (cause := self._cause(error)) is not error:
                raise cause from error
            raise

    def _all(self, what: str) -> None:
        deadline, waited = time.monotonic() + ARRIVAL, list(self.others)
        while waited:
            waited = [rank for rank in waited if self.store.get(f"{what}/{self.turn}/{rank}") is None]
            if (failure := self._failure()) is not None:
                raise failure
            if waited and time.monotonic() > deadline:
                raise MachineError(f"{_ranks(waited)} did not get {what} within {ARRIVAL:.0f} s")
            if waited:
                time.sleep(POLL)

    def _failure(self) -> Told | None:
        """What one of the others says went wrong there."""
        for rank in self.others:
            with suppress(ProcessLost):
                if failed := self.store.get(f"failed/{rank}"):
                    return _as_error(rank, failed)
        return None

    def _cause(self, error: BaseException) -> BaseException:
        """What is to be told: what went wrong in another process, rather than what that did to this one."""
        deadline = time.monotonic() + (2.0 if isinstance(error, ProcessLost) else 0.0)
        while isinstance(error, (ProcessLost, Interrupted)):
            if (found := self._failure()) is not None:
                return error if isinstance(found, Interrupted) and isinstance(error, Interrupted) else found
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL)
        return error

    def end(self, error: BaseException | None = None) -> None:
        """Tell the others that the run is over, and give them a moment to hear it; raises nothing."""
        interrupt.acted_on()
        with suppress(GristmillError, OSError):
            if not self.met:
                self._greet(FAREWELL)
            self.store.put("end", {"code": 0 if error is None else exit_code(error), "artifacts": self.left,
                                   "error": None if error is None else str(error)})
            # Of processes that are lost not all will answer, and torchrun waits to begin again.
            deadline = time.monotonic() + (FAREWELL / 5 if isinstance(error, ProcessLost) else FAREWELL)
            while time.monotonic() < deadline and not all(self.store.get(f"left/{rank}") for rank in self.others):
                time.sleep(POLL)


@contextmanager
def leading(here: Place) -> Iterator[Leader]:
    """Around a run of the first process: however it ends, the others hear of it."""
    leader = Leader(here)
    try:
        yield leader
    except BaseException as error:
        leader.end(error)
        raise
    leader.end()


class Follower:
    """The side of every other process."""

    def __init__(self, here: Place) -> None:
        self.here, self.store, self.turn = here, _Store(here), 0

    def meet(self, card: Mapping[str, Any]) -> None:
        """Arrive, and wait until the first process has seen it."""
        root, number, deadline = self.store.root, uuid.uuid4().hex, time.monotonic() + 2 * ARRIVAL
        self.store.put(f"hello/{self.here.rank}", {"number": number, "card": dict(card)}, root)
        while True:
            welcome = self.store.get("welcome", root)
            if welcome and welcome["numbers"].get(str(self.here.rank)) == number:
                break
            if time.monotonic() > deadline:
                raise MachineError("the first process did not arrive", fix="look at its output")
            time.sleep(POLL)
        self.store.put(f"ack/{self.here.rank}", f"{welcome['session']} {number}", root)
        self.store.open_session(welcome["session"])

    def wait(self) -> dict[str, Any]:
        """The next stage of all, or how the run ended ({"code", "error", "artifacts"})."""
        while True:
            if (stage := self.store.get(f"stage/{self.turn + 1}")) is not None:
                self.turn += 1
                return stage
            if (end := self.store.get("end")) is not None:
                self.leave()
                return end
            time.sleep(POLL)

    def leave(self, patience: float = 0.0) -> dict[str, Any] | None:
        """Take leave; returns how the run ended, if that is known within `patience` seconds."""
        if self.store.session is None:
            return None
        with suppress(ProcessLost):
            deadline = time.monotonic() + patience
            while (end := self.store.get("end")) is None and time.monotonic() < deadline:
                time.sleep(POLL)
            self.store.put(f"left/{self.here.rank}", True)
            return end
        return None

    @contextmanager
    def together(self, message: Mapping[str, Any]) -> Iterator[None]:
        """Around the stage that `message` stands for; everything that it needs must be there."""
        self.store.put(f"ready/{self.turn}/{self.here.rank}", True)
        with self.store.group(self.turn, device_of(message["runtime"]["device"])):
            yield
            self.store.put(f"done/{self.turn}/{self.here.rank}", True)

    def fail(self, error: BaseException) -> None:
        """Tell the first process; raises nothing."""
        said = (error.what, error.where, error.fix) if isinstance(error, Told) else (repr(error), None, None)
        if self.store.session is not None:
            with suppress(GristmillError):
                self.store.put(f"failed/{self.here.rank}",
                               {"code": exit_code(error), **dict(zip(("what", "where", "fix"), said, strict=True))})


def device_of(name: str) -> str:
    """`cpu` or `cuda` for what --device says."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def exit_code(error: BaseException) -> int:
    if isinstance(error, Told):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that gloo adds."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". This is typically")[0][:300]


def lost_process(error: BaseException) -> ProcessLost | None:
    """Where an error of torch.distributed says that another process is gone or hangs: that, in words."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "Socket closed",
             "NCCL", "ProcessGroup", "recvValue", "store->get")
    if isinstance(error, RuntimeError) and (
            type(error).__name__.startswith("Dist") or any(sign in str(error) for sign in signs)):
        return ProcessLost(f"another process of this training is gone or does not answer ({first_line(error)})",
                           fix="its own output says why; torchrun starts all of them again, and the run goes on from "
                               "its last checkpoint")
    return None


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the errors of torch.distributed are RuntimeErrors
        raise ProcessLost(f"the other processes cannot be reached any more ({first_line(error)})",
                          fix="the first process or torchrun itself has ended; its output says why") from error


def _as_error(rank: int, failed: Mapping[str, Any]) -> Told:
    kinds: dict[int, type[Told]] = {2: UserError, 3: MachineError}
    kind = Interrupted if failed["code"] >= 128 else kinds.get(failed["code"], InternalError)
    error = kind(f"process {rank}: {failed['what']}", where=failed["where"], fix=failed["fix"])
    if failed["code"] >= 128:
        error.exit_code = failed["code"]
    return error


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"process{'es' if len(ranks) > 1 else ''} {shown}"
