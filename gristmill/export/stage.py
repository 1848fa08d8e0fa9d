"""The stage `export`: a model becomes a release that others can open, proven and described."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from gristmill.core.config import EvaluationRef, ModelRef, require
from gristmill.core.stage import StageContext, stage
from gristmill.export.card import Card
from gristmill.export.release import write_release


@stage(kind="export", produces="release", semantics_version=1)
class Export:
    """Write a model as a public folder with its model card, and prove that it computes the same."""

    model: ModelRef
    """What to release."""
    formats: list[Literal["safetensors"]] = field(default_factory=lambda: ["safetensors"])
    """safetensors: the folder that transformers, vLLM and Gristmill open."""
    evaluation: EvaluationRef | None = None
    """Whose numbers the model card quotes."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the stored weights."""
    name: str | None = None
    """Title of the model card; default the recipe's and stage's name."""
    licence: str | None = None
    """Licence of the release, e.g. apache-2.0."""
    summary: str | None = None
    """One paragraph at the top of the model card."""
    limits: list[str] = field(default_factory=list)
    """Further sentences for the card's section on limits."""

    def __post_init__(self) -> None:
        require(len(self.formats) > 0, "formats", "name at least one")

    def run(self, context: StageContext) -> dict[str, Any]:
        context.progress.say("writing the release and proving it block by block")
        evaluation = None if self.evaluation is None else context.inputs[self.evaluation]
        proof = write_release(
            context.inputs[self.model], context.work, dtype=self.dtype,
            card=Card(name=self.name or context.name.partition("@")[0].replace("/", "-"), licence=self.licence,
                      summary=self.summary, limits=tuple(self.limits), evaluation=evaluation),
        )
        largest = max(witness["largest"] for witness in proof["witnesses"].values())
        context.progress.say(f"proven by {', '.join(proof['witnesses'])}: largest difference {largest:.1e}")
        return {"formats": list(self.formats), "dtype": self.dtype, "proof_largest_difference": largest,
                "witnesses": sorted(proof["witnesses"])}
