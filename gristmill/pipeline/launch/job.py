"""What is to be run and what it may use, before any scheduler's words for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gristmill.core.errors import UserError

GRACE = 120
"""Seconds between the order to stop and the kill: time to write a checkpoint."""

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@:,/=-]*\Z")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@#+-]*\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a recipe on `nodes` nodes with `processes` processes each; amounts are those of one node.

    Raises UserError where a value cannot be written for any scheduler.
    """

    name: str
    """A DNS label (lower-case letters, digits, hyphens), so that every scheduler takes it."""
    recipe: str
    """The recipe's file, relative to `workdir` or absolute."""
    workdir: str
    """Absolute path of the folder that relative paths of the recipe start from."""
    recipe_text: str = ""
    """Its content, for schedulers whose nodes do not see the file."""
    runs_dir: str = "runs"
    arguments: tuple[str, ...] = ()
    """Further options of `gristmill run`."""
    nodes: int = 1
    min_nodes: int | None = None
    """Where nodes may come and go: with how many the run begins, and still goes on."""
    processes: int = 1
    gpus: int = 0
    cpus: int | None = None
    memory: int | None = None
    """MiB."""
    seconds: int | None = None
    accelerator: str | None = None
    """The kind of GPU, in the scheduler's own spelling."""
    image: str | None = None
    queue: str | None = None
    account: str | None = None
    volume: str | None = None
    """Where runs are kept: a PersistentVolumeClaim (Kubernetes) or a bucket's URL (SkyPilot)."""
    environment: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    """Names of variables; their values never reach a file."""
    setup: tuple[str, ...] = ()
    """Shell lines that every node runs first, as they are."""
    restarts: int = 3
    namespace: str | None = None
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[tuple[str, str, str], ...] = ()
    """(key, value, effect); an empty value tolerates every value, an empty effect every effect."""

    def __post_init__(self) -> None:
        _demand(len(self.name) <= 63 and bool(_NAME.match(self.name)), "--name",
                f"{self.name!r} is not a name that every scheduler takes",
                "at most 63 lower-case letters, digits and hyphens; a letter first, no hyphen last")
        for option, number, least in (("--nodes", self.nodes, 1), ("--min-nodes", self.min_nodes, 1),
                                      ("--processes", self.processes, 1),
                                      ("--gpus", self.gpus, 0), ("--cpus", self.cpus, 1), ("--memory", self.memory, 1),
                                      ("--time", self.seconds, 1), ("--restarts", self.restarts, 0)):
            _demand(number is None or number >= least, option, f"{number} is too small", f"at least {least}")
        _demand(self.min_nodes is None or self.min_nodes <= self.nodes, "--min-nodes",
                f"{self.min_nodes} is more than --nodes {self.nodes}")
        for option, word, rule in (("--queue", self.queue, _WORD), ("--account", self.account, _WORD),
                                   ("--accelerator", self.accelerator, _WORD), ("--image", self.image, _IMAGE)):
            _demand(word is None or bool(rule.match(word)), option, f"{word!r} has characters that no scheduler takes")
        for option, names in (("--env", [n for n, _ in self.environment]), ("--secret", list(self.secrets))):
            for name in names:
                _demand(bool(_VARIABLE.match(name)), option, f"{name!r} is not the name of an environment variable")
        twice = {n for n, _ in self.environment} & set(self.secrets)
        _demand(not twice, "--secret", f"{', '.join(sorted(twice))} is also given by --env")
        _demand(self.workdir.startswith("/"), "workdir", f"{self.workdir!r} is not an absolute path")
        for option, text in (("RECIPE", self.recipe), ("--runs-dir", self.runs_dir), ("workdir", self.workdir),
                             ("--runs-volume", self.volume or ""),
                             ("run options", " ".join(self.arguments)), ("--setup", "\n".join(self.setup)),
                             ("--env", "".join(v for _, v in self.environment)), ("RECIPE", self.recipe_text)):
            _demand(_is_text(text), option, "NUL or half of a surrogate pair: no file can hold this text")
        _demand(bool(self.recipe and self.runs_dir), "RECIPE", "a path is empty")

    @property
    def world(self) -> int:
        """Processes altogether."""
        return self.nodes * self.processes

    @property
    def elastic(self) -> bool:
        """Whether nodes may come and go."""
        return self.min_nodes is not None and self.min_nodes < self.nodes

    @property
    def threads(self) -> int | None:
        """Threads for a process, where the cores of a node are known."""
        return None if self.cpus is None else max(1, self.cpus // self.processes)

    def variables(self) -> dict[str, str]:
        """The environment of every process: the user's, and the thread count that follows from `cpus`."""
        given = dict(self.environment)
        if self.threads is not None:
            given.setdefault("OMP_NUM_THREADS", str(self.threads))
        return given

    def words(self, recipe: str | None = None) -> list[str]:
        """`run RECIPE ...`, what follows `gristmill` or `python -m gristmill`."""
        path = recipe or self.recipe
        path = f"./{path}" if path.startswith("-") else path
        return ["run", path, f"--runs-dir={self.runs_dir}", *self.arguments]


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _demand(condition: bool, where: str, what: str, fix: str | None = None) -> None:
    if not condition:
        raise UserError(what, where=where, fix=fix)
