"""Bits per byte and next-token accuracy of a model, document by document.

Bits per byte = nats of all tokens / (ln 2 x UTF-8 bytes of the text). It does not depend on the tokenizer; the end
token's loss is part of it (it says where a document ends), the start token is context only. A document longer than
the context is read through windows that overlap: every token is scored exactly once, in the first window that holds
it, with at least context - stride tokens before it except at the document's start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.core.errors import InternalError

HEAD_CHUNK = 1024
"""Tokens pushed through the head at once."""
BATCH_TOKENS = 8192
"""Tokens pushed through the body at once."""


@dataclass(frozen=True)
class Window:
    """Tokens start:stop of a document go in; predictions of tokens first:stop are scored."""

    document: int
    start: int
    first: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens that go in: the last is only predicted."""
        return self.stop - 1 - self.start


@dataclass
class TokenScores:
    """Sums over the scored tokens of each sequence: arrays (sequences,)."""

    nats: np.ndarray
    correct: np.ndarray
    tokens: np.ndarray


def windows(
    lengths: Sequence[int], context: int, stride: int, first_scored: Sequence[int] | None = None
) -> list[Window]:
    """Windows of at most `context` inputs, `stride` apart, that together score each token but the first exactly once.

    lengths: tokens of each sequence. first_scored: per sequence, the first token that is scored (default 1).
    """
    if not 1 <= stride <= context:
        raise ValueError(f"a stride of {stride} does not fit a context of {context}")
    result = []
    for document, length in enumerate(lengths):
        scored = max(1, first_scored[document]) if first_scored is not None else 1
        start = 0
        while scored < length:
            stop = min(start + context + 1, length)
            if stop > scored:
                result.append(Window(document, start, scored, stop))
                scored = stop
            start += stride
    return result


@torch.no_grad()
def score_tokens(
    model: nn.Module,
    sequences: Sequence[np.ndarray],
    *,
    context: int,
    stride: int | None = None,
    first_scored: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    autocast: Callable[[], Any] | None = None,
    name: str = "model",
    advance: Callable[[int], None] | None = None,
) -> TokenScores:
    """Sums of -log p and of right guesses over the tokens of each sequence, given those before.

    model: `hidden` (batch, time, dim) and `head_weight` (vocab, dim) where it has them, so that logits are only made
    for scored tokens; else a module that gives logits (batch, time, vocab). sequences: ids (tokens,) each.
    stride: tokens by which windows move on, default half the context. autocast: makes the context for reduced
    precision. advance: told the number of tokens scored. Raises InternalError naming the model where a loss is not
    finite.
    """
    plan = windows([len(s) for s in sequences], context, stride or max(1, context // 2), first_scored)
    # Windows of like length go together; padding on the right is after everything that is scored, so it is not seen.
    order = sorted(range(len(plan)), key=lambda i: (-plan[i].length, i))
    scores = TokenScores(*(np.zeros(len(sequences)) for _ in range(3)))
    place = 0
    while place < len(order):
        rows = max(1, BATCH_TOKENS // plan[order[place]].length)
        chosen = [plan[i] for i in order[place : place + rows]]
        place += len(chosen)
        _score_batch(model, sequences, chosen, scores, device, autocast, name)
        if advance is not None:
            advance(sum(w.stop - w.first for w in chosen))
    return scores


def _score_batch(model: nn.Module, sequences: Sequence[np.ndarray], chosen: list[Window], scores: TokenScores,
                 device: torch.device | str, autocast: Callable[[], Any] | None, name: str) -> None:
    longest = max(w.length for w in chosen)
    ids = torch.zeros(len(chosen), longest, dtype=torch.int64)
    scored = torch.zeros(len(chosen), longest, dtype=torch.bool)
    targets = torch.zeros(len(chosen), longest, dtype=torch.int64)
    for row, w in enumerate(chosen):
        tokens = torch.from_numpy(np.asarray(sequences[w.document][w.start : w.stop]).astype(np.int64))
        ids[row, : w.length] = tokens[:-1]
        targets[row, : w.length] = tokens[1:]
        scored[row, w.first - w.start - 1 : w.length] = True
    owners = np.repeat([w.document for w in chosen], [w.stop - w.first for w in chosen])
    if autocast is None:
        nats, correct = _losses(model, ids.to(device), targets[scored].to(device), scored.to(device))
    else:
        with autocast():
            nats, correct = _losses(model, ids.to(device), targets[scored].to(device), scored.to(device))
    values = nats.double().cpu().numpy()
    if not np.isfinite(values).all():
        raise InternalError(f"{name} gives a loss that is not a finite number ({int((~np.isfinite(values)).sum())} of "
                            f"{len(values)} tokens)", where=name, fix="train again with a lower learning rate; "
                            "if the weights were read from elsewhere, check that they are whole")
    np.add.at(scores.nats, owners, values)
    np.add.at(scores.correct, owners, correct.cpu().numpy())
    np.add.at(scores.tokens, owners, 1)


def _losses(model: nn.Module, ids: Tensor, targets: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """-log p (tokens,) in fp32 and whether the likeliest token is the true one (tokens,), of the scored positions."""
    body: Any = getattr(model, "hidden", None)
    head: Any = getattr(model, "head_weight", None) if body is not None else None
    states = (model if head is None else body)(ids)[scored]
    nats, correct = [], []
    for part, wanted in zip(states.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True):
        logits = (part if head is None else F.linear(part, head)).float()
        nats.append(F.cross_entropy(logits, wanted, reduction="none"))
        correct.append(logits.argmax(-1) == wanted)
    return torch.cat(nats), torch.cat(correct)


def bits_per_byte(nats: float, text_bytes: float) -> float:
    """Summed nats over text of `text_bytes` UTF-8 bytes -> bits a byte."""
    return nats / (math.log(2) * text_bytes)
