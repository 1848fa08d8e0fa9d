"""From logits to tokens, for all rows of a batch at once; every row as if it were alone.

Order of operations as in transformers: repetition penalty, temperature, top-k, top-p. A row's randomness is one
number that depends on (seed, position) only, turned into a token by inverting the distribution function.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gristmill.core.errors import UserError

NUCLEUS = 256
"""Candidates looked at first for top-p; rows that need more get their whole vocabulary sorted."""


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
        self.top_p = torch.ones(slots, dtype=torch.float64, device=device)
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
        self.top_p[slot] = sampling.top_p
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**64
        self.seed[slot] = seed - 2**64 if seed >= 2**63 else seed
        self.position[slot] = 0
        if sampling.repetition_penalty != 1.0:
            if self.seen is None:
                self.seen = torch.zeros(len(self.settings), self.vocab, dtype=torch.bool, device=self.device)
            self.seen[slot] = False
            self.seen[slot, torch.tensor(prompt, device=self.device)] = True

    def move(self, source: int, target: int) -> None:
        for column in (self.temperature, self.penalty, self.top_p, self.seed, self.position, self.seen):
            if column is not None:
                column[target] = column[source]
        self.settings[target], self.settings[source] = self.settings[source], None

    def choose(self, logits: Tensor, slots: list[int]) -> tuple[list[int], list[float], list[list[tuple[int, float]]]]:
        """logits (rows, vocab) fp32, row i of slot slots[i] -> tokens, their log-probabilities, the likeliest tokens.

        Log-probabilities are those of the model itself: before penalty, temperature and truncation.
        """
        settings: list[Sampling] = [self.settings[slot] for slot in slots]  # type: ignore[misc]
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
            u = uniform(self.seed[chosen], self.position[chosen])
            picks = draw(scores[rows] / self.temperature[chosen], u, [settings[row].top_k for row in drawn],
                         self.top_p[chosen], [settings[row].top_p for row in drawn])
            tokens[rows] = picks
        total = logits.logsumexp(-1)
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


def draw(scores: Tensor, u: Tensor, top_k: list[int], top_p: Tensor, top_p_list: list[float]) -> Tensor:
    """One token a row. scores (rows, vocab), already divided by temperature; u (rows,) in [0, 1) float64.

    Rows are treated in groups of equal candidate count, a row's own property: no row's result depends on another.
    """
    vocab = scores.shape[-1]
    tokens = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    groups: dict[int, list[int]] = {}
    for row, (k, p) in enumerate(zip(top_k, top_p_list, strict=True)):
        wanted = min(k, vocab) if k else (min(NUCLEUS, vocab) if p < 1 else 0)
        groups.setdefault(wanted, []).append(row)
    for count, members in sorted(groups.items()):
        rows = torch.tensor(members, device=scores.device)
        if count == 0:
            tokens[rows] = _invert(scores[rows].double().softmax(-1), u[rows])
            continue
        k_less = torch.tensor([top_k[row] == 0 for row in members], device=scores.device)
        tokens[rows] = _among_best(scores[rows], u[rows], top_p[rows], count, k_less)
    return tokens


def _among_best(scores: Tensor, u: Tensor, top_p: Tensor, count: int, whole: Tensor) -> Tensor:
    """Draw among the `count` best; `whole` (rows,) says where probabilities are those of the whole vocabulary."""
    values, ids = scores.topk(count, dim=-1)
    values = values.double()
    total = torch.where(whole, scores.double().logsumexp(-1), values.logsumexp(-1))
    probabilities = (values - total[:, None]).exp()
    before = probabilities.cumsum(-1) - probabilities
    kept = before < top_p[:, None]
    tokens = ids.gather(-1, _invert(probabilities * kept, u)[:, None])[:, 0]
    more = (whole & kept.all(-1)).nonzero()[:, 0] if count < scores.shape[-1] else whole.new_zeros(0, dtype=torch.int64)
    if len(more):  # the nucleus may be larger than what was looked at
        tokens[more] = _among_best(scores[more], u[more], top_p[more], scores.shape[-1], whole[more])
    return tokens


def _invert(weights: Tensor, u: Tensor) -> Tensor:
    """The first index at which the running sum of `weights` (rows, n) passes u times their total."""
    running = weights.cumsum(-1)
    target = u[:, None] * running[:, -1:]
    index = torch.searchsorted(running, target, right=True)[:, 0]
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).int().argmax(-1)  # rounding must not pick a weight of zero
    return torch.minimum(index, last)


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
