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

    @cached_property
    def batches(self) -> Any:
        return self.make()

    def cut(self, curriculum: Curriculum | None, context: int, total: int) -> Windows:
        """The same with the short rows of a curriculum over `total` rows."""
        if row_cuts(curriculum, context) == 1:
            return self
        return dataclasses.replace(self, cuts=lambda place: cuts_at(curriculum, context, place / total))

    def window(self, step: int) -> Sequence[Batch]:
        """The micro-batches of update `step`: a pure function of the step."""
        first, stop = self.positions.span(step)
        cuts = self.cuts(first)
        if isinstance(self.batches, SimilarRows):
            whole = self.batches.batch(step)
        else:
            whole = self.batches.rows(np.arange(first, stop))
        if cuts > 1:
            whole = shortened(whole, cuts)
        rows = len(whole["input_ids"])
        size = -(-self.micro_batch * rows // (stop - first))  # as many tokens at once, however long the rows are
        return [{name: tensor[start:start + size] for name, tensor in whole.items()}
                for start in range(0, rows, size)]


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
