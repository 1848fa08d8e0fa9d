"""Processes that hold stages of a decoder and hand micro-batches on to each other (torch.distributed.pipelining).

Every process reads the same rows; only states and their gradients are sent. What is minimised is a sum, so gradients
of micro-batches are added and never scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.distributed.tensor import DTensor

from gristmill.core.errors import GristmillError, InternalError, UserError
from gristmill.core.seeds import derive_seed
from gristmill.models.body import Body
from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Decoder
from gristmill.objectives.base import Batch, Objective
from gristmill.training.accumulate import Passes
from gristmill.training.device import Compute
from gristmill.training.micro_batch import Metrics, MicroBatch, Sums
from gristmill.training.parallel import data, weights
from gristmill.training.parallel.apply import Settings, change_blocks, cut
from gristmill.training.parallel.gradients import HELD_BY_STAGES, local
from gristmill.training.parallel.idle import Idle
from gristmill.training.parallel.layout import Layout
from gristmill.training.parallel.stages import (
    Scored,
    Stage,
    empty,
    expert_share,
    goes_back_from_functions,
    keep_only,
    part_of,
    stages_of,
)
from gristmill.training.parallel.tensor import check_rows
from gristmill.training.parallel.world import TIMEOUT, World

SCHEDULES: dict[str, tuple[Any, int]] = {
    "gpipe": (ScheduleGPipe, 1),
    "1f1b": (Schedule1F1B, 1),
    "interleaved": (ScheduleInterleaved1F1B, 2),
    "zero_bubble": (ScheduleInterleavedZeroBubble, 2),
}
"""Layout.schedule -> torch's class, and how many stages each process holds."""


def bubble(schedule: str, processes: int, micro_batches: int) -> float:
    """Share of the time that a process waits in the ideal case: stages cost the same, a forward pass half of a
    backward pass, sending nothing.

    (P - 1) / (v M + P - 1) for v stages a process (arXiv:2104.04473, 2.2); zero_bubble puts off the gradients of
    weights, a third of the work, so that a third of that idle time is left: (P - 1) / (3 v M + P - 1)
    (arXiv:2401.10241, section 2).
    """
    _, held = SCHEDULES[schedule]
    work = held * micro_batches * (3 if schedule == "zero_bubble" else 1)
    return (processes - 1) / (work + processes - 1)


def split(model: Body, objective: Objective, attached: nn.Module | None, world: World, compute: Compute,
          settings: Settings) -> Passes:
    """Leave in `model` the blocks of this process, spread over the other axes, and return what runs them.

    Raises UserError where the model, the objective or the schedule cannot be cut so.
    """
    layout = world.layout
    where, count = f"parallel: {layout.describe()}", check(model.config, layout)
    assert isinstance(model, Decoder)
    if layout.schedule == "zero_bubble" and settings.compile:
        raise UserError("compiled blocks have one backward pass, and zero_bubble needs it in two parts", where=where,
                        fix="use --compile auto, or schedule=interleaved")
    if layout.schedule == "zero_bubble" and settings.checkpointing != "none":
        raise UserError("zero_bubble goes back through every block twice, and would make its activations again twice",
                        where=where, fix="use schedule=interleaved, or keep all activations")
    if layout.schedule == "zero_bubble" and not goes_back_from_functions():
        raise UserError(f"zero_bubble goes back from the middle of a graph, which torch {torch.__version__} cannot do "
                        "where operators of its own stand there", where=where,
                        fix="use schedule=interleaved, or torch 2.13")
    scored = Scored(objective)
    shared = model.config.tied_head or scored.looks_up
    carried = model.embedding.weight.dtype
    withheld = weights.withhold(MicroBatch(model, objective, attached), world)
    dealt = stages_of(model.config, attached, count)
    mine = range(world.place("pipeline"), count, layout.pipeline)
    first, last = mine[0] == 0, mine[-1] == count - 1
    stages = []
    for index in mine:
        ends = {"first": index == 0, "last": index == count - 1}
        part = part_of(model, dealt[index], **ends, shared=shared)
        stages.append(Stage(part, scored, attached if ends["last"] else None, index=index, count=count,
                            share=expert_share(model, dealt[index]), compute=compute))
    keep_only(model, [layer for index in mine for layer in dealt[index]], first=first, last=last, shared=shared)
    if attached is not None and not last:
        empty(attached)
    passes = Pipeline(stages, [], model, world, compute, carried, count)
    for stage in stages:
        stage.part = cut(stage.model, objective, stage.attached, world)
        change_blocks(stage.model, settings)
        passes.spread(stage)
    if withheld is not None:
        for stage in stages:
            weights.fill(stage, withheld, world, strict=False)
    if shared:
        passes.share_embedding()
    return passes


def check(config: Any, layout: Layout) -> int:
    """Stages of all processes; UserError where a model of this config cannot be cut into so many."""
    where = f"parallel: {layout.describe()}"
    if not isinstance(config, DecoderConfig):
        raise UserError(f"a pipeline cuts decoders; {config.family} is none", where=where,
                        fix="use the axes replicate, shard or tensor")
    _, held = SCHEDULES[layout.schedule]
    count = layout.pipeline * held
    if count > config.layers:
        most = config.layers // held
        raise UserError(
            f"{config.layers} blocks cannot be cut into {count} stages ({held} a process)", where=where,
            fix=(f"use pipeline={most} or less" if most > 1 else "use other axes") + (
                ", or schedule=1f1b, which needs one stage a process" if held > 1 else ""))
    return count


@dataclass
class Pipeline:
    """Runs this process's stages."""

    stages: list[Stage]
    settles: list[Callable[[], None]]
    """Of each stage that is sharded: forgets gathered weights."""
    model: Decoder
    world: World
    compute: Compute
    carried: torch.dtype
    """Of the states that are sent."""
    count: int
    """Stages of all processes."""
    whole: bool = False
    _ends: Any = None
    _copied: bool = False
    _schedule: tuple[tuple[int, ...], Any] | None = None
    _named: list[tuple[str, str]] | None = None
    _sent: list[tuple[dist.Work, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.idle = Idle(self.compute.device)

    # -- spreading -------------------------------------------------------------------------------------------------

    def spread(self, stage: Stage) -> None:
        """Let other processes hold copies or shares of a stage."""
        # Copies without DDP: its buckets wait for one backward pass, and a stage has many, some of them in two parts.
        self._copied = data.copies_weights(self.world)
        if data.shares_weights(self.world):
            shared = data.shard(stage, stage.model, self.world, self.compute)  # type: ignore[arg-type]
            self.settles.append(shared.settle)

    def share_embedding(self) -> None:
        """The first and the last stage both hold the embedding: their gradients are added after every update, so that
        the copies stay equal. `HELD_BY_STAGES` says so to whoever counts or stores weights."""
        assert self.world.mesh is not None
        pairs = self.world.mesh.mesh[[0, -1]].flatten(1).T.tolist()
        self._ends, _ = dist.new_subgroups_by_enumeration(pairs, timeout=TIMEOUT)
        for parameter in self._twice():
            setattr(parameter, HELD_BY_STAGES, 2)

    def _twice(self) -> list[nn.Parameter]:
        """Parameters that another stage holds too."""
        embeddings = [stage.model.embedding for stage in self.stages if stage.model.embedding is not None]
        return [parameter for embedding in embeddings for parameter in embedding.parameters()
                ] if self._ends is not None else []

    # -- training --------------------------------------------------------------------------------------------------

    def run(self, window: Sequence[Batch], factors: Mapping[str, Tensor | float]) -> tuple[Sums, Metrics]:
        """See `Passes`. Only the process of the last stage has sums and metrics (and those with experts their share of
        the losses of experts); the others have zeros by the same names.

        Raises UserError for a number of micro-batches, or rows, that the schedule cannot take.
        """
        self._check(window)
        self._begin(window, factors)
        schedule = self._scheduled(len(window), *self.stages[0].shape)
        if self.world.place("pipeline"):  # or blocks of two stages would drop out alike
            torch.manual_seed(derive_seed(torch.initial_seed(), "stage", self.world.place("pipeline")))
        tickets = torch.empty(len(window), device=self.compute.device)
        try:
            with self.idle.update():
                schedule.step(*[tickets] * self.stages[0].first, **{"target": tickets} if self.stages[-1].last else {})
        except RuntimeError as error:
            _retell(error)
        self._add_gradients()
        return self._found()

    def telemetry(self) -> dict[str, float]:
        """pipeline_bubble: the share of its time that a process waits by the schedule, see `bubble`; pipeline_idle:
        that this one waited, see `Idle`."""
        assert self._schedule is not None
        layout, (micro_batches, *_) = self.world.layout, self._schedule[0]
        return {"pipeline_bubble": bubble(layout.schedule, layout.pipeline, micro_batches),
                "pipeline_idle": self.idle.read()}

    def _scheduled(self, micro_batches: int, rows: int, tokens: int) -> Any:
        """torch's schedule for updates of this shape; one is kept, as it holds the buffers for what is received."""
        key = (micro_batches, rows, tokens)
        if self._schedule is not None and self._schedule[0] == key:
            return self._schedule[1]
        self._schedule = None
        kind, held = SCHEDULES[self.world.layout.schedule]
        # Shapes are known beforehand: torch would find them out by an extra pass, whose tokens experts would count.
        sent = torch.empty(self._shape(rows, tokens), dtype=self.carried, device="meta", requires_grad=True)
        ticket, loss = torch.empty(1, device="meta"), torch.empty(1, device="meta", requires_grad=True)
        stages = [_Timed(stage, stage.index, self.count, self.compute.device,
                         input_args=ticket if stage.first else sent, output_args=loss if stage.last else sent,
                         group=self.world.group("pipeline")).by(self.idle) for stage in self.stages]
        schedule = kind(stages if held > 1 else stages[0], micro_batches, loss_fn=_as_it_is, scale_grads=False)
        self._schedule = key, schedule
        return schedule

    def _shape(self, rows: int, tokens: int) -> tuple[int, int, int]:
        """Of what is sent: beside `tensor`, every process has a stretch of each row between blocks. Raises UserError,
        on every stage, for rows that cannot be cut so."""
        size = self.world.layout.tensor if self.world.layout.sequence else 1
        check_rows(tokens, size)
        return rows, tokens // size, self.model.config.dim

    def _check(self, window: Sequence[Batch]) -> None:
        lengths = {batch["input_ids"].shape[1] for batch in window}
        if len(lengths) > 1:
            raise UserError(f"rows of {', '.join(map(str, sorted(lengths)))} tokens in one update", where="parallel: "
                            "pipeline", fix="give all rows of an update one length, or use other axes")
        self.world.layout.check_micro_batches(len(window))

    def _begin(self, window: Sequence[Batch], factors: Mapping[str, Tensor | float]) -> None:
        self._wait()
        moved = [{name: self.compute.moved(tensor) for name, tensor in batch.items()}
                 for batch in window]
        for stage in self.stages:
            stage.train(self.model.training)
            stage.begin(moved, factors)

    @torch.no_grad()
    def _add_gradients(self) -> None:
        """Over copies of this stage, and over the first and the last stage."""
        parameters = [parameter for stage in self.stages for parameter in stage.parameters()
                      if parameter.grad is not None]
        for parameter in parameters:  # zero_bubble puts gradients there past the hooks that finish them
            if isinstance(parameter, DTensor) and isinstance(parameter.grad, DTensor):
                parameter.grad = parameter.grad.redistribute(placements=parameter.placements)  # type: ignore[assignment]
        works = []
        if self._copied:
            group = self.world.group("replicate")
            works = [dist.all_reduce(parameter.grad, group=group, async_op=True) for parameter in parameters]
        for work in works:
            work.wait()
        for parameter in self._twice():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(local(parameter.grad), group=self._ends)

    def _found(self) -> tuple[Sums, Metrics]:
        """What the stages saw, by the names that the last one knows."""
        last = self.stages[-1]
        if self._named is None:  # once: names do not change
            box = [[(name, unit) for name, (_, unit) in last.metrics.items()] if last.last else None]
            group = self.world.group("pipeline")
            dist.broadcast_object_list(box, group=group, device=self.compute.device,
                                       src=dist.get_global_rank(group, self.world.layout.pipeline - 1))
            self._named = box[0]
        assert self._named is not None
        # Each its own tensor: whoever reads them may sum them over processes in place.
        sums = {name: sum((stage.sums[name] for stage in self.stages if name in stage.sums), self._zero())
                for name in last.objective.weights}
        return sums, {name: last.metrics[name] if last.last else (self._zero(), unit) for name, unit in self._named}

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self.compute.device)

    # -- evaluation ------------------------------------------------------------------------------------------------

    def score(self, batch: Batch) -> tuple[Sums, Metrics]:
        """See `Passes`; the process of the last stage has the result, the others zeros. Batches overlap: a process
        goes on to the next as soon as it has handed one on."""
        group = self.world.group("pipeline")
        ranks = [dist.get_global_rank(group, place) for place in range(self.world.layout.pipeline)]
        self._begin([batch], {})
        with torch.no_grad():
            for stage in self.stages:
                given = torch.empty(self._shape(*stage.shape), dtype=self.carried, device=self.compute.device)
                if not stage.first:
                    dist.recv(given, ranks[(stage.index - 1) % len(ranks)], group)
                out = stage(given)
                if not stage.last:
                    self._wait()
                    work = dist.isend(out, ranks[(stage.index + 1) % len(ranks)], group)
                    assert work is not None
                    self._sent.append((work, out))
        for settle in self.settles:
            settle()
        return self._found()

    def within(self, use: Callable[[nn.Module], Any]) -> NoReturn:
        raise InternalError("no process of a pipeline holds the whole model", fix="use `score`")

    def _wait(self) -> None:
        while self._sent:
            self._sent.pop()[0].wait()


class _Timed(PipelineStage):
    """A stage whose passes are timed."""

    def by(self, idle: Idle) -> _Timed:
        """Tell this one."""
        self.idle = idle
        return self

    def forward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        with self.idle.work():
            return super().forward_one_chunk(*args, **kwargs)

    def backward_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        with self.idle.work():
            return super().backward_one_chunk(*args, **kwargs)

    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> Any:
        with self.idle.work():
            return super().backward_weight_one_chunk(*args, **kwargs)


def _as_it_is(loss: Tensor, target: Tensor) -> Tensor:
    """The last stage gives what is to be minimised."""
    return loss


def _retell(error: RuntimeError) -> NoReturn:
    """torch wraps whatever a stage raises; what was meant for the user is told as it was."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, GristmillError):
        cause = cause.__cause__
    raise cause or error
