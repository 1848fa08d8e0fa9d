"""English word forms: from a form to the base forms that it may have, and from a base form to another form.

The rules of detachment are those of WordNet's morphological processing (`morphy(7WN)`); exceptions come from its lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["n", "v", "a", "r"]
"""Noun, verb, adjective, adverb."""
Form = Literal["base", "s", "ed", "ing", "er", "est"]

_ENDINGS: dict[str, tuple[tuple[str, str, Form], ...]] = {
    "n": (("ies", "y", "s"), ("ses", "s", "s"), ("xes", "x", "s"), ("zes", "z", "s"), ("ches", "ch", "s"),
          ("shes", "sh", "s"), ("men", "man", "s"), ("s", "", "s")),
    "v": (("ies", "y", "s"), ("es", "e", "s"), ("es", "", "s"), ("s", "", "s"), ("ied", "y", "ed"), ("ed", "e", "ed"),
          ("ed", "", "ed"), ("ying", "ie", "ing"), ("ing", "e", "ing"), ("ing", "", "ing")),
    "a": (("er", "", "er"), ("est", "", "est"), ("er", "e", "er"), ("est", "e", "est"), ("ier", "y", "er"),
          ("iest", "y", "est")),
    "r": (),
}
_VOWELS = "aeiou"
_ONE_SYLLABLE = 5
"""Letters of the longest adjective that takes -er and -est here; longer ones take `more`, which is another word."""


@dataclass
class Exceptions:
    """Irregular forms: part of speech -> form -> base form."""

    base: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.irregular: dict[tuple[str, str], list[str]] = {}
        for part, forms in self.base.items():
            for form, base in forms.items():
                self.irregular.setdefault((part, base), []).append(form)

    def form_of(self, part: str, form: str) -> Form:
        """Which form an irregular one is, told by its ending and its part of speech."""
        if part == "n":
            return "s"
        if part == "v":
            return "ing" if form.endswith("ing") else "s" if form.endswith("s") else "ed"
        return "est" if form.endswith("st") else "er"


def bases(word: str, known: Mapping[str, object], exceptions: Exceptions) -> Iterator[tuple[str, str, Form]]:
    """(base form, part of speech, form) of all readings of a lower-case word whose base form is among `known`."""
    if word in known:
        for part in _ENDINGS:
            yield word, part, "base"
    for part, endings in _ENDINGS.items():
        irregular = exceptions.base.get(part, {}).get(word)
        if irregular is not None:
            yield irregular, part, exceptions.form_of(part, word)
            continue
        for ending, back, form in endings:
            if word.endswith(ending) and len(word) > len(ending):
                stem = word[: len(word) - len(ending)] + back
                if stem in known:
                    yield stem, part, form
                elif not back and len(stem) > 3 and stem[-1] == stem[-2] and stem[:-1] in known:  # stopped, bigger
                    yield stem[:-1], part, form


def inflected(base: str, part: str, form: Form, exceptions: Exceptions) -> str | None:
    """A form of a base form; None where it is not known to be one word and one only."""
    if form == "base":
        return base
    irregular = [f for f in exceptions.irregular.get((part, base), ()) if exceptions.form_of(part, f) == form]
    if irregular:
        return irregular[0] if len(set(irregular)) == 1 else None
    if form == "s":
        if base.endswith("y") and base[-2:-1] not in _VOWELS:
            return base[:-1] + "ies"
        return base + ("es" if base.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if form in ("er", "est") and len(base) > _ONE_SYLLABLE:
        return None
    if base.endswith("y") and base[-2:-1] not in _VOWELS and form != "ing":
        return f"{base[:-1]}i{form}"
    if base.endswith("e"):
        if form == "ing":
            return base[:-2] + "ying" if base.endswith("ie") else (
                base + "ing" if base.endswith(("ee", "oe", "ye")) else base[:-1] + "ing")
        return base + form[1:]
    return base + base[-1] + form if _doubles(base) else base + form


def _doubles(base: str) -> bool:
    """Short words of consonant, one vowel, consonant double the last letter: stop, stopped."""
    return (len(base) >= 3 and base[-1] not in _VOWELS + "wxy" and base[-2] in _VOWELS and base[-3] not in _VOWELS
            and sum(letter in _VOWELS for letter in base) == 1)
