"""From logits to tokens, for all rows of a batch at once; every row as if it were alone.

Order of operations as in transformers: repetition penalty, temperature, top-k, top-p. A row's random numbers depend on
(seed, position) only and become tokens by inverting the distribution function.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gristmill.core.errors import InternalError, UserError

OFTEN, ATTEMPTS = 0.5, 16
"""From this top-p on a token of the whole distribution lies in the nucleus often enough to draw until one does, at most
so many times; otherwise the vocabulary is sorted."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a request's tokens are chosen. Raises UserError where a value is out of its range."""

    max_tokens: int = 128
    """At most so many tokens; at least 1."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together have at least this probability (arXiv:1904.09751)."""
    repetition_penalty: float = 1.0
    """Tokens that occurred before, prompt included, become less likely by this factor (arXiv:1909.05858, 4.1)."""
    seed: int | None = None
    """Same seed, same tokens. None draws a fresh one from the operating system."""
    logprobs: int = 0
    """How many of the likeliest tokens are reported with their log-probabilities, at every position."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the answer; they are reported as its last token."""

    def __post_init__(self) -> None:
        checks = (
            ("max_tokens", self.max_tokens >= 1, "must be at least 1"),
            ("temperature", 0 <= self.temperature < math.inf, "must be 0 or a positive number"),
            ("top_k", self.top_k >= 0, "must be 0 (all) or a positive number"),
            ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "must be a positive number"),
            ("logprobs", 0 <= self.logprobs <= 100, "must be from 0 to 100"),
        )
        for name, holds, rule in checks:
            if not holds:
                raise UserError(f"{rule}, not {getattr(self, name)}", where=name)


class SamplingTable:
    """The sampling values of every slot as columns, so that a step gathers them with one index."""

    def __init__(self, slots: int, vocab: int, device: torch.device) -> None:
        self.device, self.vocab = device, vocab
        self.temperature = torch.ones(slots, 1, device=device)
        self.penalty = torch.ones(slots, 1, device=device)
        self.seed = torch.zeros(slots, dtype=torch.int64, device=device)
        self.position = torch.zeros(slots, dtype=torch.int64, device=device)
        """Tokens generated so far."""
        self.settings: list[Sampling | None] = [None] * slots
        self.seen: Tensor | None = None
        """(slots, vocab) of bool, which tokens occurred; made when the first request asks for a penalty."""

    def fill(self, slot: int, sampling: Sampling, prompt: Sequence[int]) -> None:
        """A request takes `slot`."""
        self.settings[slot] = sampling
        self.temperature[slot] = sampling.temperature or 1.0
        self.penalty[slot] = sampling.repetition_penalty
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**64
        self.seed[slot] = seed - 2**64 if seed >= 2**63 else seed
        self.position[slot] = 0
        if sampling.repetition_penalty != 1.0:
            if self.seen is None:
                self.seen = torch.zeros(len(self.settings), self.vocab, dtype=torch.bool, device=self.device)
            self.seen[slot] = False
            self.seen[slot, torch.tensor(prompt, device=self.device)] = True

    def move(self, source: int, target: int) -> None:
        for column in (self.temperature, self.penalty, self.seed, self.position, self.seen):
            if column is not None:
                column[target] = column[source]
        self.settings[target], self.settings[source] = self.settings[source], None

    def choose(self, logits: Tensor, slots: list[int]) -> tuple[list[int], list[float], list[list[tuple[int, float]]]]:
        """logits (rows, vocab) fp32, row i of slot slots[i] -> tokens, their log-probabilities, the likeliest tokens.

        Log-probabilities are those of the model itself: before penalty, temperature and truncation. InternalError if
        the logits are not finite.
        """
        settings: list[Sampling] = [self.settings[slot] for slot in slots]  # type: ignore[misc]
        total = logits.logsumexp(-1)
        if not bool(torch.isfinite(total).all()):
            raise InternalError("the model gives logits that are not numbers",
                                fix="check that its weights are whole, and how its training ended")
        index = torch.tensor(slots, device=self.device)
        scores = logits
        if any(s.repetition_penalty != 1.0 for s in settings):
            penalty = self.penalty[index]
            punished = torch.where(logits > 0, logits / penalty, logits * penalty)
            scores = torch.where(self.seen[index] & (penalty != 1.0), punished, logits)  # type: ignore[index]
        tokens = scores.argmax(-1)
        drawn = [row for row, s in enumerate(settings) if s.temperature > 0]
        if drawn:
            rows = torch.tensor(drawn, device=self.device)
            chosen = index[rows]
            seed, place = self.seed[chosen], self.position[chosen] * (ATTEMPTS + 1)
            tokens[rows] = draw(scores[rows] / self.temperature[chosen],
                                lambda which, attempt: uniform(seed[which], place[which] + attempt),
                                [settings[row].top_k for row in drawn], [settings[row].top_p for row in drawn])
        logprobs = logits.gather(-1, tokens[:, None])[:, 0] - total
        top: list[list[tuple[int, float]]] = [[] for _ in slots]
        most = max(s.logprobs for s in settings)
        if most:
            values, ids = logits.topk(min(most, logits.shape[-1]), dim=-1)
            pairs = zip(ids.tolist(), (values - total[:, None]).tolist(), settings, strict=True)
            top = [list(zip(i[: s.logprobs], v[: s.logprobs], strict=True)) for i, v, s in pairs]
        self.position[index] += 1
        if self.seen is not None:
            self.seen[index, tokens] = True
        return tokens.tolist(), logprobs.tolist(), top


def draw(scores: Tensor, noise: Callable[[Tensor, int], Tensor], top_k: list[int], top_p: list[float]) -> Tensor:
    """One token a row. scores (rows, vocab), already divided by temperature.

    noise: (rows (n,), attempt) -> numbers in [0, 1), (n,) float64, a function of each row alone. Rows are treated in
    groups of equal candidate count, a row's own property: no row's result depends on another.
    """
    vocab = scores.shape[-1]
    tokens = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    best: dict[int, list[int]] = {}
    whole: list[int] = []
    for row, (k, p) in enumerate(zip(top_k, top_p, strict=True)):
        if k == 0 and p >= OFTEN:
            whole.append(row)
        else:
            best.setdefault(min(k, vocab) if k else vocab, []).append(row)
    limits = torch.tensor(top_p, dtype=torch.float64, device=scores.device)
    if whole:
        rows = torch.tensor(whole, device=scores.device)
        unsettled = _by_trial(scores, rows, noise, limits, tokens)
        if unsettled:
            best.setdefault(vocab, []).extend(unsettled)
    for count, members in sorted(best.items()):
        rows = torch.tensor(members, device=scores.device)
        tokens[rows] = _among_best(scores[rows], noise(rows, ATTEMPTS), limits[rows], count)
    return tokens


def _by_trial(scores: Tensor, rows: Tensor, noise: Callable[[Tensor, int], Tensor], top_p: Tensor,
              tokens: Tensor) -> list[int]:
    """Fill `tokens` by drawing from the whole distribution until the token lies in the nucleus; gives the rows that had
    no luck. No sorting: a token is in the nucleus if all likelier ones together have less than top_p."""
    weights = scores[rows].softmax(-1)
    running = weights.cumsum(-1, dtype=torch.float64)
    for attempt in range(ATTEMPTS):
        found = _invert(running, noise(rows, attempt))
        own = weights.gather(-1, found[:, None])
        likelier = torch.where(weights > own, weights, 0.0).sum(-1, dtype=torch.float64)
        fits = (likelier < top_p[rows] * running[:, -1]) | (top_p[rows] >= 1)
        tokens[rows[fits]] = found[fits]
        if bool(fits.all()):
            return []
        rows, weights, running = rows[~fits], weights[~fits], running[~fits]
    return rows.tolist()


def _among_best(scores: Tensor, u: Tensor, top_p: Tensor, count: int) -> Tensor:
    """Draw among the `count` best, of these among the likeliest that together have `top_p` (rows,)."""
    values, ids = scores.topk(count, dim=-1)
    weights = values.softmax(-1).double()
    before = weights.cumsum(-1) - weights
    kept = weights * (before < top_p[:, None])
    return ids.gather(-1, _invert(kept.cumsum(-1), u)[:, None])[:, 0]


def _invert(running: Tensor, u: Tensor) -> Tensor:
    """The first index at which the running sums (rows, n) of some weights pass u times their total."""
    total = running[:, -1:]
    target = torch.minimum(u[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(running, target, right=True)[:, 0]


def uniform(seed: Tensor, position: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, a pure function of (seed, position): SplitMix64 (Steele et al. 2014)."""
    state = _mix(seed) + (position + 1) * _signed(0x9E3779B97F4A7C15)
    return _shift(_mix(state), 11).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
