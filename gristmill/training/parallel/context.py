"""Context parallelism: the tokens of every row are shared out; each process attends from its own to all before them.

A row is cut into 2 x size stretches, and a process takes the one at its place from the front and the one at its place
from the back, so that all have the same causal work (arXiv:2407.21783, 3.3.2). Keys and values are gathered layer by
layer, or travel round (`ring.py`); documents, windows, sparse patterns and prefixes hold as in one process.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gristmill.core.errors import InternalError, UserError
from gristmill.models.config import DecoderConfig
from gristmill.models.decoder import Attention, positions_in_documents
from gristmill.models.layers.attention import attention
from gristmill.models.layers.masks import CAUSAL, Pattern
from gristmill.models.layers.moe import expert_layers
from gristmill.objectives.base import Batch
from gristmill.objectives.causal_lm import CausalLM
from gristmill.training.parallel.collectives import gather, gathered
from gristmill.training.parallel.ring import ring_attention
from gristmill.training.parallel.stretches import PADDING, Stretches, filled
from gristmill.training.parallel.world import World


@dataclass
class Context:
    """Cuts batches, and mixes the values of rows that are cut. Called with a batch it gives this process's part."""

    stretches: Stretches
    group: Any
    config: DecoderConfig
    method: str = "all_gather"
    tensor: int = 1
    """Into how many stretches more the tokens of a process are cut."""
    cutting: bool = True
    lengths: set[int] = field(default_factory=set)
    """Tokens a row that were given out."""

    def __call__(self, batch: Batch) -> Batch:
        """The tokens of this process, with their positions in whole rows.

        Rows that cannot be cut into equal stretches are filled up with padding. Raises UserError for
        rows that are too long for the positions that the model has.
        """
        unknown = set(batch) - set(PADDING)
        if unknown:
            raise InternalError(f"context parallelism does not know how a batch's {', '.join(sorted(unknown))} are cut")
        multiple = math.lcm(self.stretches.number, self.stretches.size * self.tensor)
        rows = filled({**batch, "position_ids": self._positions(batch)}, multiple)
        part = {name: self.stretches.cut(tensor) for name, tensor in rows.items()}
        self.lengths.add(part["input_ids"].shape[1])
        return part

    def _positions(self, batch: Batch) -> Tensor:
        """Of every token, (rows or 1, time); as the model would count them."""
        ids, documents = batch["input_ids"], batch.get("document_ids")
        dynamic = (self.config.rope_scaling or {}).get("rope_type") == "dynamic"
        positions = batch.get("position_ids")
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
            if documents is not None and (dynamic or self.config.positions == "learned"):
                positions = positions_in_documents(documents)
        if ids.shape[1] > self.config.context and (dynamic or self.config.positions == "learned"):
            longest = int(positions.max()) + 1
            if longest > self.config.context:
                raise UserError(
                    f"a text of {longest} tokens, in a model of {self.config.context} positions that are "
                    f"{'scaled by the length of the text' if dynamic else 'learned'}", where="context",
                    fix="cut the text; or train with a longer context, or scale by yarn")
        return positions

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None, *, pattern: Pattern = CAUSAL,
        prefix: Tensor | None = None, dropout: float = 0.0, scale: float | None = None,
    ) -> Tensor:
        """As `attention`, q, k and v being the tokens of this process."""
        if not self.cutting:
            return attention(q, k, v, document_ids, pattern=pattern, prefix=prefix, dropout=dropout, scale=scale)
        if not torch.compiler.is_compiling() and q.shape[2] not in self.lengths:
            raise InternalError(f"a row of {q.shape[2]} tokens, where {sorted(self.lengths)} were given out: is it "
                                "whole?")
        key_documents = None if document_ids is None else self._rows(document_ids)
        key_prefix = None if prefix is None else self._rows(prefix.to(torch.uint8)).bool()
        if self.method == "ring":
            return ring_attention(q, k, v, document_ids, key_documents, key_prefix, pattern=pattern, scale=scale,
                                  stretches=self.stretches, group=self.group)
        k = k.to(v.dtype)  # norms of keys may have left them in fp32 under autocast
        keys, values = self.stretches.joined(gathered(torch.stack([k, v]), self.group), dim=-2).unbind()
        parts = []
        for start, stop, mine in self.stretches.mine(q.shape[2]):
            # What lies ahead is cut off where nobody looks there: not every backend leaves it out by itself.
            seen = stop if pattern.causal and prefix is None else keys.shape[2]
            parts.append(attention(
                q[:, :, mine], keys[:, :, :seen], values[:, :, :seen],
                None if document_ids is None else document_ids[:, mine], pattern=pattern,
                key_document_ids=None if key_documents is None else key_documents[:, :seen],
                prefix=key_prefix, dropout=dropout, scale=scale, first=start))
        return torch.cat(parts, dim=2)

    def _rows(self, part: Tensor) -> Tensor:
        """Whole rows (rows, time) of the parts (rows, own tokens) that the processes have; without gradients."""
        return self.stretches.joined(gather(part, self.group), dim=-1)

    def total(self, counts: Tensor) -> Tensor:
        """Sum over the processes that share rows."""
        if self.cutting:
            dist.all_reduce(counts, group=self.group)
        return counts

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the model sees whole rows again: every process of the group computes the same."""
        self.cutting = False
        try:
            yield
        finally:
            self.cutting = True


def share_context(model: nn.Module, world: World, objective: Any = None) -> Context:
    """Let every attention of `model` work on the tokens that the returned `Context` gives this process of a batch.

    objective: checked to be one whose rows can be cut. Raises UserError for what cannot be: models that are no
    decoders, objectives that look from one token at another, and what is drawn at random for a whole row.
    """
    config: Any = getattr(model, "config", None)
    method = world.layout.context_method
    check_context(config, objective, method)
    context = Context(Stretches(world.place("context"), world.layout.context), world.group("context"), config, method,
                      world.layout.tensor if world.layout.sequence else 1)
    for module in model.modules():
        if isinstance(module, Attention):
            module.mix = context.mix  # type: ignore[assignment]
    for layer in expert_layers(model):
        layer.total = context.total
    return context


def check_context(config: Any, objective: Any = None, method: str = "all_gather") -> None:
    """Raise UserError where rows cannot be shared out; config: of the model."""
    where, fix = "parallel: context", "leave context at 1; shard, replicate, tensor and pipeline work with everything"
    if not isinstance(config, DecoderConfig):
        raise UserError(f"context parallelism is for causal decoders, and this model is of the family "
                        f"{getattr(config, 'family', type(config).__name__)}", where=where, fix=fix)
    inner = objective
    while hasattr(inner, "objective"):
        inner = inner.objective
    if inner is not None and not isinstance(inner, CausalLM):
        raise UserError(f"{type(inner).__name__} looks from one token of a row at others, or scores rows as a whole: "
                        "its rows cannot be shared out", where=where, fix=fix)
    if config.stochastic_depth:
        raise UserError("stochastic depth skips a block for whole rows, and each process of a row would draw for "
                        "itself", where=where, fix="set stochastic_depth to 0, or leave context at 1")
    if method == "ring" and config.attention_dropout:
        raise UserError("the ring keeps no attention weights that dropout could be repeated on", where=where,
                        fix="set attention_dropout to 0, or use context_method=all_gather")
