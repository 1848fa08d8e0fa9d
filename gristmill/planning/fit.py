"""Fit L(N, D) = E + A / N^alpha + B / D^beta to runs of one's own, with intervals, and predict a larger run.

As approach 3 of Hoffmann et al. 2022 (arXiv:2203.15556, appendix D.2): the Huber loss on differences of logarithms,
minimised by a quasi-Newton method from a grid of starts. Besiroglu et al. 2024 (arXiv:2404.10102) show what goes wrong
when it stops too early, so ours is compared with another optimizer in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gristmill.core.errors import UserError
from gristmill.planning.interval import Interval
from gristmill.planning.scaling_laws import Parametric

HUBER = 1e-3
"""Differences of log loss beyond this count linearly (Hoffmann et al.)."""
CONSTANTS = ("E", "A", "alpha", "B", "beta")
FEWEST_POINTS, FEWEST_LEVELS = 7, 3
"""Five constants need more than five points, over at least three sizes and three numbers of tokens."""
CONFIDENCE = 0.95
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Point:
    """One finished run. loss: nats a token on held-out text, all runs on the same text with the same tokenizer."""

    parameters: float
    tokens: float
    loss: float
    name: str = ""
    epochs: float | None = None
    """Passes over its text; None: not known."""

    @property
    def flops(self) -> float:
        return 6 * self.parameters * self.tokens

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "parameters": self.parameters, "tokens": self.tokens, "loss": self.loss,
                "epochs": self.epochs}


@dataclass(frozen=True)
class Fit:
    """A fitted law, its points, and what resampling says of its constants."""

    law: Parametric
    points: tuple[Point, ...]
    residuals: Array
    """log of measured over predicted loss, one a point."""
    samples: Array
    """(resamplings, 5): E, A, alpha, B, beta."""
    warnings: tuple[str, ...] = ()

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % interval of every constant."""
        return {name: _interval(self.samples[:, i], getattr(self.law, name)) for i, name in enumerate(CONSTANTS)}

    @property
    def error(self) -> float:
        """Root of the mean squared relative difference between measured and fitted loss."""
        return float(np.sqrt(np.mean(np.expm1(self.residuals) ** 2)))

    def predict(self, parameters: float, tokens: float) -> Interval:
        """The loss of a run that was not made, with its 95 % interval: the law's own doubt and the scatter of runs."""
        E, A, alpha, B, beta = self.samples.T
        losses = E + A * parameters ** -alpha + B * tokens ** -beta
        # Every resampled law meets a few of the scatters seen, in a fixed order: no randomness here.
        spread = np.sort(_scaled(self.residuals))
        steps = spread[np.linspace(0, len(spread) - 1, min(len(spread), 15)).round().astype(int)]
        return _interval((losses[:, None] * np.exp(steps)[None]).ravel(), self.law.loss(parameters, tokens))

    def as_json(self) -> dict[str, Any]:
        return {
            "law": {"name": self.law.name, "equation": self.law.equation, "fitted_flops": list(self.law.fitted),
                    **{name: getattr(self.law, name) for name in CONSTANTS}},
            "intervals": {name: value.as_json() for name, value in self.intervals.items()},
            "relative_error": self.error,
            "points": [{**p.as_json(), "fitted": self.law.loss(p.parameters, p.tokens)} for p in self.points],
            "warnings": list(self.warnings),
        }


def fit(points: Sequence[Point], *, name: str = "own", resamplings: int = 200, seed: int = 0) -> Fit:
    """Fit the law; UserError where the points cannot tell its five constants apart.

    Intervals come from resampling residuals (not points: a small grid of runs would lose whole sizes), widened by
    sqrt(n / (n - 5)) because five constants made them smaller than the scatter of runs is.
    """
    problem = insufficient(points)
    if problem is not None:
        raise UserError(problem[0], where="points", fix=problem[1])
    x, y, z = (np.log([getattr(p, field) for p in points]) for field in ("parameters", "tokens", "loss"))
    at = np.array([x.mean(), y.mean()])
    starts = _starts(x - at[0], y - at[1], z)
    found, values = _descend(starts, x - at[0], y - at[1], z[None])
    order = np.argsort(values)
    best = found[order[0]]
    predicted = _log_loss(best[None], x - at[0], y - at[1])[0][0]
    residuals = z - predicted
    samples = _resample(found[order], x - at[0], y - at[1], predicted, residuals, resamplings, seed)
    constants = [float(c) for c in _constants(best[None], at)[0]]
    flops = [p.flops for p in points]
    numbers: dict[str, Any] = dict(zip(CONSTANTS, constants, strict=True))
    law = Parametric(
        name=name, title="your runs" if name == "own" else name, source=f"fitted on {len(points)} runs",
        equation=equation(*constants), fitted=(min(flops), max(flops)), **numbers)
    made = Fit(law, tuple(points), residuals, _constants(samples, at))
    return Fit(law, made.points, residuals, made.samples, tuple(_warnings(made)))


def equation(E: float, A: float, alpha: float, B: float, beta: float) -> str:
    """The law with its numbers."""
    return f"L = {E:.4g} + {A:.4g} / N^{alpha:.4g} + {B:.4g} / D^{beta:.4g}"


def insufficient(points: Sequence[Point]) -> tuple[str, str] | None:
    """(what is wrong, what to do) where no law can be fitted on these points; None where one can."""
    for p in points:
        if not all(math.isfinite(v) and v > 0 for v in (p.parameters, p.tokens, p.loss)):
            return (f"the point {p.name or p} has a size, tokens or a loss that is not a positive number",
                    "leave it out, or correct it")
    if len(points) < FEWEST_POINTS:
        return (f"{len(points)} points are too few for a law with five constants",
                f"give at least {FEWEST_POINTS} runs, better 12, of at least {FEWEST_LEVELS} sizes")
    for what, values in (("sizes", [p.parameters for p in points]), ("numbers of tokens", [p.tokens for p in points])):
        levels = 1 + sum(b / a > 1.05 for a, b in zip(sorted(values), sorted(values)[1:], strict=False))
        if levels < FEWEST_LEVELS:
            return (f"the runs have only {levels} different {what}",
                    f"vary them: at least {FEWEST_LEVELS}, over a factor of 4 or more")
    x, y = np.log([p.parameters for p in points]), np.log([p.tokens for p in points])
    if abs(np.corrcoef(x, y)[0, 1]) > 0.995:
        return ("size and tokens rise together in all runs, so that nobody can tell which of them lowered the loss",
                "train at least one size on two or three different numbers of tokens")
    if max(p.loss for p in points) / min(p.loss for p in points) < 1.01:
        return ("the losses differ by less than 1 %", "vary size and tokens more")
    return None


def hold_out_largest(points: Sequence[Point], **options: Any) -> tuple[Fit, list[Point], list[Interval]]:
    """Fit on all but the largest size; give the fit, the points left out, and what it predicts for each of them."""
    largest = max((p.parameters for p in points), default=0.0)
    left_out = [p for p in points if p.parameters > largest / 1.05]
    made = fit([p for p in points if p.parameters <= largest / 1.05], **options)
    return made, left_out, [made.predict(p.parameters, p.tokens) for p in left_out]


def _warnings(made: Fit) -> list[str]:
    said = []
    sizes, tokens = [p.parameters for p in made.points], [p.tokens for p in made.points]
    for what, values in (("sizes", sizes), ("numbers of tokens", tokens)):
        if max(values) / min(values) < 4:
            said.append(f"the {what} span a factor of {max(values) / min(values):.1f} only; 10 or more says more")
    for name, value in made.intervals.items():
        if name in ("alpha", "beta") and value.high > 3 * max(value.low, 1e-9):
            said.append(f"{name} is hardly known: {value.low:.2g} to {value.high:.2g}; predictions beyond the runs are "
                        "weak")
    lowest = min(p.loss for p in made.points)
    if made.law.E / lowest < 0.02:
        said.append("no irreducible loss can be seen in these runs: the law is a plain power law, too steep far beyond "
                    "them")
    repeated = [p for p in made.points if p.epochs is not None and p.epochs > 4]
    if repeated:
        said.append(f"{len(repeated)} runs pass more than 4 times over their text; repeated tokens count as new ones "
                    "here")
    return said


# -- the fit itself: theta = (a, b, e, log alpha, log beta), batched over starts and resamplings ----------------------


def _log_loss(theta: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """log L (rows, points) and its gradient (rows, points, 5); x and y are centred logarithms of N and D."""
    alpha, beta = np.exp(theta[:, 3:4]), np.exp(theta[:, 4:5])
    parts = np.stack([theta[:, :1] - alpha * x, theta[:, 1:2] - beta * y,
                      np.broadcast_to(theta[:, 2:3], (len(theta), len(x)))], axis=-1)
    top = parts.max(axis=-1, keepdims=True)
    shares = np.exp(parts - top)
    total = shares.sum(axis=-1, keepdims=True)
    shares = shares / total
    gradient = np.concatenate(
        [shares, (-shares[..., 0] * alpha * x)[..., None], (-shares[..., 1] * beta * y)[..., None]], axis=-1)
    return (top + np.log(total))[..., 0], gradient


def _objective(theta: Array, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """Sum of Huber losses (rows,) in units of HUBER, and its gradient (rows, 5)."""
    predicted, gradient = _log_loss(theta, x, y)
    residual = (predicted - z) / HUBER
    size = np.abs(residual)
    value = np.where(size <= 1, 0.5 * residual**2, size - 0.5).sum(axis=1)
    # A faint pull keeps constants that the runs say nothing of from running away to infinity.
    faint = 1e-6 * (theta - _CENTRE)
    slope = np.clip(residual, -1, 1) / HUBER
    return value + 0.5 * (faint * (theta - _CENTRE)).sum(axis=1), np.einsum("rp,rpk->rk", slope, gradient) + faint


_CENTRE = np.array([0.0, 0.0, 0.0, math.log(0.35), math.log(0.35)])


def _descend(theta: Array, x: Array, y: Array, z: Array, steps: int = 400) -> tuple[Array, Array]:
    """BFGS with backtracking, all rows at once. z: (1 or rows, points). Gives (rows, 5) and the values reached."""
    z = np.broadcast_to(z, (len(theta), z.shape[1]))
    theta, inverse = theta.copy(), np.broadcast_to(np.eye(5), (len(theta), 5, 5)).copy()
    value, gradient = _objective(theta, x, y, z)
    inverse *= 0.1 / np.maximum(np.linalg.norm(gradient, axis=1), 1e-12)[:, None, None]
    stuck = np.zeros(len(theta), dtype=int)
    for _ in range(steps):
        live = np.flatnonzero((stuck < 2) & (np.linalg.norm(gradient, axis=1) > 1e-7))
        if not len(live):
            break
        move = -np.einsum("rij,rj->ri", inverse[live], gradient[live])
        slope = (move * gradient[live]).sum(axis=1)
        moved, reached, turned = _line_search(theta[live], move, value[live], slope, x, y, z[live])
        step, change = moved - theta[live], turned - gradient[live]
        gained = value[live] - reached > 1e-12 * np.abs(value[live])
        # A row that gains nothing starts again from its steepest descent, and stops if that gains nothing either.
        stuck[live] = np.where(gained, 0, stuck[live] + 1)
        fresh = np.broadcast_to(np.eye(5), (len(live), 5, 5)) * (
            1e-3 / np.maximum(np.linalg.norm(turned, axis=1), 1e-12))[:, None, None]
        inverse[live] = np.where(gained[:, None, None], _updated(inverse[live], step, change), fresh)
        theta[live], value[live], gradient[live] = moved, reached, turned
    return theta, value


def _line_search(theta: Array, move: Array, value: Array, slope: Array, x: Array, y: Array, z: Array
                 ) -> tuple[Array, Array, Array]:
    """Halve the step until it gains a share of what the slope promises; rows that find none stay."""
    length = np.ones(len(theta)) / np.maximum(1.0, np.abs(move).max(axis=1) / 2)
    done = np.zeros(len(theta), dtype=bool)
    moved, reached, turned = theta.copy(), value.copy(), np.zeros_like(theta)
    _, turned = _objective(theta, x, y, z)
    for _ in range(40):
        rows = np.flatnonzero(~done)
        if not len(rows):
            break
        there = theta[rows] + length[rows, None] * move[rows]
        values, gradients = _objective(there, x, y, z[rows])
        good = values <= value[rows] + 1e-4 * length[rows] * slope[rows]
        moved[rows[good]], reached[rows[good]], turned[rows[good]] = there[good], values[good], gradients[good]
        done[rows[good]] = True
        length[rows] /= 2
    return moved, reached, turned


def _updated(inverse: Array, step: Array, change: Array) -> Array:
    """The BFGS update of the inverse Hessian, left out where the curvature is not positive."""
    curvature = (step * change).sum(axis=1)
    good = curvature > 1e-14
    rho = np.where(good, 1 / np.where(good, curvature, 1), 0)[:, None, None]
    left = np.eye(5) - rho * step[:, :, None] * change[:, None, :]
    made = left @ inverse @ left.transpose(0, 2, 1) + rho * step[:, :, None] * step[:, None, :]
    return np.where(good[:, None, None], made, inverse)


def _starts(x: Array, y: Array, z: Array) -> Array:
    """A grid over the irreducible share of the lowest loss, both exponents, and how the rest divides between them."""
    starts = []
    lowest, mean = math.exp(float(z.min())), math.exp(float(z.mean()))
    for irreducible in (0.1, 0.4, 0.7, 0.9):
        rest = mean - irreducible * lowest
        for alpha in (0.1, 0.3, 0.6, 1.2):
            for beta in (0.1, 0.3, 0.6, 1.2):
                for share in (0.2, 0.5, 0.8):
                    starts.append([math.log(share * rest), math.log((1 - share) * rest),
                                   math.log(irreducible * lowest), math.log(alpha), math.log(beta)])
    return np.array(starts)


def _resample(found: Array, x: Array, y: Array, predicted: Array, residuals: Array, times: int, seed: int) -> Array:
    """(times, 5): the best theta for each set of resampled residuals, from the best few starts."""
    generator = np.random.default_rng(seed)
    spread = _scaled(residuals)
    drawn = predicted + spread[generator.integers(0, len(spread), (times, len(spread)))]
    starts = found[:3]
    rows, values = _descend(np.tile(starts, (times, 1)), x, y, np.repeat(drawn, len(starts), axis=0), steps=200)
    best = values.reshape(times, len(starts)).argmin(axis=1)
    return rows.reshape(times, len(starts), 5)[np.arange(times), best]


def _scaled(residuals: Array) -> Array:
    """Residuals about their mean, as large as the scatter of runs is."""
    n = len(residuals)
    return (residuals - residuals.mean()) * math.sqrt(n / (n - len(CONSTANTS)))


def _constants(theta: Array, at: Array) -> Array:
    """theta (rows, 5) about the centre `at` -> E, A, alpha, B, beta."""
    alpha, beta = np.exp(theta[:, 3]), np.exp(theta[:, 4])
    return np.stack([np.exp(theta[:, 2]), np.exp(theta[:, 0] + alpha * at[0]), alpha,
                     np.exp(theta[:, 1] + beta * at[1]), beta], axis=1)


def _interval(values: Array, expected: float) -> Interval:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(min(float(low), expected), expected, max(float(high), expected))
