"""The rules by which documents stay or go, and their presets: thresholds over signals, each with its source.

Prose: Rae et al., "Gopher" (2021), appendix A.1.1 and table A1; Raffel et al., "T5" (2020), section 2.2 (C4); Penedo et
al., "FineWeb" (2024), "Developing additional heuristic filters". Programs: Li et al., "StarCoder" (2023), section 3
(line lengths, alphanumeric share), and our own measurement on the standard library (share of encoded data).
docs/data/rules.md has them all in one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from gristmill.data.signals import Compat
from gristmill.data.signals.lines import C4_LINES, FINEWEB_LINES


@dataclass(frozen=True)
class Rule:
    """A document breaks the rule if its signal lies outside `low <= value <= high`; a bound of None is no bound.

    languages: those whose documents are judged; () judges all. measured: where the signal was not measured (NaN) the
    rule says nothing; without it that is an error.
    """

    name: str
    signal: str
    low: float | None = None
    high: float | None = None
    languages: tuple[str, ...] = ()
    measured: bool = False


Rules = Mapping[str, Rule]


def _rules(*rules: Rule) -> dict[str, Rule]:
    return {rule.name: rule for rule in rules}


def _reading(rules: Rules, signal: str, values: Mapping[str, str]) -> dict[str, Rule]:
    """These rules in the order of `values`, reading other values, of one signal."""
    return {name: replace(rules[name], signal=f"{signal}.{value}") for name, value in values.items()}


ANY = _rules(Rule("min_characters", "length_v1.characters", low=1))
CODE = _rules(
    Rule("min_lines", "length_v1.lines", low=3),
    Rule("max_mean_line_length", "length_v1.mean_line_length", high=100),
    Rule("max_line_length", "length_v1.max_line_length", high=1000),
    Rule("min_alphanumeric", "code_symbols_v1.alphanumeric", low=0.25),
    Rule("max_encoded", "code_symbols_v1.encoded", high=0.19),
)
_QUALITY = _rules(
    Rule("min_words", "length_v1.words", low=50),
    Rule("max_words", "length_v1.words", high=100_000),
    Rule("min_mean_word_length", "length_v1.mean_word_length", low=3),
    Rule("max_mean_word_length", "length_v1.mean_word_length", high=10),
    Rule("max_hash_words", "gopher_symbols_v2.hash_words", high=0.1),
    Rule("max_ellipsis_words", "gopher_symbols_v2.ellipsis_words", high=0.1),
    Rule("max_bullet_lines", "gopher_symbols_v2.bullet_lines", high=0.9),
    Rule("max_ellipsis_lines", "gopher_symbols_v2.ellipsis_lines", high=0.3),
    Rule("min_alphabetic_words", "gopher_symbols_v2.alphabetic_words", low=0.8),
    Rule("min_stop_words", "gopher_symbols_v2.stop_words", low=2),
)
_REPETITION = _rules(
    Rule("max_duplicate_lines", "gopher_repetition_v1.duplicate_lines", high=0.30),
    Rule("max_duplicate_paragraphs", "gopher_repetition_v1.duplicate_paragraphs", high=0.30),
    Rule("max_duplicate_line_characters", "gopher_repetition_v1.duplicate_line_characters", high=0.20),
    Rule("max_duplicate_paragraph_characters", "gopher_repetition_v1.duplicate_paragraph_characters", high=0.20),
    *(Rule(f"max_top_{n}gram", f"gopher_repetition_v1.top_{n}gram", high=bound)
      for n, bound in ((2, 0.20), (3, 0.18), (4, 0.16))),
    *(Rule(f"max_duplicate_{n}gram", f"gopher_repetition_v1.duplicate_{n}gram", high=bound)
      for n, bound in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))),
)
GOPHER: Rules = {**_QUALITY, **_REPETITION}
C4 = _rules(
    Rule("max_lorem_ipsum", "c4_v1.lorem_ipsum", high=0),
    Rule("max_curly_brackets", "c4_v1.curly_brackets", high=0),
    Rule("min_sentences", "c4_v1.sentences", low=5),
)
BAD_WORDS = _rules(Rule("max_bad_words", "bad_words_v1.entries", high=0))
"""Part of C4 where a list is given."""
FINEWEB = _rules(
    Rule("min_punctuated_lines", "fineweb_v1.punctuated_lines", low=0.12),
    Rule("max_short_lines", "fineweb_v1.short_lines", high=0.67),
    Rule("max_duplicate_line_characters_fineweb", "gopher_repetition_v1.duplicate_line_characters", high=0.1),
    Rule("max_newline_words", "fineweb_v1.newline_words", high=0.3),
)
"""The last is in the authors' program only, not in the paper."""
SHAPE = _rules(
    Rule("min_letters", "characters_v1.alphabetic", low=0.6),
    Rule("max_digits", "characters_v1.digits", high=0.15),
    Rule("max_symbols", "characters_v1.symbols", high=0.15),
    Rule("max_upper_case", "characters_v1.upper_case", high=0.25),
    Rule("max_upper_case_words", "words_v1.upper_case", high=0.2),
    Rule("min_character_entropy", "characters_v1.entropy", low=3.5),
    Rule("min_unique_words", "words_v1.unique", low=0.05),
    Rule("max_longest_word", "words_v1.longest", high=1000),
)
"""Bounds of ours on statistics that other tools have: hardly any document of good prose breaks one."""

_ANY_END = {**C4, "min_sentences": Rule("min_sentences", "c4_v1.sentences_any_end", low=5)}
PROSE: Rules = {**GOPHER, **C4, **BAD_WORDS, **FINEWEB, **SHAPE}
RULES: Rules = {**ANY, **CODE, **PROSE}
"""Every rule that can be set in a recipe, with its usual bound."""

Preset = Literal["standard", "code", "gopher", "c4", "fineweb", "strict", "none"]
PRESETS: Mapping[str, tuple[Rules, Rules]] = {
    "none": ({}, {}),
    "code": (CODE, {}),
    "gopher": ({}, GOPHER),
    "standard": (CODE, GOPHER),
    "c4": ({}, {**C4, **BAD_WORDS}),
    "fineweb": ({}, {**GOPHER, **_ANY_END, **FINEWEB}),
    "strict": (CODE, {**GOPHER, **_ANY_END, **BAD_WORDS, **FINEWEB, **SHAPE}),
}
"""preset -> (rules for programs, rules for prose); documents without a character are dropped under every preset."""
PRESET_LINES: Mapping[str, tuple[str, ...]] = {"c4": C4_LINES, "fineweb": FINEWEB_LINES, "strict": FINEWEB_LINES}
"""The line filters of each preset, for prose; other presets leave all lines."""

_DATATROVE_QUALITY = _reading(RULES, "datatrove_quality_v1", {
    "min_words": "words", "max_words": "words", "min_mean_word_length": "mean_word_length",
    "max_mean_word_length": "mean_word_length", "max_hash_words": "hash_words", "max_ellipsis_words": "ellipsis_words",
    "max_bullet_lines": "bullet_lines", "max_ellipsis_lines": "ellipsis_lines",
    "min_alphabetic_words": "alphabetic_words", "min_stop_words": "stop_words",
})
_DATATROVE_REPETITION = _reading(RULES, "datatrove_repetition_v1", {
    f"max_{value}": value
    for value in ("duplicate_paragraphs", "duplicate_paragraph_characters", "duplicate_lines",
                  "duplicate_line_characters", *(name.removeprefix("max_") for name in _REPETITION if "gram" in name))
})
_DATATROVE_C4 = _reading(RULES, "datatrove_c4_v1", {
    "max_lorem_ipsum": "lorem_ipsum", "max_curly_brackets": "curly_brackets", "min_sentences": "sentences",
})
_DATATROVE_ANY_END = _reading(RULES, "datatrove_c4_v1", {
    "max_lorem_ipsum": "lorem_ipsum_any_end", "max_curly_brackets": "curly_brackets_any_end",
    "min_sentences": "sentences_any_end",
})
_DATATROVE_FINEWEB = {
    **_reading(RULES, "datatrove_fineweb_v1", {
        "min_punctuated_lines": "punctuated_lines", "max_short_lines": "short_lines",
        "max_duplicate_line_characters_fineweb": "duplicate_line_characters", "max_newline_words": "newline_words",
    }),
    "max_duplicate_line_characters_fineweb": Rule(
        "max_duplicate_line_characters_fineweb", "datatrove_fineweb_v1.duplicate_line_characters", high=0.01),
}
_DATATROVE_GOPHER = {**_DATATROVE_QUALITY, **_DATATROVE_REPETITION}
_DOLMA_GOPHER = _reading(RULES, "dolma_gopher_v1", {
    "min_words": "word_count", "max_words": "word_count", "min_mean_word_length": "median_word_length",
    "max_mean_word_length": "median_word_length", "max_hash_words": "symbol_to_word_ratio",
    "max_bullet_lines": "fraction_of_lines_starting_with_bullet_point",
    "max_ellipsis_lines": "fraction_of_lines_ending_with_ellipsis",
    "min_alphabetic_words": "fraction_of_words_with_alpha_character", "min_stop_words": "required_word_count",
    "max_duplicate_lines": "fraction_of_duplicate_lines",
    "max_duplicate_line_characters": "fraction_of_characters_in_duplicate_lines",
    **{f"max_top_{n}gram": f"fraction_of_characters_in_most_common_{n}grams" for n in (2, 3, 4)},
    **{f"max_duplicate_{n}gram": f"fraction_of_characters_in_duplicate_{n}grams" for n in range(5, 11)},
})
_DOLMA_C4 = _reading(RULES, "dolma_c4_v2", {
    "max_lorem_ipsum": "has_lorem_ipsum", "max_curly_brackets": "has_curly_brace",
})
COMPAT_PRESETS: Mapping[Compat, Mapping[str, Rules]] = {
    "none": {name: prose for name, (_, prose) in PRESETS.items()},
    "datatrove": {
        "none": {}, "code": {}, "gopher": _DATATROVE_GOPHER, "standard": _DATATROVE_GOPHER, "c4": _DATATROVE_C4,
        "fineweb": {**_DATATROVE_GOPHER, **_DATATROVE_ANY_END, **_DATATROVE_FINEWEB},
    },
    "dolma": {"none": {}, "code": {}, "gopher": _DOLMA_GOPHER, "standard": _DOLMA_GOPHER, "c4": _DOLMA_C4},
}
"""compat -> preset -> rules for prose by that tool's definitions, in its order."""

ENGLISH_ONLY = frozenset({"min_stop_words", "min_alphabetic_words", "min_mean_word_length"})
"""Rules whose thresholds were made for English; documents known to be in another language are spared."""
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my"})
"""Languages written without spaces: what counts words at white space says nothing about them."""
WORD_RULES = frozenset(name for name, rule in PROSE.items() if "word" in rule.signal.split(".")[1]
                       or "gram" in rule.signal or rule.signal.startswith("words_v1."))
UNSTOPPED = frozenset({"th", "lo"})
"""Languages that do not mark the ends of sentences."""
STOP_RULES = frozenset({"min_sentences", "min_punctuated_lines"})


def spared(rule: Rule, language: str) -> bool:
    """Does the rule say nothing about documents in this language?"""
    return (
        (rule.name in ENGLISH_ONLY and language not in ("en", "und"))
        or (rule.name in WORD_RULES and language in UNSPACED)
        or (rule.name in STOP_RULES and language in UNSTOPPED)
        or (bool(rule.languages) and language not in rule.languages)
    )
