"""The stage `finetune`: supervised fine-tuning on conversations, with replay of general text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from gristmill.core.config import CorpusRef, ModelRef, config, require
from gristmill.core.errors import UserError
from gristmill.core.files import write_json
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import StageContext, stage
from gristmill.finetuning.instructions import Docstrings, InstructionFile, Rejects
from gristmill.models.loading import load_model
from gristmill.models.require import require_decoder
from gristmill.models.saving import save_model
from gristmill.objectives import CausalLM
from gristmill.objectives.base import Batch
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import PackedBatches, RowBatches, Rows, TokenShards, materialise, pack_examples
from gristmill.training.compile import slow_float8
from gristmill.training.device import Compute, prepare
from gristmill.training.loop import Trainer, TrainingConfig
from gristmill.training.optimizers import OptimizerConfig
from gristmill.training.parallel import World
from gristmill.training.parallel.auto import Workload
from gristmill.training.parallel.choose import choose_layout
from gristmill.training.reading import Dealt
from gristmill.training.schedules import ScheduleConfig, missed_peak, require_warmup
from gristmill.training.validation import validate, validate_text

FINETUNING = TrainingConfig(
    optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-3), schedule=ScheduleConfig(kind="linear", warmup=0.05),
    evaluations=3,
)
HELD_OUT_CONVERSATIONS = 256
HELD_OUT_ROWS = 64


@config
class Replay:
    """General text mixed in, so that the model does not forget what it knew."""

    corpus: CorpusRef
    """Where the text comes from, usually the pretraining corpus."""
    share: float = 0.2
    """Rows of general text among all rows."""

    def __post_init__(self) -> None:
        require(0 < self.share < 1, "share", "is a share between 0 and 1")


@stage(kind="finetune", produces="model", many_processes=True)
class Finetune:
    """Supervised fine-tuning: the loss is on the assistant's answers only."""

    model: ModelRef
    """The model to start from."""
    method: Literal["sft"] = "sft"
    """sft: supervised fine-tuning of all weights."""
    data: Docstrings | InstructionFile
    """The conversations."""
    replay: Replay | None = None
    """General text against forgetting."""
    epochs: float = 1.0
    """Passes over the packed conversations, unless `steps` is given."""
    steps: int | None = None
    """Optimizer steps."""
    batch: int = 16
    """Rows in an update."""
    context: int | None = None
    """Tokens a row; default the model's context, at most 1,024."""
    too_long: Literal["drop", "truncate", "error"] = "drop"
    """What happens to a conversation that does not fit a row: it is counted and left out, its end is cut
    off, or the stage stops."""
    training: TrainingConfig = FINETUNING
    """Optimizer, schedule, evaluation, checkpoints."""

    def __post_init__(self) -> None:
        require(self.epochs > 0, "epochs", "must be positive")
        require(self.steps is None or self.steps >= 1, "steps", "must be at least 1")
        require(self.batch >= 1, "batch", "must be at least 1")
        require_warmup(self.training.schedule, self.steps)

    def run(self, context: StageContext) -> dict[str, Any]:
        compute = prepare(context.runtime)
        source = context.inputs[self.model]
        tokenizer = Tokenizer.load(source.path)
        model = require_decoder(load_model(source.path), f"{context.name}: model")
        length = self.context or min(model.config.context, 1024)
        loss = with_router_losses(CausalLM(), model.config)
        layout, proposal = choose_layout(context.runtime.parallel, Workload.of(
            model.config, self.training, rows=self.batch, context=length, micro_batch=None, objective=loss,
            precision="fp32" if compute.dtype == torch.float32 else "bf16", scores_whole=True), compute)
        world = World.join(layout, compute.device)
        if proposal is not None:
            context.progress.say(f"  {proposal.line()}")
        rejects = Rejects({}, [])
        train, names = self._rows(context, tokenizer, "train", length, rejects)
        valid, _ = self._rows(context, tokenizer, "valid", length, Rejects({}, []))
        if not len(train):
            raise UserError(f"no conversation can be trained on; rejected: {rejects.counts or 'none, there were none'}",
                            where=f"{context.name}: data", fix="check the data source, or raise `context`")
        replayed = round(self.batch * self.replay.share) if self.replay else 0
        general = held_out = None
        if self.replay and replayed:
            corpus = context.inputs[self.replay.corpus]
            with world.first():
                text = materialise(corpus, tokenizer, "train", context.cache, context.progress)
                held_out = materialise(corpus, tokenizer, "valid", context.cache, context.progress)
            general = PackedBatches(text, context=length, batch=replayed, seed=derive_seed(context.seed, "replay"))
        order = derive_seed(context.seed, "order")
        conversations = RowBatches(train, batch=self.batch - replayed, seed=order)
        steps = self.steps or max(1, round(self.epochs * len(train) / (self.batch - replayed)))
        for said in (missed_peak(self.training.schedule, steps), slow_float8(context.runtime, compiles=False)):
            if said is not None:
                context.progress.say(f"  {said}")
        trainer = Trainer(
            model=model.to(compute.device), objective=loss,
            source=Dealt(Mixed(conversations, general, names), (world.data_rank, world.data_size)), steps=steps,
            compute=compute, folder=context.work, checkpoints=context.checkpoints, config=self.training,
            evaluate=HeldOut(valid, held_out, length, compute), progress=context.progress, label=context.name,
            seed=derive_seed(context.seed, "dropout"), world=world,
        )
        if not trainer.passes.whole:
            raise UserError("the answers that are held out are scored by whole models",
                            where=f"{context.name}: parallel",
                            fix="share a fine-tuning along replicate, shard, tensor or context, not pipeline")
        if world.main:
            write_json(context.work / "plan.json", {
                "steps": steps, "batch": self.batch, "context": length, "replay_rows": replayed, "seed": order,
                **train.report.counts(),
            })
            write_json(context.work / "rejects.json", {"counts": rejects.counts, "examples": rejects.examples})
        used = train.report.examples - len(train.report.too_long) - len(train.report.without_targets)
        context.progress.say(f"  {used} conversations in {len(train)} rows of {length} tokens, {steps} steps, "
                             f"{replayed} of {self.batch} rows are general text; rejected: {rejects.counts or 'none'}")
        result = trainer.fit()
        trained = trainer.whole()
        if trained is not None:
            save_model(trained, context.work, tokenizer=tokenizer)
        return {"conversations": used, "rejected": sum(rejects.counts.values()), **result}

    def _rows(self, context: StageContext, tokenizer: Tokenizer, split: str, length: int,
              rejects: Rejects) -> tuple[Rows, list[str]]:
        """Packed rows, and where each of their examples was found."""
        found = list(self.data.conversations(split, context.inputs, rejects))
        if split != "train":
            found = found[:HELD_OUT_CONVERSATIONS]
        examples = []
        with context.progress.bar(f"encoding {split} conversations", len(found), "conversations") as bar:
            for conversation in found:
                examples.append(tokenizer.encode_chat_with_mask(conversation.messages))
                bar.advance()
        rows = pack_examples(examples, length, long=self.too_long, pad_id=tokenizer.pad_id or 0)
        for reason, numbers in (("longer than a row", rows.report.too_long),
                                ("no answer to learn from", rows.report.without_targets)):
            for number in numbers:
                rejects.add(reason, found[number].source, found[number].messages[0]["content"])
        return rows, [conversation.id for conversation in found]


@dataclass
class Mixed:
    """Each update: some rows of conversations and some of general text, both in orders that only the step decides."""

    conversations: RowBatches
    general: PackedBatches | None
    names: Sequence[str] = ()
    """Where each conversation was found."""

    def window(self, step: int) -> Sequence[Batch]:
        batch: Batch = self.conversations.batch(step)  # type: ignore[assignment]
        if self.general is None:
            return [batch]
        text: Batch = self.general.batch(step)  # type: ignore[assignment]
        return [{name: torch.cat([tensor, text[name]]) for name, tensor in batch.items()}]

    def documents(self, step: int, row: int) -> list[str]:
        """The conversations, or the documents of general text, in a row of update `step`."""
        own = self.conversations.order.at(step)
        if row < len(own):
            return [self.names[example] for example in self.conversations.rows[int(own[row])]]
        if self.general is None:
            return []
        return self.general.documents(step * self.general.batch_size + row - len(own))


@dataclass
class HeldOut:
    """Loss on held-out answers, and on held-out general text to see forgetting."""

    rows: Rows
    general: TokenShards | None
    length: int
    compute: Compute

    def __call__(self, model: Any, step: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if len(self.rows):
            chosen = range(min(HELD_OUT_ROWS, len(self.rows)))
            pieces = [self.rows.batch(chosen[i : i + 16]) for i in range(0, len(chosen), 16)]
            scores = validate(model, pieces, self.compute)
            values = {"score": scores["loss"], "answer_loss": scores["loss"], "answer_accuracy": scores["accuracy"]}
        if self.general is not None:
            text = validate_text(model, self.general, self.length, 16, HELD_OUT_ROWS * self.length, self.compute)
            values["general_bits_per_byte"] = text["bits_per_byte"]
        return values
