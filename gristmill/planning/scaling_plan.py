"""The plan behind `gristmill plan scaling`: a budget as FLOPs, and what every law makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gristmill.core.errors import UserError
from gristmill.planning.inputs import Given, Used
from gristmill.planning.interval import Interval
from gristmill.planning.scaling_laws import (
    BESIROGLU,
    LAWS,
    DataConstrained,
    Law,
    Optimum,
    Parametric,
    Serving,
    overtrained,
)
from gristmill.planning.tables import Device, Tables
from gristmill.planning.train import assumed_mfu

FREE_EPOCHS = 4
"""Up to so many passes, repeated text is worth nearly as much as new text (arXiv:2305.16264, section 6)."""


@dataclass(frozen=True)
class Budget:
    """What may be spent: text as the user said it, and FLOPs."""

    said: str
    flops: Interval
    used: tuple[Used, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"said": self.said, "flops": self.flops.as_json(), "assumptions": [u.as_json() for u in self.used]}


def hours_as_flops(hours: Interval, device: Device, tables: Tables, *, precision: str = "bf16",
                   mfu: Interval | None = None) -> tuple[Interval, tuple[Used, ...]]:
    """FLOPs that so many device hours compute, and the share of the peak behind them."""
    peak = device.peak(precision)
    share, source = assumed_mfu(device, Given(mfu=mfu), tables, peak)
    used = (Used("peak_flops", Interval.of(peak), "FLOPs a second", f"{device.title}, {precision}: {device.source}"),
            Used("mfu", share, "of the peak", source))
    return hours * 3600 * peak * share, used


def money_as_hours(usd: float, device: Device, tables: Tables, price: Interval | None = None
                   ) -> tuple[Interval, tuple[Used, ...]]:
    """Device hours that so much money buys; UserError where nobody knows the price."""
    found = price or tables.prices.get(device.name)
    if found is None:
        raise UserError(f"the price of {device.name} is not known", where="--budget-usd",
                        fix="say --price DOLLARS_AN_HOUR")
    source = "given" if price is not None else tables.price_sources[device.name]
    return usd / found, (Used("usd_per_hour", found, "USD", source),)


@dataclass(frozen=True)
class Row:
    """What one law says of the budget: at its expected FLOPs, and at its low and its high ones."""

    law: Law
    best: Optimum
    low: Optimum
    high: Optimum
    epochs: float | None
    """Passes over the text that there is; None where nobody said how much."""
    outside: str
    """A sentence where the budget lies far from what the law was fitted on; else empty."""

    def as_json(self) -> dict[str, Any]:
        law = self.law
        return {
            "law": law.name, "title": law.title, "source": law.source, "equation": law.equation, "note": law.note,
            **self.best.as_json(), "epochs": self.epochs, "outside": self.outside,
            "parameters_range": [self.low.parameters, self.high.parameters],
            "tokens_range": [self.low.tokens, self.high.tokens],
        }


@dataclass(frozen=True)
class ScalingPlan:
    """A budget under several laws."""

    budget: Budget
    rows: tuple[Row, ...]
    unique_tokens: float | None = None
    serving: Serving | None = None

    def as_json(self) -> dict[str, Any]:
        return {"budget": self.budget.as_json(), "unique_tokens": self.unique_tokens, "repetition": self.tires,
                "laws": [row.as_json() for row in self.rows],
                "serving": None if self.serving is None else {"law": self._serving_law, **self.serving.as_json()}}

    @property
    def tires(self) -> str:
        """A sentence where laws ask for more passes over the text than are worth it; else empty."""
        if self.unique_tokens is None:
            return ""
        many = [row.law.name for row in self.rows if (row.epochs or 0) > FREE_EPOCHS]
        if self.serving is not None and self.serving.tokens > FREE_EPOCHS * self.unique_tokens:
            many.append("serving")
        if not many:
            return ""
        return (f"more than {FREE_EPOCHS} passes over the text ({', '.join(many)}): they teach less and less, which "
                "only muennighoff counts with")

    @property
    def _serving_law(self) -> str:
        return next((r.law.name for r in self.rows if isinstance(r.law, Parametric)), BESIROGLU.name)


def scaling_plan(budget: Budget | None = None, *, laws: Sequence[Law] = tuple(LAWS.values()),
                 parameters: float | None = None, tokens: float | None = None, unique_tokens: float | None = None,
                 served_tokens: float | None = None) -> ScalingPlan:
    """The best size and tokens for a budget, or the budget for which a size or a number of tokens is the best.

    unique_tokens: how much text there is. served_tokens: how many tokens the model will read and write in its life.
    """
    given = [laws_ for laws_ in (budget, parameters, tokens) if laws_ is not None]
    if len(given) != 1:
        raise UserError("give exactly one of a budget, a size and a number of tokens", where="plan scaling")
    if unique_tokens is not None:
        laws = [replace(law, unique_tokens=unique_tokens) if isinstance(law, DataConstrained) else law for law in laws]
    rows = tuple(_row(law, budget, parameters, tokens, unique_tokens) for law in laws)
    if budget is None:
        amounts = [row.best.flops for row in rows]
        said = f"{parameters:.3g} parameters" if parameters is not None else f"{tokens:.3g} tokens"
        budget = Budget(said, Interval(min(amounts), rows[0].best.flops, max(amounts)))
    serving = None
    if served_tokens:
        law = next((law for law in laws if isinstance(law, Parametric)), BESIROGLU)
        serving = overtrained(law, budget.flops.expected, served_tokens)
    return ScalingPlan(budget, rows, unique_tokens, serving)


def _row(law: Law, budget: Budget | None, parameters: float | None, tokens: float | None, unique: float | None) -> Row:
    if budget is not None:
        best, low, high = (law.optimum(f) for f in (budget.flops.expected, budget.flops.low, budget.flops.high))
    else:
        best = law.at_parameters(parameters) if parameters is not None else law.at_tokens(tokens or 0.0)
        low = high = best
    return Row(law, best, low, high, None if unique is None else best.tokens / unique, law.outside(best.flops))
