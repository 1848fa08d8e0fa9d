"""The stage `pretrain`: a model of any family learns from a corpus, by the objective of its family or another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from gristmill.core.artifact import Artifact
from gristmill.core.config import CorpusRef, ModelRef, TokenizerRef, config, require, to_plain
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import StageContext, stage
from gristmill.models.body import Body
from gristmill.models.families import FAMILIES
from gristmill.models.loading import load_model
from gristmill.models.saving import save_model
from gristmill.models.spec import ModelSpec
from gristmill.objectives.base import Objective
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.objectives.pretraining import (
    HeldOutBatches,
    Pretraining,
    PretrainingObjective,
    default_objective,
)
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
from gristmill.training.compile import compile_blocks, should_compile
from gristmill.training.device import Compute, prepare
from gristmill.training.loop import Trainer, TrainingConfig
from gristmill.training.predictions import PYTHON_PROMPTS, Prompt, trace_predictions
from gristmill.training.reading import Windows, check_reading, describe_packing
from gristmill.training.validation import bits_per_byte, validate

MEASURED_UPDATES = 4
TOKENS_PER_PARAMETER = 20


@config
class Budget:
    """How much training: exactly one of these, or none for 20 tokens a parameter (Hoffmann et al. 2022)."""

    alternatives = ("minutes", "tokens", "steps")

    minutes: float | None = None
    """Wall-clock minutes for the whole stage. A short measurement at its start turns them into a number of steps,
    which is written down: the schedule fits, and a resumed run keeps it."""
    tokens: int | None = None
    """Training tokens."""
    steps: int | None = None
    """Optimizer steps."""

    def __post_init__(self) -> None:
        given = [n for n in ("minutes", "tokens", "steps") if getattr(self, n) is not None]
        require(len(given) <= 1, "budget", f"give one of minutes, tokens, steps; these were given: {', '.join(given)}")
        for name in given:
            require(getattr(self, name) > 0, name, "must be positive")


@stage(kind="pretrain", produces="model")
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
    micro_batch: int | None = None
    """Rows pushed through the model at once; gradients add up exactly. Default: the whole batch."""
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
            require(getattr(self, name) is None or getattr(self, name) >= 1, name, "must be at least 1")
        over_time = self.curriculum is not None and bool(self.curriculum.mixtures)
        mixture = self.mixture or Mixture()
        once = [name for name in ("weights", "alpha", "epochs", "max_share")
                if getattr(mixture, name) != getattr(Mixture(), name)]
        require(not (over_time and once), "mixture",
                f"{', '.join(once)} and curriculum.mixtures both say how much is read; keep one of them")

    def run(self, context: StageContext) -> dict[str, Any]:
        began = time.monotonic()
        compute = prepare(context.runtime)
        source = context.inputs[self.tokenizer or self.start]  # type: ignore[index]
        tokenizer = Tokenizer.load(source.path)
        seed = context.seed
        model, notes = self._build(context, tokenizer, derive_seed(seed, "init"))
        length = self.context or model.config.context
        if length > model.config.context:
            raise UserError(f"rows of {length} tokens do not fit the model's context of {model.config.context}",
                            where=f"{context.name}: context", fix="lower context, or raise model.context")
        batch = self.batch or max(1, 4096 // length)
        corpus = context.inputs[self.corpus]
        shards = materialise(corpus, tokenizer, "train", context.cache, context.progress)
        held_out = materialise(corpus, tokenizer, "valid", context.cache, context.progress)
        task: Any = self.objective or default_objective(FAMILIES[model.config.family].objective)
        task.check(model.config, tokenizer)
        arrangement = self._arrangement(shards, corpus, length, context)
        check_reading(task, self.packing, self.curriculum, mixed=arrangement is not None,
                      growing=self.batch_warmup is not None)
        whole = self.packing == "best_fit" and arrangement is None
        text = laid_out(shards, length, context.cache) if whole else shards
        positions, order = Positions(batch, length, self.batch_warmup), derive_seed(seed, "order")
        batches = Windows(
            lambda: task.batches(text, tokenizer, context=length, batch=batch, seed=order), positions,
            self.micro_batch or batch)
        model.to(compute.device)
        loss = with_router_losses(task.loss(model.config), model.config)
        trainer = Trainer(
            model=model, objective=loss, source=batches, steps=1, compute=compute, folder=context.work,
            checkpoints=context.scratch / "checkpoints", config=self.training, progress=context.progress,
            label=context.name,
        )
        plan = self._plan(context, trainer, shards, positions, length, notes, began)
        trainer.steps = plan["steps"]
        rows, arranged = positions.span(plan["steps"])[0], None
        if arrangement is not None:
            arranged = arrangement.rows(
                lambda text, seed: task.batches(text, tokenizer, context=length, batch=1, seed=seed), rows, order)
            batches = Windows(lambda: arranged, positions, batches.micro_batch)
        trainer.source = batches.cut(self.curriculum, length, rows)
        self._record(context, [text] if arrangement is None else arrangement.texts, arranged, rows)
        trainer.evaluate = HeldOut(
            task.held_out(held_out, tokenizer, context=length, batch=batch, limit_tokens=self.validation_tokens,
                          seed=derive_seed(seed, "held out")),
            task, loss, tokenizer, compute, self.prompts)
        result = trainer.fit()
        save_model(model.cpu(), context.work, tokenizer=tokenizer)
        return {"parameters": plan["parameters"], **result}

    def _build(self, context: StageContext, tokenizer: Tokenizer, seed: int) -> tuple[Body, list[str]]:
        if self.start is not None:
            model = load_model(context.inputs[self.start].path)
            if tokenizer.vocab_size > model.config.vocab_size:
                raise UserError(
                    f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}",
                    where=f"{context.name}: tokenizer", fix="leave `tokenizer` out: the model brings its own")
            return model, []
        resolved, notes = self.model.resolve(tokenizer.vocab_size)
        model = FAMILIES[resolved.family].body(resolved)
        model.initialise(seed)
        return model, notes

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

    def _plan(self, context: StageContext, trainer: Trainer, shards: TokenShards, positions: Positions, length: int,
              notes: list[str], began: float) -> dict[str, Any]:
        """Turn the budget into steps, once; a resumed run reads what was decided, compilation included."""
        path, decided = context.work / "plan.json", context.telemetry / "compute.json"
        model = trainer.model
        if path.exists() and decided.exists():
            plan, choice = read_json(path), read_json(decided)
            if choice["compile"]:
                compile_blocks(model)
            return plan
        batch, tokens_per_step = positions.batch, positions.batch * length
        parameters = sum(p.numel() for p in model.parameters())
        budget = self.budget
        measured = None
        if budget.minutes is not None:
            compiled = should_compile(context.runtime, budget.minutes * 60 - (time.monotonic() - began))
            if compiled:
                context.progress.say("  compiling the model's blocks (once, about half a minute) ...")
                compile_blocks(model)
            measured = measure(trainer, self._restore(context, trainer))
            left = budget.minutes * 60 - (time.monotonic() - began)
            spare = self.training.evaluations * self.validation_tokens / (tokens_per_step / measured) * 0.6 + 3
            steps = max(10, positions.steps((left - spare) / measured * batch - batch / 2))
            notes.append(f"steps = {steps}: {left - spare:.0f} s are left of {budget.minutes:g} minutes, "
                         f"and a step takes {measured:.3f} s")
        else:
            wanted = budget.tokens or TOKENS_PER_PARAMETER * parameters
            steps = budget.steps or (positions.steps(wanted / length) if self.batch_warmup
                                     else max(1, round(wanted / tokens_per_step)))
            if budget.steps is None:
                rule = "budget.tokens" if budget.tokens else f"{TOKENS_PER_PARAMETER} tokens a parameter"
                notes.append(f"steps = {steps}: {rule} / {tokens_per_step} tokens a step")
            # Without a measurement: 0.5 TFLOP/s is what a small CPU reaches; only the choice to compile hangs on it.
            guess = steps * tokens_per_step * model.config.flops_per_token(length) / 0.5e12  # type: ignore[union-attr, operator]
            compiled = should_compile(context.runtime, guess)
            if compiled:
                compile_blocks(model)
        tokens = positions.span(steps)[0] * length
        epochs = tokens / shards.total_tokens
        plan = {
            "steps": steps, "batch": batch, "micro_batch": self.micro_batch or batch, "context": length,
            "seed": derive_seed(context.seed, "order"), "tokens": tokens, "epochs": round(epochs, 4),
            "corpus_tokens": shards.total_tokens, "tokens_digest": shards.digest, "parameters": parameters,
            "flops_per_token": model.config.flops_per_token(length),  # type: ignore[union-attr, operator]
            "budget": to_plain(budget), "model": to_plain(model.config), "derivations": notes,
        }
        write_json(decided, {"compile": compiled, "dtype": str(trainer.compute.dtype),
                             "threads": trainer.compute.threads, "seconds_per_step": measured})
        write_json(path, plan)
        for note in notes:
            context.progress.say(f"  {note}")
        context.progress.say(f"  {parameters / 1e6:.2f} M parameters, {steps} steps of {tokens_per_step} tokens, "
                             f"{epochs:.2f} epochs of {shards.total_tokens / 1e6:.1f} M tokens")
        return plan

    def _restore(self, context: StageContext, trainer: Trainer):  # type: ignore[no-untyped-def]
        def restore() -> None:
            if self.start is not None:
                fresh = load_model(context.inputs[self.start].path)
                trainer.model.load_state_dict(fresh.state_dict())
            else:
                trainer.model.initialise(derive_seed(context.seed, "init"))  # type: ignore[operator]

        return restore


def measure(trainer: Trainer, restore) -> float:  # type: ignore[no-untyped-def]
    """Seconds an update takes: the median of a few, after one that warms up; then everything is put back."""
    steps, trainer.steps = trainer.steps, 10_000
    trainer.update(trainer.source.window(0))
    seconds = []
    for step in range(1, MEASURED_UPDATES + 1):
        start = time.monotonic()
        trainer.update(trainer.source.window(step))
        seconds.append(time.monotonic() - start)
    restore()
    trainer.steps = steps
    trainer.__post_init__()
    return median(seconds)


@dataclass
class HeldOut:
    """Evaluation during pretraining: the loss on held-out text (bits a byte where every token is scored), and the
    prediction trace."""

    batches: HeldOutBatches
    task: Pretraining
    loss: Objective
    tokenizer: Tokenizer
    compute: Compute
    prompts: list[Prompt]

    def __call__(self, model: Any, step: int) -> dict[str, Any]:
        scores = validate(model, self.batches, self.compute, self.loss)
        values = {f"valid_{name}": value for name, value in scores.items() if name != "tokens"}
        values["score"] = values["valid_loss"]
        if self.batches.total_bytes is not None:
            values["score"] = values["valid_bits_per_byte"] = bits_per_byte(scores, self.batches.total_bytes)
        return {**values, **trace_predictions(model, self.tokenizer, self.task, self.prompts)}
