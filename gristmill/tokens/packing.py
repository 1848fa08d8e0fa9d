"""Examples with a loss mask as rows of a batch: packed several to a row, or padded one to a row, with equal losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gristmill.core.errors import UserError
from gristmill.tokens.batches import IGNORED, Batch, ShuffledOrder, empty_batch
from gristmill.tokens.best_fit import best_fit
from gristmill.tokens.length_buckets import BucketedOrder

Example = tuple[Sequence[int], Sequence[int]]
"""Token ids, and a mask of equal length: 1 on the tokens that are to be learnt."""

LongExamples = Literal["truncate", "drop", "error"]


@dataclass
class PackingReport:
    """What became of the examples. examples = in rows + too_long + without_targets."""

    examples: int = 0
    rows: int = 0
    truncated: list[int] = field(default_factory=list)
    """Numbers of the examples that were cut at the end and still teach something."""
    too_long: list[int] = field(default_factory=list)
    """Numbers of the examples that were left out: longer than the context (for "truncate": no target was left)."""
    without_targets: list[int] = field(default_factory=list)
    """Numbers of the examples that were left out because their mask has nothing to learn."""
    tokens: int = 0
    """Input tokens in the rows, padding aside."""
    targets: int = 0
    """Scored tokens."""
    fill: float = 0.0
    """Share of the rows' places that holds tokens."""

    def counts(self) -> dict[str, Any]:
        """JSON-ready numbers, for the metrics of a stage."""
        return {"examples": self.examples, "rows": self.rows, "truncated": len(self.truncated),
                "too_long": len(self.too_long), "without_targets": len(self.without_targets),
                "tokens": self.tokens, "targets": self.targets, "fill": round(self.fill, 4)}


class Rows(Sequence[list[int]]):
    """Rows of `context` places, each a list of the examples that lie in it one behind the other.

    An example of n tokens takes n - 1 places: its last token is only a target. Its first token is never a target.
    """

    def __init__(self, examples: Sequence[Example], layout: list[list[int]], context: int, pad_id: int,
                 report: PackingReport) -> None:
        self.examples, self.layout, self.context, self.pad_id = examples, layout, context, pad_id
        self.report = report

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, row: Any) -> Any:
        """The numbers of the examples in a row."""
        return self.layout[row]

    def lengths(self) -> np.ndarray:
        """Places that hold tokens in each row, (rows,)."""
        return np.array([sum(min(len(self.examples[one][0]) - 1, self.context) for one in row) for row in self.layout])

    def batch(self, rows: Sequence[int] | np.ndarray, batch: int | None = None) -> Batch:
        """These rows as a batch; with `batch`, filled with rows of padding up to that many."""
        result = empty_batch(batch or len(rows), self.context, self.pad_id)
        inputs, targets, documents = (result[k].numpy() for k in ("input_ids", "targets", "document_ids"))  # type: ignore[literal-required]
        for place, row in enumerate(rows):
            start = 0
            for number, example in enumerate(self.layout[int(row)]):
                ids, mask = (np.asarray(part[:self.context + 1], dtype=np.int64) for part in self.examples[example])
                stop = start + len(ids) - 1
                inputs[place, start:stop] = ids[:-1]
                targets[place, start:stop] = np.where(mask[1:] != 0, ids[1:], IGNORED)
                documents[place, start:stop] = number
                start = stop
        return result


def pack_examples(examples: Sequence[Example], context: int, *, long: LongExamples = "truncate",
                  pad_id: int = 0) -> Rows:
    """Best-fit decreasing: each example, the longest first, goes into the fullest row that still has room.

    Each example is a document of its own; attention and targets stay within it, so that losses equal those of
    `pad_examples`. long: what to do with examples of more than context + 1 tokens: cut their end ("truncate"),
    leave them out ("drop"), or refuse ("error"); the report of the rows lists them. Raises UserError on a mask of
    another length than its ids.
    """
    sizes, report = _admit(examples, context, long)
    kept = np.fromiter(sizes, dtype=np.int64, count=len(sizes))
    packed = best_fit(np.fromiter(sizes.values(), dtype=np.int64, count=len(sizes)), context)
    layout = [kept[packed.row(row)].tolist() for row in range(len(packed))]
    return Rows(examples, layout, context, pad_id, _finish(report, layout, sizes, examples, context))


def pad_examples(examples: Sequence[Example], context: int, *, long: LongExamples = "truncate",
                 pad_id: int = 0) -> Rows:
    """One example a row, padded at the end; the same examples, cut in the same way, as `pack_examples` keeps."""
    sizes, report = _admit(examples, context, long)
    layout = [[example] for example in sizes]
    return Rows(examples, layout, context, pad_id, _finish(report, layout, sizes, examples, context))


class RowBatches:
    """Batches of rows in an order that is a pure function of (seed, step); every row once an epoch."""

    def __init__(self, rows: Rows, *, batch: int, seed: int, epochs: float | None = None,
                 similar_lengths: bool = False) -> None:
        """similar_lengths: batches of rows of similar length, cut to the longest, of at most `batch` x context tokens
        each and without an end: for padded rows."""
        if not len(rows):
            raise UserError(f"none of the {rows.report.examples} examples can be learnt from",
                            fix=f"look at their reasons: {rows.report.counts()}")
        self.rows, self.batch_size, self.seed = rows, batch, seed
        self.order = ShuffledOrder(len(rows), batch, seed, epochs)
        self.buckets = None
        if similar_lengths:
            if epochs is not None:
                raise ValueError("epochs: batches of similar lengths have no end")
            self.buckets = BucketedOrder(rows.lengths(), batch * rows.context, seed)

    @property
    def steps(self) -> int | None:
        """Batches in all, or None without an end. The last may hold rows of padding."""
        return self.order.steps

    def batch(self, step: int) -> Batch:
        """The batch of `step`, a pure function of (seed, step)."""
        if self.buckets is not None:
            chosen, length, _ = self.buckets.at(step)
            return {name: tensor[:, :length] for name, tensor in self.rows.batch(chosen).items()}  # type: ignore
        return self.rows.batch(self.order.at(step), self.batch_size)

    def state(self, step: int) -> dict[str, int]:
        """Epoch and place before `step`, for the record; to resume, call `batch(step)`."""
        return self.order.state(step)


def _admit(examples: Sequence[Example], context: int, long: LongExamples) -> tuple[dict[int, int], PackingReport]:
    """Example number -> places that it takes, for those that are kept; and why the others are not."""
    report = PackingReport(examples=len(examples))
    sizes: dict[int, int] = {}
    for i, (ids, mask) in enumerate(examples):
        if len(ids) != len(mask):
            raise UserError(f"{len(ids)} token ids but a mask of {len(mask)}", where=f"example {i}")
        if not any(mask[1:]):
            report.without_targets.append(i)
            continue
        size = len(ids) - 1
        if size > context:
            if long == "error":
                raise UserError(f"an example of {len(ids)} tokens does not fit into a context of {context}",
                                where=f"example {i}", fix=f"use a context of at least {size}, or cut long examples")
            if long == "drop" or not any(mask[1:context + 1]):
                report.too_long.append(i)
                continue
            report.truncated.append(i)
            size = context
        sizes[i] = size
    return sizes, report


def _finish(report: PackingReport, layout: list[list[int]], sizes: dict[int, int], examples: Sequence[Example],
            context: int) -> PackingReport:
    report.rows, report.tokens = len(layout), sum(sizes.values())
    report.targets = sum(1 for i, size in sizes.items() for own in examples[i][1][1:size + 1] if own)
    report.fill = report.tokens / (len(layout) * context) if layout else 0.0
    return report
