"""The plan of a run: for every stage, whether it is reused, continued or run, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gristmill.core.artifact import Artifact
from gristmill.core.config import to_plain
from gristmill.core.errors import GristmillError, UserError
from gristmill.pipeline.identity import fingerprint, identity, stage_seed
from gristmill.pipeline.store import ArtifactStore
from gristmill.pipeline.work import WorkFolder
from gristmill.recipe.errors import Problem, RecipeError, dotted, nearest
from gristmill.recipe.loading import Document
from gristmill.recipe.references import Found, closure, find_references
from gristmill.recipe.schema import Recipe

Action = Literal["reuse", "continue", "run", "decide"]


@dataclass
class Step:
    """One stage of a plan.

    action: reuse (a finished artifact has its identity), continue (its unfinished work is taken up), run, or decide
    (it waits for what an earlier stage leaves). identity is None until every input is there.
    """

    name: str
    config: Any
    seed: int
    references: list[Found]
    needs: list[str]
    action: Action = "decide"
    why: str = ""
    identity: str | None = None
    artifact: Artifact | None = None
    version: int = 0
    outside: Any = None
    """The fingerprint of inputs besides the references; taken once, so that a run has one view of them."""
    looked_outside: bool = False
    wanted: bool = True
    """False where `until` leaves the stage out."""

    @property
    def kind(self) -> str:
        return type(self.config).kind

    @property
    def produces(self) -> str:
        return type(self.config).produces


@dataclass
class Plan:
    """The steps in the order in which they run, and the artifacts from outside the recipe."""

    recipe: Recipe
    steps: list[Step]
    external: dict[str, Artifact] = field(default_factory=dict)

    @property
    def wanted(self) -> list[Step]:
        return [step for step in self.steps if step.wanted]

    def step(self, name: str) -> Step:
        return next(s for s in self.steps if s.name == name)

    def inputs(self, step: Step) -> dict[str, Artifact] | None:
        """Reference text -> artifact, or None while one of them is still to be made."""
        found: dict[str, Artifact] = {}
        for reference in step.references:
            artifact = (self.step(reference.text).artifact if reference.text in step.needs
                        else self.external.get(reference.text))
            if artifact is None:
                return None
            found[reference.text] = artifact
        return found


def make_plan(recipe: Recipe, store: ArtifactStore, until: str | None = None) -> Plan:
    """Work out what a run would do; reads the store and writes nothing.

    until: leave out every stage that this one does not need. References to outside are resolved here, so that a
    missing one is told before anything runs.
    """
    needs = recipe.needs()
    wanted = set(recipe.stages)
    if until is not None:
        if until not in recipe.stages:
            raise UserError(f"there is no stage `{until}`{nearest(until, recipe.stages).rstrip('?')}", where="--until",
                            fix=f"stages: {', '.join(recipe.stages)}")
        wanted = closure(needs, until)
    steps = [Step(name=name, config=recipe.stages[name], seed=stage_seed(recipe.seed, name), needs=needs[name],
                  references=find_references(recipe.stages[name]), wanted=name in wanted) for name in recipe.order()]
    plan = Plan(recipe, steps)
    problems = []
    for step in steps:
        for reference in step.references:
            if reference.text in step.needs:
                continue
            try:
                plan.external[reference.text] = store.resolve(reference.text, reference.kinds, run=recipe.name)
            except GristmillError as error:
                if not step.wanted:
                    continue
                problems.append(_unresolved(recipe, step, reference, error))
    if problems:
        origin = recipe.document.origin if recipe.document else recipe.name
        raise RecipeError(problems, origin)
    for step in steps:
        decide(plan, step, store)
    return plan


def _unresolved(recipe: Recipe, step: Step, reference: Found, error: GristmillError) -> Problem:
    document = recipe.document or Document({}, recipe.name)
    path = ("stages", step.name, *reference.path)
    return Problem(document.where(path), dotted(path), f"{error.what}{'; ' + error.fix if error.fix else ''}")


def decide(plan: Plan, step: Step, store: ArtifactStore) -> None:
    """Settle what happens to a step, as far as its inputs are known."""
    recipe = plan.recipe.name
    step.identity, step.artifact = None, None
    inputs = plan.inputs(step)
    if inputs is None:
        waits = [n for n in step.needs if plan.step(n).artifact is None] or ["what is not there"]
        step.action, step.why = "decide", f"depends on {', '.join(waits)}"
        return
    try:
        if not step.looked_outside:
            step.outside, step.looked_outside = fingerprint(step.config), True
        digests = {text: artifact.digest for text, artifact in inputs.items()}
        step.identity = identity(step.config, step.seed, digests, step.outside)
    except GristmillError as error:
        if not step.wanted:
            step.action, step.why = "decide", error.what
            return
        error.where = f"stages.{step.name}: {error.where}" if error.where else f"stages.{step.name}"
        raise
    step.artifact = store.find(recipe, step.name, step.identity)
    if step.artifact is not None:
        step.action, step.version, step.why = "reuse", step.artifact.record["version"], "unchanged"
        return
    step.version = max(store.taken(recipe, step.name), default=0) + 1
    if WorkFolder(store.run_folder(recipe), step.name).holds(step.identity):
        step.action, step.why = "continue", "unfinished work is there"
        return
    step.action = "run"
    last = store.newest(recipe, step.name)
    step.why = "new" if last is None else reasons(step, inputs, last)


def reasons(step: Step, inputs: Mapping[str, Artifact], last: Artifact) -> str:
    """Why `last` does not stand for the step any more, in a few words."""
    record, found = last.record, []
    before, after = _flat(record.get("config", {})), _flat(to_plain(step.config))
    for key in [*before, *(k for k in after if k not in before)]:
        if before.get(key) != after.get(key):
            found.append(f"{key}: {_short(before.get(key))} -> {_short(after.get(key))}")
    old = {text: entry.get("digest") for text, entry in record.get("inputs", {}).items()}
    found += [f"{text} changed" for text, artifact in inputs.items() if text in old and old[text] != artifact.digest]
    if record.get("seed") != step.seed:
        found.append("the seed changed")
    if record.get("semantics_version", 1) != type(step.config).semantics_version:
        found.append(f"`{step.kind}` itself works differently now")
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return shown or "inputs from outside changed"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {
            k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()
        }
    return {prefix: value}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else text[:21] + "..."
