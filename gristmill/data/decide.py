"""Which documents stay: named rules over signals, in presets that a recipe can adjust.

Thresholds of the prose rules: Rae et al., "Gopher" (2021), appendix A.1.1 and table A1. Those of the code rules: Li et
al., "StarCoder" (2023), section 3 (line lengths, alphanumeric share), and our own measurement on the standard library
(share of encoded data).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gristmill.core.config import config, require


@dataclass(frozen=True)
class Rule:
    """A document breaks the rule if its signal lies outside `low <= value <= high`; a bound of None is no bound."""

    name: str
    signal: str
    low: float | None = None
    high: float | None = None


def _rules(*rules: Rule) -> dict[str, Rule]:
    return {rule.name: rule for rule in rules}


ANY = _rules(Rule("min_characters", "length_v1.characters", low=1))
CODE = _rules(
    Rule("min_lines", "length_v1.lines", low=3),
    Rule("max_mean_line_length", "length_v1.mean_line_length", high=100),
    Rule("max_line_length", "length_v1.max_line_length", high=1000),
    Rule("min_alphanumeric", "code_symbols_v1.alphanumeric", low=0.25),
    Rule("max_encoded", "code_symbols_v1.encoded", high=0.19),
)
GOPHER = _rules(
    Rule("min_words", "length_v1.words", low=50),
    Rule("max_words", "length_v1.words", high=100_000),
    Rule("min_mean_word_length", "length_v1.mean_word_length", low=3),
    Rule("max_mean_word_length", "length_v1.mean_word_length", high=10),
    Rule("max_symbol_words", "gopher_symbols_v1.symbol_words", high=0.1),
    Rule("max_bullet_lines", "gopher_symbols_v1.bullet_lines", high=0.9),
    Rule("max_ellipsis_lines", "gopher_symbols_v1.ellipsis_lines", high=0.3),
    Rule("min_alphabetic_words", "gopher_symbols_v1.alphabetic_words", low=0.8),
    Rule("min_stop_words", "gopher_symbols_v1.stop_words", low=2),
    Rule("max_duplicate_lines", "gopher_repetition_v1.duplicate_lines", high=0.30),
    Rule("max_duplicate_paragraphs", "gopher_repetition_v1.duplicate_paragraphs", high=0.30),
    Rule("max_duplicate_line_characters", "gopher_repetition_v1.duplicate_line_characters", high=0.20),
    Rule("max_duplicate_paragraph_characters", "gopher_repetition_v1.duplicate_paragraph_characters", high=0.20),
    *(Rule(f"max_top_{n}gram", f"gopher_repetition_v1.top_{n}gram", high=bound)
      for n, bound in ((2, 0.20), (3, 0.18), (4, 0.16))),
    *(Rule(f"max_duplicate_{n}gram", f"gopher_repetition_v1.duplicate_{n}gram", high=bound)
      for n, bound in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))),
)
ENGLISH_ONLY = frozenset({"min_stop_words", "min_alphabetic_words", "min_mean_word_length"})
"""Rules whose thresholds were made for English; documents known to be in another language are spared."""
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages written without spaces: what counts words at white space says nothing about them."""
WORD_RULES = frozenset(name for name, rule in GOPHER.items() if "words" in rule.signal or "word_" in rule.signal
                       or "gram" in rule.signal)

RULES: Mapping[str, Rule] = {**ANY, **CODE, **GOPHER}
PRESETS: Mapping[str, tuple[Mapping[str, Rule], Mapping[str, Rule]]] = {
    "none": ({}, {}),
    "code": (CODE, {}),
    "gopher": ({}, GOPHER),
    "standard": (CODE, GOPHER),
}
"""preset -> (rules for programs, rules for prose); documents without a character are dropped under every preset."""


@config
class Filter:
    """Which documents are good enough."""

    preset: Literal["standard", "code", "gopher", "none"] = "standard"
    """standard: the code rules for programs and the Gopher rules for prose; code or gopher: only those; none: none."""
    rules: dict[str, float | None] = field(default_factory=dict)
    """Other bounds for single rules, e.g. `{min_words: 20}`; null switches a rule off."""

    def __post_init__(self) -> None:
        for name, bound in self.rules.items():
            require(name in RULES, "rules", f"there is no rule {name!r}; choose from {', '.join(sorted(RULES))}")
            require(bound is None or bound >= 0, f"rules.{name}", "must be 0 or more, or null")

    def for_class(self, *, code: bool) -> list[Rule]:
        """The rules in force for programs or for prose, in the order in which they are asked."""
        chosen = {**ANY, **PRESETS[self.preset][0 if code else 1]}
        for name, bound in self.rules.items():
            rule = RULES[name]
            if bound is None:
                chosen.pop(name, None)
            elif name in (CODE if code else GOPHER) or name in ANY:
                chosen[name] = Rule(name, rule.signal, **{"low" if rule.low is not None else "high": bound})
        return list(chosen.values())


def first_broken(signals: Mapping[str, float], rules: list[Rule], language: str) -> tuple[Rule, float] | None:
    """The first rule that a document breaks and the value that broke it, or None."""
    for rule in rules:
        if rule.name in ENGLISH_ONLY and language not in ("en", "und"):
            continue
        if rule.name in WORD_RULES and language in UNSPACED:
            continue
        value = signals[rule.signal]
        if (rule.low is not None and value < rule.low) or (rule.high is not None and value > rule.high):
            return rule, value
    return None


def explain(rule: Rule, value: float) -> str:
    """`length_v1.words is 12, below 50`: why a document was rejected."""
    side, bound = ("below", rule.low) if rule.low is not None and value < rule.low else ("above", rule.high)
    return f"{rule.signal} is {value:.6g}, {side} {bound:g}"
