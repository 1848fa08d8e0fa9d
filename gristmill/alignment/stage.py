"""The stage `align`: direct preference optimisation on answers that the model itself gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from gristmill.alignment.preferences import Preference, SelfSampled, asks, pair_up, sample
from gristmill.core.config import ModelRef, require
from gristmill.core.errors import UserError
from gristmill.core.files import write_json
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import StageContext, stage
from gristmill.generation import Engine
from gristmill.models.loading import load_model
from gristmill.models.require import require_decoder
from gristmill.models.saving import save_model
from gristmill.objectives import DPO
from gristmill.objectives.base import Batch
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.dpo import reference_log_probabilities
from gristmill.tokenizer import Tokenizer
from gristmill.tokens.batches import ShuffledOrder
from gristmill.training.compile import eager, slow_float8
from gristmill.training.device import Compute, prepare
from gristmill.training.loop import Trainer, TrainingConfig
from gristmill.training.optimizers import OptimizerConfig
from gristmill.training.schedules import ScheduleConfig, missed_peak, require_warmup

ALIGNING = TrainingConfig(
    optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-4), schedule=ScheduleConfig(kind="linear", warmup=0.1),
    evaluations=3,
)
ROW_MULTIPLE = 32


@stage(kind="align", produces="model")
class Align:
    """Preference optimisation (DPO, arXiv:2305.18290)."""

    model: ModelRef
    """The model to align; its frozen copy is the reference."""
    method: Literal["dpo"] = "dpo"
    """dpo: direct preference optimisation."""
    data: SelfSampled
    """Where the preferences come from."""
    beta: float = 0.1
    """How strongly the policy is held to the reference."""
    anchor: float = 0.2
    """Weight of the chosen answers' own likelihood (RPO, arXiv:2404.19733); 0 for plain DPO."""
    epochs: float = 2.0
    """Passes over the pairs, unless `steps` is given."""
    steps: int | None = None
    """Optimizer steps."""
    batch: int = 16
    """Pairs in an update."""
    without_pairs: Literal["error", "keep"] = "error"
    """When no prompt got both a good and a bad answer: stop with an error, or keep the model as it is and say so."""
    training: TrainingConfig = ALIGNING
    """Optimizer, schedule, evaluation, checkpoints."""

    def __post_init__(self) -> None:
        require(self.beta > 0, "beta", "must be positive")
        require(self.anchor >= 0, "anchor", "must not be negative")
        require(self.epochs > 0, "epochs", "must be positive")
        require(self.batch >= 1, "batch", "must be at least 1")
        require_warmup(self.training.schedule, self.steps)

    def run(self, context: StageContext) -> dict[str, Any]:
        compute = prepare(context.runtime)
        source = context.inputs[self.model]
        tokenizer = Tokenizer.load(source.path)
        model = require_decoder(load_model(source.path), f"{context.name}: model").to(compute.device)
        room = model.config.context - self.data.max_tokens
        corpus = context.inputs[self.data.corpus]
        prompts = asks(self.data, corpus, tokenizer, derive_seed(context.seed, "prompts"), room)
        if not prompts:
            raise UserError("no documented function fits the model's context", where=f"{context.name}: data",
                            fix="lower data.max_tokens, or use a corpus with documented Python functions")
        engine = Engine(model, slots=64, vocab_size=tokenizer.vocab_size)
        records = sample(context, engine, tokenizer, self.data, prompts)
        train, valid = pair_up(self.data, prompts, records)
        counts = {"answers": len(records), "parse": sum(r["accepted"] for r in records),
                  "trivial": sum(r["trivial"] for r in records), "train_pairs": len(train), "valid_pairs": len(valid)}
        if not train and self.without_pairs == "keep":
            context.progress.say(f"  nothing to prefer, the model stays as it is: {counts}")
            save_model(model.cpu(), context.work, tokenizer=tokenizer)
            return {**counts, "steps": 0}
        if not train:
            raise UserError(f"no prompt has both a good and a bad answer, so there is nothing to prefer: {counts}",
                            where=f"{context.name}: data",
                            fix="raise data.prompts or data.samples, or train the model longer before")
        write_json(context.work / "preferences.json", {
            "counts": counts,
            "train": [readable(p, tokenizer) for p in train], "valid": [readable(p, tokenizer) for p in valid],
        })
        context.progress.say(f"  {counts['parse']} of {counts['answers']} answers parse; "
                             f"{len(train)} pairs to learn from, {len(valid)} held out")
        order = derive_seed(context.seed, "order")
        pairs = Pairs(with_reference(train, model, compute), ShuffledOrder(len(train), self.batch, order, None))
        held_out = with_reference(valid, model, compute)
        steps = self.steps or max(1, round(self.epochs * len(train) / self.batch))
        for said in (missed_peak(self.training.schedule, steps), slow_float8(context.runtime, compiles=False)):
            if said is not None:
                context.progress.say(f"  {said}")
        objective = DPO(self.beta, self.anchor)
        trainer = Trainer(
            model=model, objective=objective, source=pairs, steps=steps, compute=compute, folder=context.work,
            checkpoints=context.checkpoints, config=self.training,
            evaluate=HeldOut(held_out, objective, compute) if held_out else None,
            progress=context.progress, label=context.name,
        )
        write_json(context.work / "plan.json", {"steps": steps, "batch": self.batch, "seed": order, **counts})
        result = trainer.fit()
        save_model(model.cpu(), context.work, tokenizer=tokenizer)
        return {**counts, **result}


def readable(pair: Preference, tokenizer: Tokenizer) -> dict[str, Any]:
    """A pair as a person reads it, with its ids for whoever trains on it again."""
    return {"prompt": tokenizer.decode(pair.prompt), "chosen": tokenizer.decode(pair.chosen),
            "rejected": tokenizer.decode(pair.rejected), "ids": asdict(pair)}


@dataclass(frozen=True)
class Row:
    """One answer in its context, and what the reference thought of it."""

    ids: list[int]
    prompt: int
    reference_logp: float


def collate(rows: Sequence[Row]) -> Batch:
    """Pad to a multiple of 32: input_ids and targets (rows, time), targets only on the answer."""
    length = -(-max(len(r.ids) - 1 for r in rows) // ROW_MULTIPLE) * ROW_MULTIPLE
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    targets = torch.full((len(rows), length), IGNORED, dtype=torch.int64)
    documents = torch.full((len(rows), length), -1, dtype=torch.int32)
    for i, row in enumerate(rows):
        whole = torch.tensor(row.ids)
        ids[i, : len(whole) - 1] = whole[:-1]
        targets[i, row.prompt - 1 : len(whole) - 1] = whole[row.prompt :]
        documents[i, : len(whole) - 1] = 0
    return {"input_ids": ids, "targets": targets, "document_ids": documents,
            "reference_logps": torch.tensor([r.reference_logp for r in rows])}


def with_reference(pairs: Sequence[Preference], model: Any, compute: Compute) -> list[tuple[Row, Row]]:
    """Chosen and rejected rows with the reference's log-probabilities, computed once, before training."""
    bare = [Row(p.prompt + answer, len(p.prompt), 0.0) for p in pairs for answer in (p.chosen, p.rejected)]
    values: list[float] = []
    for start in range(0, len(bare), 32):
        batch = {n: t.to(compute.device) for n, t in collate(bare[start : start + 32]).items()}
        with eager(model), compute.autocast():
            values += reference_log_probabilities(model, batch).tolist()
    rows = [Row(r.ids, r.prompt, v) for r, v in zip(bare, values, strict=True)]
    return list(zip(rows[0::2], rows[1::2], strict=True))


@dataclass
class Pairs:
    """Windows of pairs, in an order that only the step decides."""

    pairs: list[tuple[Row, Row]]
    order: ShuffledOrder

    def window(self, step: int) -> Sequence[Batch]:
        return [collate([row for i in self.order.at(step) for row in self.pairs[int(i)]])]

    def documents(self, step: int, row: int) -> list[str]:
        """The pair that a row of update `step` belongs to, by its place in preferences.json."""
        return [f"pair {int(self.order.at(step)[row // 2]) + 1} of `train` in preferences.json"]


@dataclass
class HeldOut:
    """The objective on pairs that are not trained on."""

    pairs: list[tuple[Row, Row]]
    objective: DPO
    compute: Compute

    def __call__(self, model: Any, step: int) -> dict[str, Any]:
        sums: dict[str, float] = {}
        for start in range(0, len(self.pairs), 16):
            rows = [row for pair in self.pairs[start : start + 16] for row in pair]
            batch = {n: t.to(self.compute.device) for n, t in collate(rows).items()}
            with eager(model), self.compute.autocast():
                terms = self.objective.terms(model, batch)
            values = {"preference_loss": terms.sums["loss"], **{k: v for k, (v, _) in terms.metrics.items()}}
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        means = {name: value / len(self.pairs) for name, value in sums.items()}
        return {"score": means["preference_loss"], **means}
