"""Method `counterfactual`: documents with the words of one gender swapped for those of the other.

Zhao et al. 2018, "Gender Bias in Coreference Resolution", section 3.2; Lu et al. 2018, "Gender Bias in Neural Natural
Language Processing". How words are swapped is said in `gristmill.data.counterfactual`; here, which documents are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gristmill.core.config import config, require
from gristmill.core.seeds import fraction
from gristmill.data.augment.method import Made, Original, check_method

_SHE = re.compile(r"\b(?:she|her|hers|herself)\b", re.IGNORECASE)
_HE = re.compile(r"\b(?:he|him|his|himself)\b", re.IGNORECASE)


@config
class Counterfactual:
    """Documents with gendered words swapped, so that neither gender is the rule."""

    kind: Literal["counterfactual"] = "counterfactual"
    """counterfactual."""
    name: str = ""
    """What the made documents are called after; default `counterfactual`."""
    share: float = 1.0
    """Share of the documents that it takes, above 0 to 1; chosen by the hash of their ids."""
    copies: int = 1
    """There is one swap of a document: 1."""
    languages: list[str] = field(default_factory=lambda: ["en"])
    """Only documents in these languages."""
    balance: bool = True
    """Take only documents of the side that is met more often (she, her, hers, herself; he, him, his, himself), until
    the counts of both are level. false takes every document of the share."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_method(self)
        require(self.copies == 1, "copies", "must be 1: the swap of a document is always the same")
        require(self.languages == ["en"], "languages", "the swapped words are English: must be [en]")


@dataclass(frozen=True, slots=True)
class Pronouns:
    """How often each gender's pronouns occur."""

    she: int = 0
    he: int = 0

    def __add__(self, other: Pronouns) -> Pronouns:
        return Pronouns(self.she + other.she, self.he + other.he)


def pronouns(text: str) -> Pronouns:
    """The pronouns of a text."""
    return Pronouns(len(_SHE.findall(text)), len(_HE.findall(text)))


def balanced(documents: Sequence[tuple[str, int, int]], total: Pronouns, name: str, seed: int) -> set[str]:
    """The ids of the documents whose swapped copies bring the counts as near to level as their order allows.

    documents: (id, she, he) of those that may be taken. total: the counts of the whole corpus. Documents of the side
    that is ahead are taken in the order of their hashes, each if it does not carry the count beyond level.
    """
    ahead = total.he - total.she
    sign = 1 if ahead >= 0 else -1
    left = abs(ahead)
    chosen = set()
    leaning = [(fraction(seed, "augment", "balance", name, id), id, sign * (he - she))
               for id, she, he in documents if sign * (he - she) > 0]
    for _, id, lead in sorted(leaning):
        if lead <= left:
            chosen.add(id)
            left -= lead
    return chosen


def swapped(original: Original, copy: int) -> Made:
    """The document with gendered words swapped."""
    from gristmill.data.counterfactual import counterfactual

    text = counterfactual(original.text)
    before, after = pronouns(original.text), pronouns(text)
    return Made(original.id, copy, text, about={"she": [before.she, after.she], "he": [before.he, after.he]})
