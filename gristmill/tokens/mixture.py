"""Mixtures: how many tokens of each component of a corpus a training run draws, and what their repetition is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gristmill.core.config import config, require
from gristmill.core.errors import UserError

OTHERS = "*"
"""In weights and limits: every component that is not named."""
REPEATS_WORTH = 15.387
"""R*_D, the constant of decay of what repeated tokens are worth (Muennighoff et al. 2023, arXiv:2305.16264)."""
MANY_EPOCHS = 4
"""Up to so many epochs repeated tokens are worth nearly as much as new ones (same paper)."""


@config
class Mixture:
    """How much of each component of a corpus is read. Without any setting: in proportion to its tokens."""

    over: str = "source"
    """What makes a component: source, domain, language, or metadata.NAME for a field of the documents' metadata."""
    weights: dict[str, float] = field(default_factory=dict)
    """Shares of components by name, in any unit; "*" is the share of all others together, divided among them by size
    and alpha. 0 leaves a component out."""
    alpha: float = 1.0
    """Components without a weight of their own are drawn in proportion to their tokens to this power: 1 as the text is,
    0.3 (mT5, XLM-R) to 0.7 lifts small ones, 0 draws all alike."""
    epochs: dict[str, float] = field(default_factory=dict)
    """How often these components are read in the whole run; the others share what is left of it."""
    max_epochs: float | dict[str, float] | None = None
    """Most epochs of each component, or of those named; what this takes from one goes to the others."""
    max_share: float | dict[str, float] | None = None
    """Largest share of each component, or of those named; what this takes from one goes to the others."""

    def __post_init__(self) -> None:
        check_over(self.over)
        check_weights(self.weights, self.alpha)
        for name in ("epochs", "max_epochs", "max_share"):
            value = getattr(self, name)
            given = value.values() if isinstance(value, dict) else [] if value is None else [value]
            require(all(number > 0 for number in given), name, "must be positive")
            require(name != "max_share" or all(number <= 1 for number in given), name, "must be at most 1")
        both = sorted(set(self.epochs) & set(self.weights))
        require(not both, "epochs", f"give {', '.join(both)} a weight or a number of epochs, not both")
        require(OTHERS not in self.epochs, "epochs", "name the components; what is left goes to all others")


def check_over(over: str) -> None:
    """ValueError unless this names something that documents have."""
    known = over in ("source", "domain", "language") or (over.startswith("metadata.") and len(over) > len("metadata."))
    require(known, "over", "source, domain, language, or metadata.NAME")


def check_weights(weights: Mapping[str, float], alpha: float) -> None:
    """ValueError for numbers out of range."""
    require(all(weight >= 0 for weight in weights.values()), "weights", "must not be negative")
    require(not weights or any(weight > 0 for weight in weights.values()), "weights", "at least one must be positive")
    require(0 <= alpha <= 1, "alpha", "must be from 0 to 1")


@dataclass(frozen=True)
class Share:
    """What a run draws of one component."""

    name: str
    documents: int
    tokens: int
    """That it has."""
    drawn: float
    """Tokens that are read of it, repetitions included."""
    share: float
    """Of all that is drawn."""
    epochs: float
    limit: str = ""
    """max_epochs, max_share or epochs where one of them decided."""

    @property
    def worth(self) -> float:
        """Fresh tokens that what is drawn is worth."""
        return effective_tokens(self.tokens, self.drawn)


@dataclass(frozen=True)
class MixturePlan:
    """Tokens, epochs and shares of every component in a run."""

    over: str
    total: float
    """Tokens drawn in the whole run."""
    shares: list[Share]
    unit: str = "tokens"

    def plain(self) -> dict[str, Any]:
        """JSON-ready."""
        components = []
        for one in self.shares:
            facts = {**asdict(one), "drawn": round(one.drawn), "share": round(one.share, 6),
                     "epochs": round(one.epochs, 4), "worth": round(one.worth)}
            components.append(facts | {"many_epochs": one.epochs > MANY_EPOCHS})
        return {"over": self.over, "unit": self.unit, "total": round(self.total), "components": components}

    def lines(self, most: int = 40) -> list[str]:
        """A table for people, what is drawn most first, and a sentence on each component that is repeated often."""
        shares = sorted(self.shares, key=lambda one: -one.drawn)
        width = max(len(self.over), *(len(_shown(one.name)) for one in self.shares))
        width = min(width, 40)
        head = f"{self.over:<{width}} {'documents':>11} {self.unit:>10} {'share':>8} {'drawn':>10} {'epochs':>8}  limit"
        rows = [f"{_shown(one.name)[:width]:<{width}} {one.documents:>11,} {_quantity(one.tokens):>10} "
                f"{one.share:>8.2%} {_quantity(one.drawn):>10} {one.epochs:>8.3g}  {one.limit}".rstrip()
                for one in shares[:most]]
        if len(shares) > most:
            rest = shares[most:]
            rows.append(f"... and {len(rest)} more with {sum(one.share for one in rest):.2%} of what is drawn")
        often = [one for one in shares if one.epochs > MANY_EPOCHS]
        notes = [f"{_shown(one.name)} is read {one.epochs:.3g} times: its {_quantity(one.drawn)} {self.unit} are worth "
                 f"about {_quantity(one.worth)} new ones (Muennighoff et al. 2023)" for one in often[:10]]
        return [head, *rows, *notes]


def effective_tokens(unique: float, drawn: float) -> float:
    """Fresh tokens that `drawn` tokens out of `unique` different ones are worth: U + U R* (1 - exp(-R / R*)) for R
    repetitions (Muennighoff et al. 2023, equation 5); all of them below one epoch."""
    if not unique or drawn <= unique:
        return float(drawn)
    repeats = drawn / unique - 1
    return unique + unique * REPEATS_WORTH * (1 - math.exp(-repeats / REPEATS_WORTH))


def base_shares(names: Sequence[str], tokens: np.ndarray, weights: Mapping[str, float], alpha: float) -> np.ndarray:
    """Shares (components,) that sum to 1, by weights and, for components without one, by tokens ** alpha.

    Raises UserError for a weight of something that is no component, and where nothing says how much the others get.
    """
    _known("weights", weights, names)
    by_size = np.where(tokens > 0, np.asarray(tokens, dtype=np.float64) ** alpha, 0.0)
    others = np.array([name not in weights for name in names])
    shares = np.array([weights.get(name, 0.0) for name in names])
    if not weights:
        shares = by_size
    elif OTHERS in weights:
        if others.any() and by_size[others].sum() > 0:
            shares[others] = weights[OTHERS] * by_size[others] / by_size[others].sum()
    elif others.any():
        missing = ", ".join(_shown(name) for name, other in zip(names, others, strict=True) if other)
        raise UserError(f"these components have no weight: {missing}", where="mixture.weights",
                        fix='name them all, or give the others together a share: {"*": 0.5}; 0 leaves them out')
    if not (shares[tokens > 0] > 0).any():
        raise UserError("no component with text has a weight above 0", where="mixture.weights",
                        fix=f"the corpus has {', '.join(_shown(name) for name in names)}")
    shares = np.where(tokens > 0, shares, 0.0)
    return shares / shares.sum()


def plan_mixture(mixture: Mixture, names: Sequence[str], documents: Sequence[int], tokens: Sequence[int], total: float,
                 *, unit: str = "tokens") -> MixturePlan:
    """What a run of `total` tokens draws of each component: a pure function of these numbers.

    Fixed epochs first; the rest by weights or size; what a limit takes from a component is shared out among those that
    have room (water-filling). Raises UserError, saying what is missing, where the limits cannot be kept.
    """
    sizes = np.asarray(tokens, dtype=np.float64)
    _known("epochs", mixture.epochs, names)
    fixed = np.array([mixture.epochs.get(name, 0.0) for name in names]) * sizes
    is_fixed = np.array([name in mixture.epochs for name in names])
    caps = _caps(mixture, names, sizes, total)
    limits = [""] * len(names)
    drawn = fixed.copy()
    left = total - float(fixed.sum())
    if left < -1e-9 * total:
        raise UserError(
            f"the epochs of {', '.join(mixture.epochs)} are {_quantity(float(fixed.sum()))} {unit}, and the run draws "
            f"{_quantity(total)}: {_quantity(-left)} are missing", where="mixture.epochs",
            fix="lower the epochs, or raise the budget")
    for place in np.flatnonzero(is_fixed).tolist():
        limits[place] = "epochs"
        if drawn[place] > caps[place][0] * (1 + 1e-9):
            raise UserError(f"{_shown(names[place])} has both epochs that draw {_quantity(drawn[place])} {unit} and a "
                            f"{caps[place][1]} that allows {_quantity(caps[place][0])}", where="mixture.epochs",
                            fix=f"lower one, or raise mixture.{caps[place][1]}")
    free = ~is_fixed & (sizes > 0)
    if left > 1e-9 * total:
        if not free.any():
            raise UserError(f"the epochs draw {_quantity(float(fixed.sum()))} {unit} and the run {_quantity(total)}: "
                            f"nothing is left to draw the other {_quantity(left)} from", where="mixture.epochs",
                            fix="leave one component out of mixture.epochs, or set the budget to what they draw")
        chosen = [name for name, one in zip(names, free, strict=True) if one]
        weights = {name: value for name, value in mixture.weights.items() if name in chosen or name == OTHERS}
        _known("weights", mixture.weights, names)
        wanted = np.zeros(len(names))
        wanted[free] = base_shares(chosen, sizes[free], weights, mixture.alpha)
        amounts = np.array([cap for cap, _ in caps])
        given = _water_filling(wanted, amounts, left)
        if given is None:
            possible = float(amounts[wanted > 0].sum())
            named = sorted({caps[place][1] for place in np.flatnonzero(wanted > 0).tolist() if caps[place][1]})
            raise UserError(
                f"the limits {' and '.join(named)} allow {_quantity(possible)} of the {_quantity(left)} {unit} to be "
                f"drawn: {_quantity(left - possible)} are missing", where="mixture",
                fix=f"raise them, add text, or lower the budget to {_quantity(possible + float(fixed.sum()))} {unit}")
        drawn += given
        for place in np.flatnonzero((given > 0) & (given >= amounts * (1 - 1e-12))).tolist():
            limits[place] = caps[place][1]
    return planned(mixture.over, names, documents, tokens, drawn, limits, unit=unit)


def planned(over: str, names: Sequence[str], documents: Sequence[int], tokens: Sequence[int], drawn: np.ndarray,
            limits: Sequence[str], *, unit: str = "tokens") -> MixturePlan:
    """The plan of a run that draws so many tokens of each component."""
    total = float(drawn.sum())
    return MixturePlan(over, total, [
        Share(name, int(count), int(size), float(amount), float(amount) / total if total else 0.0,
              float(amount) / size if size else 0.0, limit)
        for name, count, size, amount, limit in zip(names, documents, tokens, drawn.tolist(), limits, strict=True)
    ], unit)


def _water_filling(wanted: np.ndarray, caps: np.ndarray, total: float) -> np.ndarray | None:
    """Amounts in proportion to `wanted` that sum to `total` with none above its cap; None where there are none."""
    given = np.zeros(len(wanted))
    open_ = wanted > 0
    if caps[open_].sum() < total * (1 - 1e-9):
        return None
    while open_.any():
        left = total - given[~open_].sum()
        proposed = wanted * (left / wanted[open_].sum())
        full = open_ & (proposed >= caps)
        if not full.any():
            given[open_] = proposed[open_]
            break
        given[full] = caps[full]
        open_ &= ~full
    return given


def _caps(mixture: Mixture, names: Sequence[str], sizes: np.ndarray, total: float) -> list[tuple[float, str]]:
    """The most tokens of each component, and which setting says so."""
    found = []
    for name, size in zip(names, sizes.tolist(), strict=True):
        limits = [(math.inf, "")]
        for setting, unit in (("max_epochs", size), ("max_share", total)):
            value = getattr(mixture, setting)
            if isinstance(value, dict):
                _known(setting, value, names)
                value = value.get(name, value.get(OTHERS))
            if value is not None:
                limits.append((value * unit, setting))
        found.append(min(limits))
    return found


def _known(setting: str, given: Mapping[str, float], names: Sequence[str]) -> None:
    unknown = sorted(set(given) - set(names) - {OTHERS})
    if unknown:
        raise UserError(f"the corpus has nothing called {', '.join(unknown)}", where=f"mixture.{setting}",
                        fix=f"choose from {', '.join(_shown(name) for name in names[:30])}"
                        + (f" and {len(names) - 30} more" if len(names) > 30 else ""))


def _shown(name: str) -> str:
    return name or "(none)"


def _quantity(value: float) -> str:
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.4g} {letter}"
    return f"{value:.4g}"
