"""From what a recipe says of a model to a complete config, with every derivation told."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import field
from typing import Any, Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.models.config.moe import MoEConfig, changed
from gristmill.models.families import FAMILIES, Family

FamilyName = Literal[
    "llama", "gristmill", "gpt2", "gpt3", "mistral", "qwen", "palm", "mixtral", "moe", "bert", "roberta", "xlm",
    "xlm-roberta", "xlnet", "t5", "mt5",
]
"""The keys of FAMILIES, for types and for the schema of recipes."""

HEAD_DIM = 64
VOCABULARY_MULTIPLE = 64


@config
class ModelSpec:
    """A model to train from scratch: a preset, or a depth from which the rest follows, or every number by hand."""

    family: FamilyName = "llama"
    """Architecture; see docs/models."""
    preset: str | None = None
    """A published size, e.g. smollm2-135m."""
    depth: int | None = None
    """The one dial: number of blocks; width, heads and feed-forward follow from it. Default 6."""
    dim: int | None = None
    """Width; default 128 x ceil(depth / 3), at least 128."""
    heads: int | None = None
    """Query heads; default dim / 64."""
    kv_heads: int | None = None
    """Key/value heads; default as many as query heads, or what the family does."""
    mlp_dim: int | None = None
    """Inner width of the feed-forward; default 8/3 of dim where it has a gate, else 4 times, in multiples of 64."""
    context: int | None = None
    """Longest sequence, in tokens; default 256."""
    tied_head: bool | None = None
    """Whether the output head is the embedding; default what the family does."""
    options: dict[str, Any] = field(default_factory=dict)
    """Any other field of the family's config by its name, e.g. {dropout: 0.1, window: 128}."""

    def __post_init__(self) -> None:
        require(self.family in FAMILIES, "family", f"choose one of {', '.join(FAMILIES)}")
        require(self.preset is None or self.depth is None, "depth", "a preset already says it; leave one of them out")
        for name in ("depth", "dim", "heads", "kv_heads", "mlp_dim", "context"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1")
        known = {f.name for f in dataclasses.fields(FAMILIES[self.family].config)} - {"family", "vocab_size"}
        for name in self.options:
            near = difflib.get_close_matches(name, known, n=1)
            require(name in known, f"options.{name}", f"{self.family} has no such option" + (
                f"; did you mean {near[0]}?" if near else f"; it has {', '.join(sorted(known))}"))
        if self.kv_heads is not None:
            require("kv_heads" in known, "kv_heads", f"{self.family} has none: every head has its own keys and values")

    def resolve(self, vocab_size: int) -> tuple[Any, list[str]]:
        """The complete config for a tokenizer of `vocab_size` entries, and one sentence for every derived number."""
        family = FAMILIES[self.family]
        notes: list[str] = []
        rows = -(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        if rows != vocab_size:
            notes.append(f"vocab_size = {rows}: {vocab_size} tokens, rounded up to a multiple of {VOCABULARY_MULTIPLE}")
        given = {name: getattr(self, name) for name in ("dim", "heads", "kv_heads", "mlp_dim", "context", "tied_head")}
        changes = {name: value for name, value in given.items() if value is not None} | self.options
        try:
            start = dict(family.traits) if self.preset is None else {"moe": getattr(self._preset(family), "moe", None)}
            experts = start.get("moe")
            if isinstance(experts, MoEConfig) and "moe" in changes:
                changes["moe"] = changed(experts, changes["moe"])
            if self.preset is not None:
                resolved = dataclasses.replace(self._preset(family), vocab_size=rows, **changes)
            else:
                numbers = self._numbers(family, notes)
                resolved = family.config(family=family.name, vocab_size=rows, **{**family.traits, **numbers, **changes})
            family.public_config(resolved)  # what could not be written is refused before it is trained
            return resolved, notes
        except ValueError as error:
            name, _, problem = str(error).partition(": ")
            raise UserError(problem or name, where=f"model.{name}" if problem else "model") from error

    def _numbers(self, family: Family, notes: list[str]) -> dict[str, Any]:
        fields = {"depth": "layers"}  # of the config, where another word is used here

        def called(name: str, value: int) -> str:
            return str(value) if fields.get(name, name) in self.options else name

        def derived(name: str, value: int, rule: str) -> int:
            given = getattr(self, name)
            if given is None and fields.get(name, name) not in self.options:
                notes.append(f"{name} = {value}: {rule}")
            return value if given is None else given

        layers = derived("depth", 6, "the default")
        dim = derived("dim", 128 * max(1, -(-layers // 3)), f"128 x ceil({called('depth', layers)} / 3)")
        heads = derived("heads", max(1, dim // HEAD_DIM), f"{called('dim', dim)} / {HEAD_DIM}")
        if dim % heads or (dim // heads) % 2:
            raise UserError(f"dim {dim} cannot be cut into {heads} heads of an even size", where="model.heads",
                            fix=f"choose heads so that dim / heads is even, e.g. {max(1, dim // HEAD_DIM)}")
        numbers = {"dim": dim, "layers": layers, "heads": heads, "head_dim": dim // heads}
        if any(f.name == "kv_heads" for f in dataclasses.fields(family.config)) and "kv_heads" not in family.traits:
            numbers["kv_heads"] = derived("kv_heads", heads, f"as many as {called('heads', heads)}")
        width = called("dim", dim)
        ratio = f"8/3 of {width}, rounded up" if family.mlp_ratio == 8 / 3 else (
            f"{family.mlp_ratio:g} x {width}, rounded up")
        inner = -(-round(3 * family.mlp_ratio) * dim // 3 // 64) * 64
        return {**numbers, "mlp_dim": derived("mlp_dim", inner, f"{ratio} to a multiple of 64"),
                "context": derived("context", 256, "the default")}

    def _preset(self, family: Family) -> Any:
        if self.preset is None or self.preset not in family.presets:
            raise UserError(f"{self.preset!r} is no preset of {self.family}", where="model.preset",
                            fix=f"choose one of {', '.join(sorted(family.presets))}")
        return family.presets[self.preset]
