"""The contract of a stage: a config class whose `run` turns declared inputs into an artifact's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

from gristmill.core.artifact import Artifact
from gristmill.core.config import config
from gristmill.core.progress import Progress, Silent
from gristmill.core.writer import Writer

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """Choices that may change how fast a stage runs but not what it means; no part of identity."""

    device: str = "auto"
    """cpu, cuda, or auto (cuda where there is one)."""
    threads: int = 0
    """CPU threads; 0 means OMP_NUM_THREADS where it is set, else all cores."""
    workers: int = 0
    """Processes for data work; 0 means as many as cores."""
    executor: str = "local"
    """Who does data work: local (processes of this machine), ray (a Ray on this machine) or ray://host:port."""
    compile: str = "auto"
    """auto, always or never: torch.compile of the model's blocks; with never, of a GPU's kernels neither."""
    cuda_graphs: str = "never"
    """never, auto (where they can be) or always: forward and backward of a micro-batch as one CUDA graph."""
    precision: str = "auto"
    """auto (bf16 where the device has it, else fp16 on a GPU and fp32 on a CPU), bf16, fp32, fp16, or float8 (bf16 with
    float8 products in the large layers)."""
    parallel: str = "auto"
    """How processes that torchrun started share a training: auto, none, or axes as in shard=4,tensor=2."""
    hang_after: int = 900
    """Seconds without any progress after which processes that train together end with a report; 0 for never."""
    check_ranks: int = 0
    """Updates between comparisons of the weights that processes share; 0 compares them at the start only."""
    track: tuple[str, ...] = ()
    """Where metrics go besides the run's folder: wandb:PROJECT, mlflow:URI, trackio:PROJECT."""
    checkpoints: str | None = None
    """A URL that fsspec reads, below which trainings keep their checkpoints; default with the run."""
    profile: bool = False
    """Record a few steps of each training: a trace, and where the time went."""
    memory_snapshot: bool = False
    """Record what holds memory during those steps."""
    deterministic: bool = False
    """Only operations that give the same bits every time; a slower run, or an error where there is none."""


@dataclass
class StageContext:
    """What a stage gets besides its config."""

    name: str
    """recipe/stage@version: what the artifact will be called."""
    seed: int
    """The recipe's seed joined with the stage's name."""
    work: Path
    """The folder that becomes the artifact. It survives a crash: on resume the stage finds what it left.
    What depends on time or speed goes under work/telemetry, scraps under work/.scratch (removed at the end);
    everything else must come out bit for bit the same however often the stage was interrupted."""
    cache: Path
    """Derived data shared between stages; entries are named by digest and renamed into place when complete."""
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    """Every reference in the config -> the artifact it stands for."""
    runtime: Runtime = Runtime()
    progress: Progress = field(default_factory=Silent)
    open_writer: Callable[[Artifact], Writer] | None = None
    """Opens a model among the inputs as a writer, for rooms that stand before those that know models."""

    checkpoints: Path | str = ""
    """Where a training keeps its checkpoints: a folder, or a URL that fsspec reads; default one under `scratch`."""

    def __post_init__(self) -> None:
        self.checkpoints = self.checkpoints or self.work / ".scratch" / "checkpoints"

    @property
    def telemetry(self) -> Path:
        folder = self.work / "telemetry"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def scratch(self) -> Path:
        folder = self.work / ".scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Stage(Protocol):
    """A frozen config that can run. Made by the `stage` decorator."""

    kind: ClassVar[str]
    produces: ClassVar[str]
    semantics_version: ClassVar[int]
    many_processes: ClassVar[bool]

    def run(self, context: StageContext) -> Mapping[str, Any]:
        """Fill context.work and give the metrics for the record (JSON-ready, the same on every run)."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def stage(kind: str, produces: str, semantics_version: int = 1,
          many_processes: bool = False) -> Callable[[type[T]], type[T]]:
    """Class decorator: a config dataclass with `run` becomes the stage `uses: kind`.

    produces: kind of artifact (corpus, tokenizer, model, evaluation, release, ...).
    semantics_version: raised when the same config and inputs give another result than before.
    many_processes: `run` is called on every process of a run and shares the work; else on the first one only.
    """

    def decorate(cls: type[T]) -> type[T]:
        made = config(cls)
        made.kind, made.produces, made.semantics_version = kind, produces, semantics_version  # type: ignore[attr-defined]
        made.many_processes = many_processes  # type: ignore[attr-defined]
        return made

    return decorate
