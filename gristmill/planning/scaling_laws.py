"""Scaling laws: how the loss falls with parameters and tokens, and how a budget is best split between the two.

Every law counts training as 6 FLOPs a parameter and token (C = 6 N D). Losses of different laws are of different texts
and vocabularies: compare sizes and tokens between laws, never losses.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gristmill.core.errors import UserError

PF_DAY = 8.64e19
"""FLOPs in a petaFLOP/s-day."""


@dataclass(frozen=True)
class Optimum:
    """The best split of a budget: `parameters` x `tokens` x 6 = `flops`.

    loss: nats a token, None where the law has none. epochs: passes over the unique tokens, 1 where they are not
    limited.
    """

    parameters: float
    tokens: float
    flops: float
    loss: float | None
    epochs: float = 1.0

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters

    def as_json(self) -> dict[str, Any]:
        return {"parameters": self.parameters, "tokens": self.tokens, "flops": self.flops, "loss": self.loss,
                "tokens_per_parameter": self.tokens_per_parameter, "epochs": self.epochs}


@dataclass(frozen=True, kw_only=True)
class Law:
    """What every law says of itself; the numbers are in its kind."""

    name: str
    title: str
    source: str
    equation: str
    fitted: tuple[float, float]
    """Training FLOPs of the smallest and the largest run it was fitted on: beyond them it is an extrapolation."""
    note: str = ""

    def loss(self, parameters: float, tokens: float) -> float | None:
        """Nats a token; None where the law speaks of the optimum only."""
        return None

    def optimum(self, flops: float) -> Optimum:
        """The size and the tokens with the lowest loss for a budget of FLOPs."""
        raise NotImplementedError

    def at_parameters(self, parameters: float) -> Optimum:
        """The budget for which this size is the best."""
        return self._where(lambda best: best.parameters, parameters)

    def at_tokens(self, tokens: float) -> Optimum:
        """The budget for which this number of tokens is the best."""
        return self._where(lambda best: best.tokens, tokens)

    def _where(self, measure: Callable[[Optimum], float], wanted: float) -> Optimum:
        """Both grow with the budget: bisection on its logarithm."""
        low, high = math.log(1e6), math.log(1e36)
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if measure(self.optimum(math.exp(middle))) < wanted else (low, middle)
            if high - low < 1e-12 * high:
                break
        return self.optimum(math.exp((low + high) / 2))

    def outside(self, flops: float) -> str:
        """A sentence where a budget lies beyond what the law was fitted on by more than ten times; else empty."""
        low, high = self.fitted
        if low / 10 <= flops <= high * 10:
            return ""
        far, side = (flops / high, "above") if flops > high else (low / flops, "below")
        return f"{flops:.1e} FLOPs are {_times(far)} {side} the runs that {self.title} was fitted on"


@dataclass(frozen=True, kw_only=True)
class Parametric(Law):
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 2)."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.E + self.A * parameters ** -self.alpha + self.B * tokens ** -self.beta

    def optimum(self, flops: float) -> Optimum:
        """N = G (C/6)^(beta / (alpha + beta)) with G = (alpha A / (beta B))^(1 / (alpha + beta)) (equation 4)."""
        total = self.alpha + self.beta
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        parameters = scale * (flops / 6) ** (self.beta / total)
        tokens = flops / 6 / parameters
        return Optimum(parameters, tokens, flops, self.loss(parameters, tokens))

    def tokens_for(self, parameters: float, loss: float) -> float:
        """Tokens with which a model of this size reaches `loss`; infinite where no number of them does."""
        left = loss - self.E - self.A * parameters ** -self.alpha
        return (self.B / left) ** (1 / self.beta) if left > 0 else math.inf


@dataclass(frozen=True, kw_only=True)
class Frontier(Law):
    """Where the best sizes lie, without a loss: N = N0 (C / C0)^a through a published point."""

    anchor_flops: float
    anchor_parameters: float
    exponent: float

    def optimum(self, flops: float) -> Optimum:
        parameters = self.anchor_parameters * (flops / self.anchor_flops) ** self.exponent
        return Optimum(parameters, flops / 6 / parameters, flops, None)


@dataclass(frozen=True, kw_only=True)
class Kaplan(Law):
    """Kaplan et al. 2020: L(N, D) of equation 1.5, and the compute-efficient frontier of appendix A."""

    def loss(self, parameters: float, tokens: float) -> float:
        """L(N, D) = ((Nc / N)^(aN / aD) + Dc / D)^aD with aN = 0.076, aD = 0.103, Nc = 6.4e13, Dc = 1.8e13."""
        return ((6.4e13 / parameters) ** (0.076 / 0.103) + 1.8e13 / tokens) ** 0.103

    def optimum(self, flops: float) -> Optimum:
        """N = 1.3e9 C^0.73 with C in PF-days; the tokens are those that the budget leaves."""
        parameters = 1.3e9 * (flops / PF_DAY) ** 0.73
        tokens = flops / 6 / parameters
        return Optimum(parameters, tokens, flops, self.loss(parameters, tokens))


@dataclass(frozen=True, kw_only=True)
class DataConstrained(Law):
    """Muennighoff et al. 2023: repeated tokens and parameters beyond what the unique tokens call for are worth less.

    D' = U + U r (1 - e^(-(D/U - 1) / r)) with r = 15.39, and likewise for N beyond the optimal size for U with 5.31
    (equations 5 and 6).
    """

    base: Parametric
    unique_tokens: float = math.inf
    repeat_tokens: float = 15.387756
    repeat_parameters: float = 5.309743

    def effective_tokens(self, tokens: float) -> float:
        """What `tokens`, some of them repeated, are worth in unique ones."""
        return _decayed(tokens, self.unique_tokens, self.repeat_tokens)

    def loss(self, parameters: float, tokens: float) -> float:
        if tokens <= self.unique_tokens and math.isinf(self.unique_tokens):
            return self.base.loss(parameters, tokens)
        fitting = _size_for(self.base, min(tokens, self.unique_tokens))
        return self.base.loss(_decayed(parameters, fitting, self.repeat_parameters), self.effective_tokens(tokens))

    def optimum(self, flops: float) -> Optimum:
        """Numerically: there is no closed form."""
        free = self.base.optimum(flops)
        if free.tokens <= self.unique_tokens:
            return free
        # Repeating is worth less than new text, so the best lies between this size and where nothing repeats.
        lowest = free.parameters / 50
        highest = max(flops / 6 / self.unique_tokens, free.parameters) * 2
        parameters = math.exp(minimise(
            lambda x: self.loss(math.exp(x), flops / 6 / math.exp(x)), math.log(lowest), math.log(highest)))
        tokens = flops / 6 / parameters
        return Optimum(parameters, tokens, flops, self.loss(parameters, tokens),
                       epochs=max(1.0, tokens / self.unique_tokens))


@dataclass(frozen=True)
class Serving:
    """A model made smaller and trained longer, because many tokens will be served (`overtrained`)."""

    parameters: float
    tokens: float
    served_tokens: float
    loss: float
    flops: float
    """Training and serving together."""
    flops_without: float
    """The same with the compute-optimal model of this loss."""

    @property
    def saving(self) -> float:
        """Share of all FLOPs that is saved."""
        return 1 - self.flops / self.flops_without

    def as_json(self) -> dict[str, Any]:
        return {"parameters": self.parameters, "tokens": self.tokens, "served_tokens": self.served_tokens,
                "loss": self.loss, "flops": self.flops, "flops_compute_optimal": self.flops_without,
                "saving": self.saving, "tokens_per_parameter": self.tokens / self.parameters}


def overtrained(law: Parametric, flops: float, served_tokens: float) -> Serving:
    """The size with the fewest FLOPs of training (6 N D) and serving (2 N a token) together, at the loss that the
    compute-optimal model of `flops` has (Sardana and Frankle 2023, equation 3)."""
    best = law.optimum(flops)
    assert best.loss is not None
    loss = best.loss

    def total(log_parameters: float) -> float:
        parameters = math.exp(log_parameters)
        return 6 * parameters * law.tokens_for(parameters, loss) + 2 * parameters * served_tokens

    # The compute-optimal size is the largest that can be best; the smallest is the one that never reaches the loss.
    smallest = (law.A / (loss - law.E)) ** (1 / law.alpha)
    parameters = math.exp(minimise(total, math.log(smallest * (1 + 1e-9)), math.log(best.parameters)))
    return Serving(parameters, law.tokens_for(parameters, loss), served_tokens, loss, total(math.log(parameters)),
                   flops + 2 * best.parameters * served_tokens)


def minimise(function: Callable[[float], float], low: float, high: float, steps: int = 200) -> float:
    """Where a function with one valley between `low` and `high` is lowest: golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(steps):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
        if high - low < 1e-12 * max(1.0, abs(low)):
            break
    return (low + high) / 2


def numeric_optimum(law: Law, flops: float) -> Optimum:
    """The optimum by search alone, for laws that say L(N, D): what the closed forms are checked against."""
    def at(log_parameters: float) -> float:
        loss = law.loss(math.exp(log_parameters), flops / 6 / math.exp(log_parameters))
        assert loss is not None
        return loss

    parameters = math.exp(minimise(at, math.log(1e-3), math.log(flops / 6)))
    tokens = flops / 6 / parameters
    return Optimum(parameters, tokens, flops, law.loss(parameters, tokens))


def _decayed(amount: float, unique: float, worth: float) -> float:
    """`amount` where it does not exceed `unique`; what is beyond loses its worth exponentially."""
    if amount <= unique:
        return amount
    return unique + unique * worth * -math.expm1(-(amount / unique - 1) / worth)


def _size_for(law: Parametric, tokens: float) -> float:
    """The size for which `tokens` are compute-optimal, in closed form."""
    scale = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    return scale * (tokens * scale) ** (law.beta / law.alpha)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio < 1e5 else f"{ratio:.0e} times"


# -- the published ones ------------------------------------------------------------------------------------------------

_HOFFMANN = "Hoffmann et al. 2022, Training Compute-Optimal Large Language Models, arXiv:2203.15556"
_HOFFMANN_RUNS = (6e18, 3e21)

BESIROGLU = Parametric(
    name="besiroglu", title="Besiroglu et al. 2024",
    source="Besiroglu et al. 2024, Chinchilla Scaling: A replication attempt, arXiv:2404.10102",
    equation="L = 1.8172 + 482.01 / N^0.3478 + 2085.43 / D^0.3658", fitted=_HOFFMANN_RUNS,
    E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658,
    note="the parametric fit of Hoffmann et al. done again on their points: it agrees with 20 tokens a parameter")

HOFFMANN = Parametric(
    name="hoffmann", title="Hoffmann et al. 2022, approach 3", source=f"{_HOFFMANN}, approach 3; table A3",
    equation="L = 1.69 + 406.4 / N^0.3392 + 410.7 / D^0.2849", fitted=_HOFFMANN_RUNS,
    E=1.69, A=406.4, alpha=0.33917084, B=410.7, beta=0.2849083,
    note="exponents as in the source of the paper, which its table A3 follows; Besiroglu et al. show that this fit is "
         "off")

HOFFMANN_ROUNDED = Parametric(
    name="hoffmann-rounded", title="Hoffmann et al. 2022, approach 3 as printed", source=f"{_HOFFMANN}, equation 10",
    equation="L = 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28", fitted=_HOFFMANN_RUNS,
    E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28,
    note="the rounding alone moves the optimum from 59 to 93 tokens a parameter at Chinchilla's budget")

HOFFMANN_1 = Frontier(
    name="hoffmann-1", title="Hoffmann et al. 2022, approach 1", source=f"{_HOFFMANN}, tables 2 and 3",
    equation="N = 67e9 (C / 5.76e23)^0.50", fitted=_HOFFMANN_RUNS,
    anchor_flops=5.76e23, anchor_parameters=67e9, exponent=0.50, note="minima over training curves; says no loss")

HOFFMANN_2 = Frontier(
    name="hoffmann-2", title="Hoffmann et al. 2022, approach 2", source=f"{_HOFFMANN}, tables 2 and A3",
    equation="N = 67e9 (C / 6.88e23)^0.49", fitted=_HOFFMANN_RUNS,
    anchor_flops=6.88e23, anchor_parameters=67e9, exponent=0.49, note="curves of equal compute; says no loss")

KAPLAN = Kaplan(
    name="kaplan", title="Kaplan et al. 2020",
    source="Kaplan et al. 2020, Scaling Laws for Neural Language Models, arXiv:2001.08361, equation 1.5, appendix A",
    equation="N = 1.3e9 C^0.73 (C in PF-days); L = ((6.4e13 / N)^0.738 + 1.8e13 / D)^0.103", fitted=(1e15, 1e21),
    note="counts parameters without embeddings; its schedules did not fit short runs, so it asks for far too large "
         "models")

MUENNIGHOFF = DataConstrained(
    name="muennighoff", title="Muennighoff et al. 2023",
    source="Muennighoff et al. 2023, Scaling Data-Constrained Language Models, arXiv:2305.16264, equations 5, 6 and 16 "
           "to 20",
    equation="L = 1.87 + 521 / N'^0.353 + 1488 / D'^0.353, D' = U + 15.4 U (1 - e^(-(D/U - 1) / 15.4))",
    fitted=(1e18, 2e22),
    base=Parametric(
        name="muennighoff", title="Muennighoff et al. 2023", source="arXiv:2305.16264, equation 19",
        equation="L = 1.87 + 521 / N^0.353 + 1488 / D^0.353", fitted=(1e18, 2e22),
        E=math.exp(0.6254804), A=math.exp(6.255414), alpha=0.3526596, B=math.exp(7.3049974), beta=0.3526596),
    note="what repeated text is worth; without a limit on the text it is one more parametric fit")

LAWS: dict[str, Law] = {law.name: law for law in (
    BESIROGLU, HOFFMANN, HOFFMANN_ROUNDED, HOFFMANN_1, HOFFMANN_2, MUENNIGHOFF, KAPLAN)}
"""Every published law by name, the preferred one first."""


def law_named(name: str) -> Law:
    """A published law; UserError that lists them."""
    if name not in LAWS:
        near = difflib.get_close_matches(name, LAWS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"the law {name!r} is not known{meant}", where="--law",
                        fix=f"choose one of {', '.join(LAWS)}, or a file that `gristmill plan fit --out` wrote")
    return LAWS[name]
