"""The stage `pretrain`: a model of any family learns from a corpus, by the objective of its family or another."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from gristmill.core.artifact import Artifact
from gristmill.core.config import CorpusRef, ModelRef, TokenizerRef, require, to_plain
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import StageContext, stage
from gristmill.models.body import Body
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters, load_model, skeleton
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.objectives.pretraining import PretrainingObjective, default_objective
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import (
    ArrangedRows,
    Arrangement,
    BatchWarmup,
    Curriculum,
    Mixture,
    Packing,
    Positions,
    TokenShards,
    arrange,
    laid_out,
    materialise,
)
from gristmill.tokens.curriculum import row_cuts
from gristmill.training.budget import Budget, Here, allowance, counted_steps, timed_steps
from gristmill.training.compile import on_gpu, should_compile, slow_float8
from gristmill.training.config import TrainingConfig
from gristmill.training.cuda_graphs import refuse_graphs_of_many_shapes
from gristmill.training.device import Compute, prepare
from gristmill.training.fit_memory import Fit, available_bytes, fitting, try_out
from gristmill.training.hardware import Hardware, power_meter
from gristmill.training.held_out import HeldOut
from gristmill.training.loop import Trainer
from gristmill.training.parallel import World
from gristmill.training.parallel.apply import Settings
from gristmill.training.parallel.auto import Workload
from gristmill.training.parallel.choose import choose_layout
from gristmill.training.predictions import PYTHON_PROMPTS, Prompt
from gristmill.training.reading import Windows, check_reading, describe_packing
from gristmill.training.schedules import missed_peak, require_warmup
from gristmill.training.watching import hosts

MEASURED_UPDATES = 4
CPU_PACE, GPU_PACE = 0.5e12, 1e14
"""FLOP/s that a small CPU and a GPU of this decade reach, about: whether compiling pays is decided by them."""


@stage(kind="pretrain", produces="model", many_processes=True)
class Pretrain:
    """Train a model from scratch (or go on from `start`) on the objective of its family, or another that fits it."""

    corpus: CorpusRef
    """The text."""
    tokenizer: TokenizerRef | None = None
    """Its tokenizer; needed unless `start` brings one."""
    model: ModelSpec = ModelSpec()
    """What to train from scratch."""
    start: ModelRef | None = None
    """Go on from this model instead of from scratch."""
    objective: PretrainingObjective | None = None
    """What it learns, e.g. {kind: masked_lm}; default what the family is known for."""
    budget: Budget = Budget()
    """How much training."""
    batch: int | None = None
    """Rows of `context` tokens in an update; default as many as make 4,096 tokens."""
    micro_batch: int | Literal["auto"] | None = None
    """Rows pushed through the model at once; gradients add up exactly. Default: the whole batch. auto: as many as fit
    the memory (docs/training-memory.md)."""
    context: int | None = None
    """Tokens a row; default the model's context."""
    mixture: Mixture | None = None
    """How much of each source, domain or language is read; default all of the text alike."""
    curriculum: Curriculum | None = None
    """What is read when; default everything in random order."""
    packing: Packing = "concatenate"
    """concatenate: documents end to end, cut into rows. best_fit: no document that fits a row is cut, and rows are
    filled with whole ones (Ding et al. 2024); what stays empty is reported."""
    batch_warmup: BatchWarmup | None = None
    """Begin with smaller updates."""
    training: TrainingConfig = TrainingConfig()
    """Optimizer, schedule, evaluation, checkpoints."""
    validation_tokens: int = 16_384
    """Held-out tokens scored at each evaluation, always the same ones."""
    prompts: list[Prompt] = PYTHON_PROMPTS  # type: ignore[assignment]
    """Places whose five likeliest next tokens are traced at every evaluation."""

    def __post_init__(self) -> None:
        require(self.tokenizer is not None or self.start is not None, "tokenizer", "needed when training from scratch")
        for name in ("batch", "micro_batch", "context"):
            require(getattr(self, name) in (None, "auto") or getattr(self, name) >= 1, name, "must be at least 1")
        if self.batch is not None:
            require(not isinstance(self.micro_batch, int) or self.micro_batch <= self.batch, "micro_batch",
                    f"must be at most the batch, {self.batch}")
            require(self.batch_warmup is None or self.batch_warmup.start < self.batch, "batch_warmup.start",
                    f"must be less than the batch, {self.batch}")
        require_warmup(self.training.schedule, self.budget.steps)
        over_time = self.curriculum is not None and bool(self.curriculum.mixtures)
        mixture = self.mixture or Mixture()
        once = [name for name in ("weights", "alpha", "epochs", "max_share")
                if getattr(mixture, name) != getattr(Mixture(), name)]
        require(not (over_time and once), "mixture",
                f"{', '.join(once)} and curriculum.mixtures both say how much is read; keep one of them")

    def run(self, context: StageContext) -> dict[str, Any]:
        began = time.monotonic()
        compute = prepare(context.runtime)
        refuse_graphs_of_many_shapes(
            context.runtime.cuda_graphs, context.name, batches_grow=self.batch_warmup is not None,
            rows_grow=self.curriculum is not None and self.curriculum.short_rows is not None)
        source = context.inputs[self.tokenizer or self.start]  # type: ignore[index]
        tokenizer = Tokenizer.load(source.path)
        seed = context.seed
        model, notes = self._model(context, tokenizer)
        length = self.context or model.config.context
        if length > model.config.context:
            raise UserError(f"rows of {length} tokens do not fit the model's context of {model.config.context}",
                            where=f"{context.name}: context", fix="lower context, or raise model.context")
        batch = self.batch or max(1, 4096 // length)
        if isinstance(self.micro_batch, int) and self.micro_batch > batch:
            raise UserError(f"{self.micro_batch} rows at once are more than the {batch} of an update",
                            where=f"{context.name}: micro_batch", fix="lower it, or raise batch")
        if self.batch_warmup is not None and self.batch_warmup.start >= batch:
            raise UserError(f"updates of {self.batch_warmup.start} rows are no smaller than the full ones of {batch}",
                            where=f"{context.name}: batch_warmup.start", fix="lower it, or raise batch")
        positions = Positions(batch, length, self.batch_warmup)
        task: Any = self.objective or default_objective(FAMILIES[model.config.family].objective)
        task.check(model.config, tokenizer)
        loss = with_router_losses(task.loss(model.config), model.config)
        layout, proposal = choose_layout(context.runtime.parallel, Workload.of(
            model.config, self.training, rows=batch, context=length, micro_batch=self.micro_batch, objective=loss,
            precision="fp32" if compute.dtype == torch.float32 else "bf16", fewest_rows=positions.smallest,
            shortest=length // row_cuts(self.curriculum, length)), compute)
        world = World.join(layout, compute.device)
        if proposal is not None:
            context.progress.say(f"  {proposal.line()}")
        model = self._first_weights(model, derive_seed(seed, "init"), world)
        corpus = context.inputs[self.corpus]
        with world.first():
            shards = materialise(corpus, tokenizer, "train", context.cache, context.progress)
            held_out = materialise(corpus, tokenizer, "valid", context.cache, context.progress)
            arrangement = self._arrangement(shards, corpus, length, context)
            check_reading(task, self.packing, self.curriculum, mixed=arrangement is not None,
                          growing=self.batch_warmup is not None)
            whole = self.packing == "best_fit" and arrangement is None
            text = laid_out(shards, length, context.cache) if whole else shards
        order = derive_seed(seed, "order")
        plan = Plan.decided(context, world)
        fits = self._fits(model.config, positions, length, compute, world) if plan is None else []
        at_once = plan.micro_batch if plan else fits[0].rows if fits else self.micro_batch or batch
        batches = Windows(
            lambda: task.batches(text, tokenizer, context=length, batch=batch, seed=order), positions,
            at_once, share=(world.data_rank, world.data_size))  # type: ignore[arg-type]
        settings = Settings(compile=self._compiles(
            context, plan, model, positions, length, began, where(compute, world), world))
        if plan and plan.compiled != settings.compile:
            plan = Plan(plan.plan, {**plan.compute, "compile": settings.compile}).agreed(context, world)
        trainer = Trainer(
            model=model, objective=loss, source=batches, steps=1, compute=compute, folder=context.work,
            checkpoints=context.checkpoints, config=self.training, progress=context.progress,
            label=context.name, seed=derive_seed(seed, "dropout"), world=world, settings=settings,
            target_loss=self.budget.target_loss,
        )
        if fits:
            chosen = try_out(trainer, fits, lambda rows: dataclasses.replace(batches, micro_batch=rows),
                             full=positions.sizes[-1].start)
            batches = dataclasses.replace(batches, micro_batch=chosen.rows)
            notes.append(chosen.note())
        if plan is None:
            plan = self._plan(context, trainer, shards, positions, length, notes, began)
        trainer.steps = plan.steps
        rows, arranged = positions.span(plan.steps)[0], None
        if arrangement is not None:
            arranged = arrangement.rows(
                lambda text, seed: task.batches(text, tokenizer, context=length, batch=1, seed=seed), rows, order)
            batches = dataclasses.replace(batches, make=lambda: arranged)
        trainer.source = batches.cut(self.curriculum, length, rows)
        if world.main:
            self._record(context, [text] if arrangement is None else arrangement.texts, arranged, rows)
        trainer.evaluate = HeldOut(
            task.held_out(held_out, tokenizer, context=length, batch=batch, limit_tokens=self.validation_tokens,
                          seed=derive_seed(seed, "held out")),
            task, loss, tokenizer, compute, self.prompts, trainer.passes, world,
            # On a CPU memory is not short, and the last bits of the sums stay what they were.
            None if compute.device.type == "cpu" else batches.micro_batch)
        result = trainer.fit()
        trained = trainer.whole()
        if trained is not None:
            save_model(trained, context.work, tokenizer=tokenizer)
        return {"parameters": plan.parameters, **result}

    def _model(self, context: StageContext, tokenizer: Tokenizer) -> tuple[Body, list[str]]:
        """The model to go on from, or the shapes of a new one; and how its numbers were derived."""
        if self.start is not None:
            model = load_model(context.inputs[self.start].path)
            if tokenizer.vocab_size > model.config.vocab_size:
                raise UserError(
                    f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}",
                    where=f"{context.name}: tokenizer", fix="leave `tokenizer` out: the model brings its own")
            return model, []
        resolved, notes = self.model.resolve(tokenizer.vocab_size)
        return skeleton(resolved), notes

    def _first_weights(self, model: Body, seed: int, world: World) -> Body:
        """The model with weights. One process holds all of a new one, the others get their parts of it."""
        if self.start is None and world.main:
            model = FAMILIES[model.config.family].body(model.config)
            model.initialise(seed)
        return model if world.size > 1 else model.to(world.device)

    def _arrangement(self, shards: TokenShards, corpus: Artifact, length: int,
                     context: StageContext) -> Arrangement | None:
        """What the mixture and the curriculum make of the text, if anything."""
        if self.mixture is None and (self.curriculum is None or not (self.curriculum.by or self.curriculum.mixtures)):
            return None
        return arrange(shards, corpus, "train", context=length, mixture=self.mixture, curriculum=self.curriculum,
                       packing=self.packing, cache=context.cache)

    def _record(self, context: StageContext, texts: list[TokenShards], arranged: ArrangedRows | None,
                rows: int) -> None:
        """Say, and write into plan.json, how the text is read; nothing where it is read plainly."""
        settings = {name: to_plain(value) for name in ("mixture", "curriculum", "batch_warmup")
                    if (value := getattr(self, name)) is not None}
        if not settings and self.packing == "concatenate":
            return
        path = context.work / "plan.json"
        plan = read_json(path)
        if "reading" in plan:
            return
        plan["reading"] = {"rows": rows, "packing": self.packing, **settings}
        if self.packing == "best_fit":
            plan["packed"], line = describe_packing(texts)
            context.progress.say(f"  {line}")
        if arranged is not None:
            plan["arrangement"] = arranged.described()
            for line in arranged.plan.lines():
                context.progress.say(f"  {line}")
            if arranged.arrangement.left_out:
                context.progress.say(f"  shorter than a row, left out: {', '.join(arranged.arrangement.left_out)}")
        write_json(path, plan)

    def _compiles(self, context: StageContext, plan: Plan | None, model: Body, positions: Positions, length: int,
                  began: float, here: Here, world: World) -> bool:
        """Whether to compile: what was asked for, what an interrupted run did, or whether it pays for this budget; the
        same on all processes."""
        if context.runtime.compile == "auto":
            if world.layout.schedule == "zero_bubble":
                return False  # it goes back through a block in two parts, and compiled ones in one
            if plan is not None:
                return plan.compiled
        if self.budget.timed:
            seconds = allowance(self.budget, here).seconds - (time.monotonic() - began)
        else:
            # Without a measurement; only this choice hangs on it.
            steps, _ = self._steps(positions, length, model)
            pace = GPU_PACE if on_gpu(context.runtime) else CPU_PACE
            seconds = steps * positions.batch * length * model.config.flops_per_token(length) / pace
        compiled = world.tell(should_compile(context.runtime, seconds))
        if compiled:
            context.progress.say("  compiling the model's blocks (once, about half a minute) ...")
        elif slow := slow_float8(context.runtime):
            context.progress.say(f"  {slow}")
        return compiled

    def _fits(self, config: Any, positions: Positions, length: int, compute: Compute, world: World) -> list[Fit]:
        """With `micro_batch: auto` those that should fit, the largest first; what the first process finds."""
        if self.micro_batch != "auto":
            return []
        rows, fewest = (-(-update // world.data_size) for update in (positions.batch, positions.smallest))
        found = fitting(
            config, rows, length, fewest=fewest, available=available_bytes(compute.device), device=compute.device.type,
            optimizer=self.training.optimizer.planned,
            precision="fp32" if compute.dtype == torch.float32 else "bf16", average=bool(self.training.ema),
            checkpointing=self.training.activation_checkpointing, layout=world.layout)
        first = world.tell(found[0].rows)
        return [fit for fit in found if fit.rows <= first] or [dataclasses.replace(found[-1], rows=first)]

    def _steps(self, positions: Positions, length: int, model: Body) -> tuple[int, str | None]:
        """Steps of a budget that hangs on no clock, and their derivation."""
        return counted_steps(self.budget, positions, length, model.config.flops_per_token(length), count(model),
                             growing=self.batch_warmup is not None)

    def _plan(self, context: StageContext, trainer: Trainer, shards: TokenShards, positions: Positions, length: int,
              notes: list[str], began: float) -> Plan:
        """Turn the budget into steps, once, on the first process; a resumed run reads what was decided."""
        model, batch, tokens_per_step = trainer.model, positions.batch, positions.batch * length
        parameters, budget, measured = count(model), self.budget, None
        kept = left(context.work / "plan.json", trainer.together)
        begun = trainer.saves.newest() if budget.timed and kept is None else None
        note: str | None
        if kept is not None:
            steps, note = kept["steps"], "plan.json holds; telemetry/compute.json was lost and is written anew"
        elif begun is not None:
            # Measured anew they would be others, and the schedule would bend in the middle.
            steps, note = begun.state["steps"], (
                f"steps = {begun.state['steps']}: as at the checkpoint of step {begun.step}; plan.json was lost")
        elif budget.timed:
            here = where(trainer.compute, trainer.together)
            power = power_meter(here.hardware, here.compute)
            takes = [measure(trainer, updates) for updates in positions.sizes]
            allowed = allowance(budget, here, power)
            notes += [allowed.derivation] if allowed.derivation else []
            # The first process's numbers, so that all find the same.
            *takes, seconds, before = trainer.together.tell([*takes, allowed.seconds, time.monotonic() - began])
            measured = takes[-1]
            steps, note = timed_steps(
                dataclasses.replace(allowed, seconds=seconds), positions.sizes, takes, before=before, budget=budget,
                beside=self.training.evaluations * self.validation_tokens / (tokens_per_step / measured) * 0.6 + 3,
                where=context.name)
        else:
            steps, note = self._steps(positions, length, model)
        missed = missed_peak(self.training.schedule, steps)
        notes += [said for said in (note, missed) if said is not None]
        tokens = positions.span(steps)[0] * length
        epochs = tokens / shards.total_tokens
        flops = model.config.flops_per_token(length)
        plan = Plan(kept or {
            "steps": steps, "batch": batch, "micro_batch": self.micro_batch or batch, "context": length,
            "seed": derive_seed(context.seed, "order"), "tokens": tokens, "epochs": round(epochs, 4),
            "corpus_tokens": shards.total_tokens, "tokens_digest": shards.digest, "parameters": parameters,
            "flops_per_token": flops, "budget": to_plain(budget), "model": to_plain(model.config),
            "derivations": notes,
        }, {
            "compile": trainer.settings.compile, "dtype": str(trainer.compute.dtype),
            "threads": trainer.compute.threads, "seconds_per_step": measured,
            "layout": trainer.together.layout.describe(),
            **({} if self.micro_batch != "auto" else {"micro_batch": getattr(trainer.source, "micro_batch", batch)}),
        }).agreed(context, trainer.together)
        for note in notes:
            context.progress.say(f"  {note}")
        context.progress.say(f"  {parameters / 1e6:.2f} M parameters, {steps} steps of {tokens_per_step} tokens, "
                             f"{epochs:.2f} epochs of {shards.total_tokens / 1e6:.1f} M tokens")
        return plan


@dataclass(frozen=True)
class Plan:
    """What a run has decided for good: plan.json, and telemetry/compute.json where it hangs on the machine."""

    plan: dict[str, Any]
    compute: dict[str, Any]

    @classmethod
    def decided(cls, context: StageContext, world: World) -> Plan | None:
        """What an interrupted run has left, the same on all processes."""
        plan, compute = left(context.work / "plan.json", world), left(context.telemetry / "compute.json", world)
        return None if plan is None or compute is None else cls(plan, compute)

    def agreed(self, context: StageContext, world: World) -> Plan:
        """What the first process decided, written down there."""
        if world.main:
            write_json(context.telemetry / "compute.json", self.compute)
            write_json(context.work / "plan.json", self.plan)
        return Plan(*world.tell([self.plan, self.compute]))

    @property
    def compiled(self) -> bool:
        return self.compute["compile"]

    @property
    def micro_batch(self) -> int:
        return self.compute.get("micro_batch", self.plan["micro_batch"])

    @property
    def steps(self) -> int:
        return self.plan["steps"]

    @property
    def parameters(self) -> int:
        return self.plan["parameters"]


def left(path: Path, world: World) -> Any:
    """What an interrupted run has written into this file, the same on all processes; None where it is not there."""
    return world.tell(read_json(path, fix="delete this file and run the same command again: training goes on, with as "
                                          "many steps as it began with") if world.main and path.exists() else None)


def where(compute: Compute, world: World) -> Here:
    """What this training runs on, as a budget has to know it."""
    return Here(Hardware.of(compute), compute, world.size, hosts(world))


def count(model: Body) -> int:
    """Parameters of the whole model, wherever its parts are."""
    return count_parameters(model.config)


def measure(trainer: Trainer, updates: Sequence[int]) -> float:
    """Seconds that one of `updates` takes: the median of a few, after one that warms up; then everything is put
    back."""
    steps, trainer.steps = trainer.steps, 10_000
    before = {name: tensor.detach().clone() for name, tensor in trainer.state().items()}
    trainer.update(trainer.source.window(updates[0]))
    seconds = []
    for number in range(1, MEASURED_UPDATES + 1):
        start = time.monotonic()
        trainer.update(trainer.source.window(updates[number % len(updates)]))
        seconds.append(time.monotonic() - start)
    with torch.no_grad():
        for name, tensor in trainer.state().items():
            tensor.copy_(before[name])
    trainer.steps = steps
    trainer.begin()
    return median(seconds)
