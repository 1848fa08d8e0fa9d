"""From what a recipe says of a model to a complete config, with every derivation told."""

from __future__ import annotations

import dataclasses
from typing import Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig

HEAD_DIM = 64
VOCABULARY_MULTIPLE = 64


@config
class ModelSpec:
    """A model to train from scratch: a preset, or a depth from which the rest follows, or every number by hand."""

    family: Literal["llama"] = "llama"
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
    """Key/value heads; default as many as query heads."""
    mlp_dim: int | None = None
    """Inner width of the SwiGLU; default 8/3 of dim, rounded up to a multiple of 64."""
    context: int | None = None
    """Longest sequence, in tokens; default 256."""
    tied_head: bool | None = None
    """Whether the output head is the embedding; default false."""

    def __post_init__(self) -> None:
        require(self.preset is None or self.depth is None, "depth", "a preset already says it; leave one of them out")
        for name in ("depth", "dim", "heads", "kv_heads", "mlp_dim", "context"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "must be at least 1")

    def resolve(self, vocab_size: int) -> tuple[DecoderConfig, list[str]]:
        """The complete config for a tokenizer of `vocab_size` entries, and one sentence for every derived number."""
        notes: list[str] = []

        def derived(name: str, value: int, rule: str) -> int:
            given = getattr(self, name)
            if given is None:
                notes.append(f"{name} = {value}: {rule}")
            return value if given is None else given

        rows = -(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        if rows != vocab_size:
            notes.append(f"vocab_size = {rows}: {vocab_size} tokens, rounded up to a multiple of {VOCABULARY_MULTIPLE}")
        if self.preset is not None:
            return self._from_preset(rows), notes
        layers = derived("depth", 6, "the default")
        dim = derived("dim", 128 * max(1, -(-layers // 3)), "128 x ceil(depth / 3)")
        heads = derived("heads", max(1, dim // HEAD_DIM), f"dim / {HEAD_DIM}")
        if dim % heads or (dim // heads) % 2:
            raise UserError(f"dim {dim} cannot be cut into {heads} heads of an even size", where="model.heads",
                            fix=f"choose heads so that dim / heads is even, e.g. {max(1, dim // HEAD_DIM)}")
        return DecoderConfig(
            vocab_size=rows, dim=dim, layers=layers, heads=heads,
            kv_heads=derived("kv_heads", heads, "as many as heads"),
            head_dim=dim // heads,
            mlp_dim=derived("mlp_dim", -(-8 * dim // 3 // 64) * 64, "8/3 of dim, rounded up to a multiple of 64"),
            context=derived("context", 256, "the default"),
            tied_head=bool(self.tied_head),
        ), notes

    def _from_preset(self, rows: int) -> DecoderConfig:
        from gristmill.models.families import FAMILIES

        presets = FAMILIES[self.family].presets
        if self.preset is None or self.preset not in presets:
            raise UserError(f"{self.preset!r} is no preset of {self.family}", where="model.preset",
                            fix=f"choose one of {', '.join(sorted(presets))}")
        names = ("dim", "heads", "kv_heads", "mlp_dim", "context", "tied_head")
        changes = {name: getattr(self, name) for name in names}
        return dataclasses.replace(
            presets[self.preset], vocab_size=rows, **{k: v for k, v in changes.items() if v is not None}
        )
