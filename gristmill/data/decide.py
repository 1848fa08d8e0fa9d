"""Which documents stay: the rules of a recipe, applied to one document or to columns of them.

The rules and presets themselves stand in `rules.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gristmill.core.config import config, require
from gristmill.core.errors import InternalError
from gristmill.data.rules import (
    ANY,
    BAD_WORDS,
    CODE,
    COMPAT_PRESETS,
    PRESET_LINES,
    PRESETS,
    PROSE,
    RULES,
    Preset,
    Rule,
    spared,
)
from gristmill.data.signals import Compat
from gristmill.data.signals.lines import LINE_FILTERS


@config
class Bound:
    """What a signal's value must lie between."""

    low: float | None = None
    """Documents below go."""
    high: float | None = None
    """Documents above go."""

    def __post_init__(self) -> None:
        require(self.low is not None or self.high is not None, "low", "give low, high or both")
        require(self.low is None or self.high is None or self.low <= self.high, "low", "must not be above `high`")


@config
class Filter:
    """Which documents are good enough."""

    preset: Preset = "standard"
    """standard: the code rules for programs and the Gopher rules for prose; code or gopher: only those; c4: the rules
    of C4, which also take lines; fineweb: Gopher, C4 (lines may end without punctuation) and FineWeb's own; strict:
    code, fineweb and bounds on letters, digits, symbols, upper case and variety; none: none."""
    rules: dict[str, float | None] = field(default_factory=dict)
    """Other bounds for single rules, e.g. `{min_words: 20}`; null switches a rule off."""
    bounds: dict[str, Bound] = field(default_factory=dict)
    """Bounds of your own on any signal, by the name that the report gives it, e.g.
    `{characters_v1.digits: {high: 0.3}}`. Documents that it was not measured for are not judged."""
    lines: list[str] | None = None
    """Line filters for prose, in place of the preset's; [] leaves all lines."""
    bad_words: list[str] = field(default_factory=list)
    """Words and phrases; under the presets c4 and strict a document with more than `max_bad_words` (0) of them goes."""
    compat: Compat = "none"
    """Whose definitions of the rules for prose: none: our own; datatrove (needs spaCy) or dolma: those tools'."""

    def __post_init__(self) -> None:
        for name, bound in self.rules.items():
            require(name in RULES, "rules", f"there is no rule {name!r}; choose from {', '.join(sorted(RULES))}")
            require(bound is None or bound >= 0, f"rules.{name}", "must be 0 or more, or null")
        for name in self.lines or ():
            require(name in LINE_FILTERS, "lines", f"there is no line filter {name!r}; choose from "
                    f"{', '.join(LINE_FILTERS)}")
        require(not self.rules.get("max_bad_words") or bool(self.bad_words), "rules.max_bad_words",
                "needs a list: set `bad_words`")
        known = COMPAT_PRESETS[self.compat]
        require(self.preset in known, "compat", f"{self.compat} has no preset {self.preset!r}; choose from "
                f"{', '.join(known)}")

    def for_class(self, *, code: bool) -> list[Rule]:
        """The rules in force for programs or for prose, in the order in which they are asked."""
        chosen = {**ANY, **(PRESETS[self.preset][0] if code else COMPAT_PRESETS[self.compat][self.preset])}
        for name, bound in self.rules.items():
            rule = chosen.get(name, RULES[name])
            if bound is None:
                chosen.pop(name, None)
            elif name in (CODE if code else PROSE) or name in ANY:
                chosen[name] = replace(rule, low=bound) if rule.low is not None else replace(rule, high=bound)
        if not self.bad_words:
            chosen = {name: rule for name, rule in chosen.items() if name not in BAD_WORDS}
        return list(chosen.values())

    def own_rules(self) -> list[Rule]:
        """The rules that `bounds` make, for all documents."""
        return [Rule(signal, signal, low=bound.low, high=bound.high, measured=True)
                for signal, bound in self.bounds.items()]

    def line_filters(self, *, code: bool) -> tuple[str, ...]:
        """The line filters in force, for `signals.remove_lines`."""
        if code:
            return ()
        return PRESET_LINES.get(self.preset, ()) if self.lines is None else tuple(self.lines)


def first_broken(signals: Mapping[str, float], rules: Sequence[Rule], language: str) -> tuple[Rule, float] | None:
    """The first rule that a document breaks and the value that broke it, or None."""
    return next(iter(all_broken(signals, rules, language)), None)


def all_broken(signals: Mapping[str, float], rules: Sequence[Rule], language: str) -> list[tuple[Rule, float]]:
    """All rules that a document breaks, in their order, and the values."""
    return [
        (rule, signals[rule.signal]) for rule in rules
        if not spared(rule, language) and _outside(rule, signals[rule.signal])
    ]


def explain(rule: Rule, value: float) -> str:
    """`length_v1.words is 12, below 50`: why a document was rejected."""
    side, bound = ("below", rule.low) if rule.low is not None and value < rule.low else ("above", rule.high)
    return f"{rule.signal} is {value:.6g}, {side} {bound:g}"


@dataclass(frozen=True)
class Decisions:
    """What the rules say of many documents.

    rules: those in force for any of them. broken: (documents, rules) bool. first: (documents,) the place in `rules` of
    the first broken one, -1 for a document that stays. values: (documents,) the value that broke it, else NaN.
    """

    rules: tuple[Rule, ...]
    broken: np.ndarray
    first: np.ndarray
    values: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """(documents,) bool"""
        return self.first < 0

    def reason(self, document: int) -> str | None:
        """Name of the first broken rule, or None."""
        return self.rules[self.first[document]].name if self.first[document] >= 0 else None

    def explain(self, document: int) -> str:
        """Why this document goes; "" if it stays."""
        place = self.first[document]
        return explain(self.rules[place], float(self.values[document])) if place >= 0 else ""

    def all_broken(self, document: int) -> list[Rule]:
        """All rules that this document breaks, in their order."""
        return [self.rules[place] for place in np.flatnonzero(self.broken[document])]

    def counts(self) -> dict[str, tuple[int, int]]:
        """For each rule, how many documents it was the first to take, and how many broke it."""
        firsts = np.bincount(self.first[self.first >= 0], minlength=len(self.rules))
        return {rule.name: (int(first), int(all_))
                for rule, first, all_ in zip(self.rules, firsts, self.broken.sum(axis=0), strict=True)}


def decide(
    columns: Mapping[str, np.ndarray], rules: Filter, *, languages: Sequence[str], code: Sequence[bool] | bool = False,
    further: Sequence[Rule] = (),
) -> Decisions:
    """Apply a filter to columns of signals, with the same outcome as `first_broken` for each document.

    columns: {"<signal>.<value>": (documents,)}, as of `signals.measure_batch`. languages, code: of each document.
    further: rules for all documents, asked last. Raises InternalError if a rule in force reads a value that is missing
    or NaN.
    """
    count = len(languages)
    programs = np.full(count, code) if isinstance(code, bool) else np.asarray(code, bool)
    by_class = {kind: [*rules.for_class(code=kind), *rules.own_rules(), *further] for kind in (True, False)}
    order = list(dict.fromkeys([*by_class[True], *by_class[False]]))
    broken = np.zeros((count, len(order)), bool)
    values = np.full((count, len(order)), np.nan)
    spoken, numbers = np.unique(np.asarray(languages, str), return_inverse=True)
    for place, rule in enumerate(order):
        asked = np.isin(programs, [kind for kind in (True, False) if rule in by_class[kind]])
        asked &= ~np.array([spared(rule, language) for language in spoken.tolist()], bool)[numbers]
        if not asked.any():
            continue
        column = columns.get(rule.signal)
        if column is not None and rule.measured:
            asked &= ~np.isnan(column)
        if column is None or np.isnan(column[asked]).any():
            raise InternalError(f"rule {rule.name} reads {rule.signal}, which was not measured", where="decide")
        values[:, place] = column
        if rule.low is not None:
            broken[:, place] |= column < rule.low
        if rule.high is not None:
            broken[:, place] |= column > rule.high
        broken[:, place] &= asked
    first = np.where(broken.any(axis=1), broken.argmax(axis=1) if order else -1, -1)
    worst = np.where(first >= 0, values[np.arange(count), first] if order else np.nan, np.nan)
    return Decisions(tuple(order), broken, first, worst)


@dataclass(frozen=True)
class Alarm:
    """A source that lost more of its documents than it should. by_rule: how many each rule took, most first."""

    source: str
    documents: int
    lost: int
    by_rule: dict[str, int]

    def __str__(self) -> str:
        rule, count = next(iter(self.by_rule.items()))
        return (f"source {self.source} lost {self.lost / self.documents:.0%} of its documents ({self.lost} of "
                f"{self.documents}), most to {rule} ({count})")


def alarms(
    documents: Mapping[str, int], lost: Mapping[str, Mapping[str, int]], share: float, *, at_least: int = 20
) -> list[Alarm]:
    """The sources that lost more than `share` of their documents, the worst first.

    documents: how many each source had. lost: for each source, how many went by reason. at_least: sources with fewer
    documents raise no alarm: a share of so few says little.
    """
    found = []
    for source, total in documents.items():
        reasons = Counter({reason: count for reason, count in lost.get(source, {}).items() if count})
        gone = sum(reasons.values())
        if total >= at_least and gone > share * total:
            ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
            found.append(Alarm(source, total, gone, ordered))
    return sorted(found, key=lambda alarm: (-alarm.lost / alarm.documents, alarm.source))


def _outside(rule: Rule, value: float) -> bool:
    return (rule.low is not None and value < rule.low) or (rule.high is not None and value > rule.high)


__all__ = [
    "PRESETS", "RULES", "Alarm", "Bound", "Decisions", "Filter", "Rule", "alarms", "all_broken", "decide", "explain",
    "first_broken",
]
