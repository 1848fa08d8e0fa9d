"""The training rows of an update: by their places in the one global order, cut into micro-batches and short rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.objectives.base import Batch
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.pretraining import Pretraining
from gristmill.objectives.pretraining.rows import SimilarRows
from gristmill.tokens import Curriculum, Packing, Positions, TokenShards
from gristmill.tokens.batches import PADDING
from gristmill.tokens.curriculum import cuts_at, row_cuts


@dataclass(frozen=True)
class Windows:
    """The batches of updates as the loop asks for them, made when the first is needed."""

    make: Callable[[], Any]
    """Gives `TrainingBatches`, or rows by place alone."""
    positions: Positions
    micro_batch: int
    """Rows pushed through the model at once."""
    cuts: Callable[[int], int] = lambda place: 1
    """Into how many pieces the rows from this place on are cut."""
    share: tuple[int, int] = (0, 1)
    """Which of how many shares of every update's rows this process reads."""
    static = True
    """What is read hangs on the step alone, so it may be read ahead."""

    @cached_property
    def batches(self) -> Any:
        return self.make()

    def cut(self, curriculum: Curriculum | None, context: int, total: int) -> Windows:
        """The same with the short rows of a curriculum over `total` rows."""
        if row_cuts(curriculum, context) == 1:
            return self
        return dataclasses.replace(self, cuts=lambda place: cuts_at(curriculum, context, place / total))

    def window(self, step: int) -> Sequence[Batch]:
        """This share's micro-batches of update `step`, a pure function of the step; as many for every share."""
        first, stop = self.positions.span(step)
        share, shares = self.share
        planned = stop - first
        if isinstance(self.batches, SimilarRows):
            # Rows of similar lengths are chosen together, an update at a time, as many as there are tokens for.
            update = self.batches.batch(step)
            rows = len(update["input_ids"])
            edges = [rows * at // shares for at in (share, share + 1)]
            whole = {name: tensor[slice(*edges)] for name, tensor in update.items()}
            largest = -(-rows // shares)
            if edges[0] == edges[1]:
                whole = dict(nothing(update))
        else:
            whole = self.batches.rows(self.positions.places(step, share, shares))
            rows, largest = planned, -(-planned // shares)
        cuts = self.cuts(first)
        if cuts > 1:
            whole = shortened(whole, cuts)
        # As many tokens at once, however long the rows are.
        size = -(-self.micro_batch * rows * cuts // planned)
        mine = len(whole["input_ids"])
        return [{name: tensor[start:start + size] for name, tensor in whole.items()} if start < mine
                else nothing(whole)
                for start in range(0, largest * cuts, size)]

    def documents(self, step: int, row: int) -> list[str]:
        """The documents in a row of this share of update `step`, counted over its micro-batches; `id (source)` each,
        none where the rows do not say."""
        places = self.positions.places(step, *self.share)
        at = row // self.cuts(self.positions.span(step)[0])
        known = getattr(self.batches, "documents", None)
        return [] if known is None or at >= len(places) else known(int(places[at]))


@dataclass(frozen=True)
class Dealt:
    """Another source's windows, the rows of every micro-batch dealt to the processes that share an update."""

    source: Any
    share: tuple[int, int]
    """Which of how many shares this process reads."""
    static = True

    def window(self, step: int) -> Sequence[Batch]:
        batches = self.source.window(step)
        return [{name: tensor[mine.start:mine.stop] for name, tensor in batch.items()} if mine else nothing(batch)
                for batch, mine in zip(batches, self._mine(batches), strict=True)]

    def documents(self, step: int, row: int) -> list[str]:
        """As the other source names what a row of it holds, if it does; `row` counts this process's own."""
        batches, before = self.source.window(step) if hasattr(self.source, "documents") else (), 0
        for batch, mine in zip(batches, self._mine(batches), strict=True):
            if row < len(mine):
                return self.source.documents(step, before + mine[row])
            row, before = row - max(1, len(mine)), before + len(batch["input_ids"])
        return []

    def _mine(self, batches: Sequence[Batch]) -> list[range]:
        """Which rows of each micro-batch this process reads."""
        share, shares = self.share
        return [range(rows * share // shares, rows * (share + 1) // shares)
                for rows in (len(batch["input_ids"]) for batch in batches)]


def nothing(batch: Batch) -> Batch:
    """A micro-batch from which nothing is learnt: one row that is padding, for a process whose share is used up while
    others still run."""
    row = {name: tensor[:1].clone() for name, tensor in batch.items()}
    for name in {"targets", "next_sentence_label"} & row.keys():
        row[name].fill_(IGNORED)
    if "document_ids" in row:
        row["document_ids"].fill_(PADDING)
    return row


def shortened(batch: dict[str, Tensor], cuts: int) -> dict[str, Tensor]:
    """Each row (batch, time) as `cuts` rows (batch x cuts, time / cuts), the documents of each numbered anew; no target
    is lost, but what stands before a cut is no longer seen."""
    short = {name: tensor.reshape(tensor.shape[0] * cuts, -1) for name, tensor in batch.items()}
    documents = short["document_ids"]
    short["document_ids"] = torch.where(documents == PADDING, documents, documents - documents[:, :1])
    return short


def check_reading(task: Pretraining, packing: Packing, curriculum: Curriculum | None, *, mixed: bool = False,
                  growing: bool = False) -> None:
    """UserError where this objective makes its rows in its own way. mixed: there is a mixture, or an order by
    difficulty. growing: updates grow."""
    if getattr(task, "similar_lengths", False) and (mixed or growing):
        raise UserError("batches of similar lengths have an order of their own",
                        where="objective.similar_lengths", fix="leave it out, or mixture, curriculum and batch_warmup")
    if packing == "best_fit" and not getattr(task, "best_fit", False):
        raise UserError(f"{task.kind} lays out its rows in its own way", where="packing",
                        fix="leave `packing` out; best_fit is for causal_lm, multi_token, prefix_lm and "
                            "fill_in_the_middle")
    if curriculum is not None and curriculum.short_rows is not None and task.kind not in ("causal_lm", "multi_token"):
        raise UserError(f"rows of {task.kind} cannot be cut", where="curriculum.short_rows",
                        fix="leave it out; short rows are for causal_lm and multi_token")


def describe_packing(texts: Sequence[TokenShards]) -> tuple[dict[str, Any], str]:
    """What rows of whole documents hold, as figures and as a sentence; beside it what windows would have cut."""
    rows = tokens = documents = fit = cut = 0
    for text in texts:
        context = text.layout.context
        places = np.diff(text.offsets) - 1
        starts = np.asarray(text.offsets[:-1])
        short = (places > 0) & (places <= context)
        rows, tokens = rows + text.layout.rows, tokens + text.layout.tokens
        documents, fit = documents + text.documents, fit + int(short.sum())
        cut += int((starts // context != (starts + places - 1) // context)[short].sum())
    padding = 1 - tokens / (rows * context)
    figures = {"rows": rows, "padding": round(padding, 6), "documents": documents, "fit_a_row": fit,
               "cut_by_windows": cut}
    return figures, (f"{rows} rows of whole documents, {padding:.3%} padding; windows would have cut {cut} of {fit} "
                     "documents that fit a row")
