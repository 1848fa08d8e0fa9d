"""What a plan is about: FAMILY, FAMILY:PRESET, a recipe, or a folder with config.json, as one config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill.core.errors import UserError

if TYPE_CHECKING:
    from gristmill.planning.tables import Tables
    from gristmill.planning.train import Request
    from gristmill.training.parallel.auto import Workload

TOKENS_PER_PARAMETER = 20
PREDICTED = {"masked_lm": 0.15, "next_sentence": 0.15, "translation_lm": 0.15, "permutation_lm": 1 / 6}
"""Objective -> share of the tokens that it predicts (arXiv:1810.04805, arXiv:1906.08237); others predict all."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model, and what its recipe says of its training; None where it says nothing."""

    name: str
    config: Any
    tokens: float | None = None
    minutes: float | None = None
    context: int | None = None
    rows: int | None = None
    micro_batch: int | None = None
    optimizer: str = "adamw"
    average: bool = False
    steps: int | None = None
    stage: Any = None

    @property
    def predicted(self) -> float:
        """Share of the tokens that training predicts."""
        return PREDICTED.get(self.objective, 1.0)

    @property
    def objective(self) -> str:
        """What it learns: what the recipe says, else what its family is known for."""
        from gristmill.models.families import FAMILIES

        said = getattr(self.stage, "objective", None)
        return FAMILIES[self.config.family].objective if said is None else said.kind


def read_source(text: str, *, stage: str | None = None, depth: int | None = None,
                vocab_size: int | None = None) -> Source:
    """Resolve FAMILY[:PRESET], a recipe file or a folder. UserError says what there is where it is none of these."""
    from gristmill.models.families import FAMILIES

    path = Path(text)
    family, _, preset = text.partition(":")
    # A folder of a family's name is only meant where it holds a model: our own package is called like a family.
    if family in FAMILIES and not (path / "config.json").is_file():
        return _family(family, preset, depth, vocab_size)
    if path.is_dir():
        from gristmill.models.loading import read_config

        return Source(name=path.resolve().name, config=read_config(path)[1])
    if path.suffix in (".yaml", ".yml"):
        return _recipe(path, stage, vocab_size)
    raise UserError(f"{text!r} is no family, no recipe and no folder", where="MODEL",
                    fix=f"name a recipe (.yaml), a folder with config.json, or one of {', '.join(FAMILIES)}, "
                        "with a preset as in llama:smollm2-135m")


def config_of(public: Mapping[str, Any]) -> Any:
    """The content of a public config.json as a config."""
    from gristmill.models.families import FAMILIES

    named = set(public.get("architectures") or [])
    for family in FAMILIES.values():
        if named & set(family.architectures):
            return family.config_from_public(public)
    raise UserError(f"the architecture {', '.join(sorted(named)) or 'without a name'} is not supported", where="model",
                    fix=f"supported: {', '.join(name for f in FAMILIES.values() for name in f.architectures)}")


def workload(source: Source, processes: int, *, precision: str, rows: int | None, context: int | None,
             **said: Any) -> Workload:
    """What would be trained on so many processes: as the recipe says, or one row for each, unless said otherwise.

    said: fields of Workload; None is unsaid.
    """
    from gristmill.models.families import FAMILIES
    from gristmill.objectives.moe_losses import with_router_losses
    from gristmill.objectives.pretraining import default_objective
    from gristmill.tokens import Positions
    from gristmill.tokens.curriculum import row_cuts
    from gristmill.training.config import TrainingConfig
    from gristmill.training.optimizers import OptimizerConfig
    from gristmill.training.parallel.auto import Workload

    stage, config = source.stage, source.config
    task: Any = getattr(stage, "objective", None) or default_objective(FAMILIES[config.family].objective)
    length, batch = context or source.context or config.context, rows or source.rows or processes
    work = Workload.of(
        config, stage.training if stage else TrainingConfig(optimizer=OptimizerConfig(kind="adamw")), rows=batch,
        context=length, micro_batch=stage.micro_batch if stage else 1,
        objective=with_router_losses(task.loss(config), config), precision=precision,
        fewest_rows=Positions(batch, length, stage.batch_warmup if stage else None).smallest,
        shortest=length // row_cuts(stage.curriculum if stage else None, length))
    return dataclasses.replace(work, **{name: value for name, value in said.items() if value is not None})


def request_for(source: Source, wanted: Mapping[str, Any], given: Mapping[str, Any], tokens: float | None,
                tables: Tables, hardware: str | None = None, parallel: str | None = None) -> Request:
    """What a person asked for, over what the recipe says.

    wanted, given: fields of Request and of Given; None is unsaid.
    """
    from gristmill.planning.inputs import Cluster, Given
    from gristmill.planning.layout import Layout
    from gristmill.planning.train import Request

    said = {name: value for name, value in wanted.items() if value is not None}
    defaults: dict[str, Any] = {"context": source.context, "optimizer": source.optimizer, "average": source.average}
    if source.rows is not None and source.context is not None:
        defaults |= {"batch_tokens": source.rows * source.context, "micro_batch": source.micro_batch}
    tokens = tokens if tokens is not None else source.tokens
    if tokens is None:
        from gristmill.planning.anatomy import anatomy

        usual = f"--tokens {TOKENS_PER_PARAMETER * anatomy(source.config).total:.3g}"
        if source.minutes is not None:
            raise UserError(
                f"the recipe says {source.minutes:g} minutes, and how many tokens that is hangs on the machine",
                where="--tokens", fix=f"add --calibrate to measure this one, or {usual} ({TOKENS_PER_PARAMETER} a "
                                      "parameter)")
        raise UserError("how many tokens?", where="--tokens",
                        fix=f"{TOKENS_PER_PARAMETER} a parameter would be {usual}")
    return Request(
        name=source.name, config=source.config, tokens=tokens, predicted=source.predicted,
        cluster=None if hardware is None else Cluster.parse(hardware, tables),
        layout=None if parallel is None else Layout.parse(parallel),
        given=Given.from_plain({name: value for name, value in given.items() if value is not None}, "given"),
        **{**defaults, **said})


def _family(family: str, preset: str, depth: int | None, vocab_size: int | None) -> Source:
    from gristmill.models.families import FAMILIES
    from gristmill.models.spec import ModelSpec

    presets = FAMILIES[family].presets
    if preset:
        if preset not in presets:
            raise UserError(f"{preset!r} is no preset of {family}", where="MODEL",
                            fix=f"choose one of {', '.join(sorted(presets))}")
        if depth is None and vocab_size is None:
            return Source(name=f"{family}:{preset}", config=presets[preset])
        if depth is not None:
            raise UserError("a preset already says its depth", where="--depth", fix="leave one of them out")
        spec = ModelSpec(family=family, preset=preset)  # type: ignore[arg-type]
        return Source(name=f"{family}:{preset}", config=spec.resolve(vocab_size or 0)[0])
    spec = ModelSpec(family=family, depth=depth)  # type: ignore[arg-type]
    return Source(name=f"{family}, depth {depth or 6}", config=spec.resolve(vocab_size or 32_768)[0])


def _recipe(path: Path, name: str | None, vocab_size: int | None) -> Source:
    from gristmill.recipe import load_recipe

    recipe = load_recipe(path)
    pretraining = {n: s for n, s in recipe.stages.items() if type(s).kind == "pretrain"}
    if name is None and len(pretraining) == 1:
        name = next(iter(pretraining))
    if name not in pretraining:
        known = ", ".join(pretraining) or "none"
        raise UserError(f"there is no stage {name!r} that pretrains" if name else
                        f"this recipe has {len(pretraining)} stages that pretrain", where=str(path),
                        fix=f"say --stage with one of: {known}" if pretraining else "name a model instead")
    stage = pretraining[name]
    config = _config(recipe, stage, vocab_size, str(path))
    context = stage.context or config.context
    rows = stage.batch or max(1, 4096 // context)
    budget = stage.budget
    tokens = budget.tokens or (budget.steps * rows * context if budget.steps else None)
    if getattr(budget, "flops", None) is not None:
        tokens = round(budget.flops / config.flops_per_token(context))
    if tokens is None and budget.minutes is None and not getattr(budget, "timed", False):
        from gristmill.planning.anatomy import anatomy

        tokens = TOKENS_PER_PARAMETER * anatomy(config).total
    return Source(
        name=f"{recipe.name}/{name}", config=config, tokens=tokens, minutes=budget.minutes, steps=budget.steps,
        context=context, rows=rows, optimizer=stage.training.optimizer.planned,
        average=bool(stage.training.ema), stage=stage,
        micro_batch=stage.micro_batch if isinstance(stage.micro_batch, int) else rows)


def _config(recipe: Any, stage: Any, vocab_size: int | None, where: str) -> Any:
    if stage.start is not None:
        folder = Path(stage.start)
        if not (folder / "config.json").is_file():
            raise UserError(f"the model {stage.start!r} that training starts from is not there yet", where=where,
                            fix="plan a folder or a preset instead")
        from gristmill.models.loading import read_config

        return read_config(folder)[1]
    if vocab_size is None:
        trained = recipe.stages.get(stage.tokenizer)
        vocab_size = getattr(trained, "vocab_size", None)
    if vocab_size is None and Path(str(stage.tokenizer)).is_dir():
        from gristmill.tokenizer import Tokenizer

        vocab_size = Tokenizer.load(Path(stage.tokenizer)).vocab_size
    if vocab_size is None:
        raise UserError(f"how many tokens {stage.tokenizer!r} has is not known yet", where=where,
                        fix="say --vocab-size")
    return stage.model.resolve(vocab_size)[0]
