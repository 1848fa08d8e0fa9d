"""International bank account numbers. Standard: ISO 13616-1; lengths: the IBAN registry that SWIFT keeps."""

from __future__ import annotations

from gristmill.data.pii.checksums import mod_97_10
from gristmill.data.pii.numbers import SPACES

LENGTHS = {name: size for size, names in {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}.items() for name in names.split()}
"""Characters of the numbers of each country."""


def iban_end(text: str, start: int) -> int | None:
    """Where the number that begins at `start` ends; None if there is none.

    Its country gives its length; groups are divided by single spaces or hyphens; modulo 97 it must be 1.
    """
    size = LENGTHS.get(text[start: start + 2])
    if size is None:
        return None
    kept: list[str] = []
    place, divided = start, True
    while len(kept) < size:
        character = text[place: place + 1]
        if "0" <= character <= "9" or "A" <= character <= "Z":
            kept.append(character)
            divided = False
        elif not divided and character and character in SPACES + "-":
            divided = True
        else:
            return None
        place += 1
    after = text[place: place + 1]
    number = "".join(kept)
    good = number[2:4].isdigit() and not (after.isalnum() or after == "_") and mod_97_10(number[4:] + number[:4])
    return place if good else None
