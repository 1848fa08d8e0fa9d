"""Where a text has long numbers: the one scan that phones, cards and national ids share; and the numbers of cards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from gristmill.data.pii.checksums import luhn
from gristmill.data.pii.options import Span

SPACES = " \u00a0\u2009\u202f"
DASHES = "\\-\u2010\u2011\u2012\u2013"
_RUN = re.compile(rf"[0-9](?:(?:[{SPACES}]?+[.()/{DASHES}]{{1,2}}+[{SPACES}]?+|[{SPACES}])?+[0-9]){{6,}}+")
Run = tuple[int, int]


def runs(text: str) -> list[Run]:
    """(start, end) of every run of seven digits or more that only spaces, dots, dashes, brackets and slashes divide."""
    return [match.span() for match in _RUN.finditer(text)]


def stands_alone(text: str, start: int, end: int) -> bool:
    """Is text[start:end] set off like a word, and neither quoted nor part of a name or an address? Long digits in
    quotes and addresses are keys of data bases."""
    before, after = text[start - 1: start] if start else "", text[end: end + 1]
    return ((not before or before.isspace() or before in ":;,([|>*#«“") and
            (not after or after.isspace() or after in ".,;:)]|<!?*»”"))


def part_of_name(text: str, start: int) -> bool:
    """Does what begins at `start` go on with a name such as `file-name-2012` or `path/2012`?"""
    return start > 1 and text[start - 1] in "-/" and (text[start - 2].isalnum() or text[start - 2] in "_-/")


_CARD = re.compile(
    rf"(?<![0-9A-Za-z_.,])(?:[0-9]{{4}}(?P<a>[{SPACES}{DASHES}])[0-9]{{4}}(?P=a)[0-9]{{4}}(?P=a)[0-9]{{4}}"
    rf"(?:(?P=a)[0-9]{{3}})?|3[0-9]{{3}}(?P<b>[{SPACES}{DASHES}])[0-9]{{6}}(?P=b)[0-9]{{4,5}}|[0-9]{{14,19}})"
    rf"(?![0-9A-Za-z_]|[{DASHES}.,][0-9])")
_CARD_CUE = re.compile(r"(?:card|visa|master|amex|credit|debit|kredit|karte|carte|tarjeta|cart[aã]o|\bpan\b|\bcc)",
                       re.IGNORECASE)
_GROUPS = re.compile(f"[{SPACES}{DASHES}]")


def cards(text: str, found: Sequence[Run]) -> Iterator[Span]:
    """Numbers of payment cards: prefix and length of an issuer, and the check digit (ISO/IEC 7812-1)."""
    for start, end in found:
        if end - start >= 14:
            for match in _CARD.finditer(text, start, end):
                digits = _GROUPS.sub("", match[0])
                issuer = issuer_of(digits)
                if not issuer or not _free_end(text, match.end()) or not luhn(digits):
                    continue
                plain = len(match[0]) == len(digits)
                alone = stands_alone(text, match.start(), match.end()) if plain else not part_of_name(text,
                                                                                                      match.start())
                if alone or _CARD_CUE.search(text, max(0, match.start() - 40), match.start()):
                    yield Span(match.start(), match.end(), "card", issuer)


def _free_end(text: str, end: int) -> bool:
    """Is the number over here, and not the beginning of a name or a decimal fraction?"""
    after = text[end: end + 2]
    return not (after and (after[0].isalnum() or after[0] == "_" or (after[0] in ",." and after[1:].isdigit())))


def issuer_of(digits: str) -> str:
    """The network whose cards begin so and are so long; empty if there is none. Ranges: as the networks publish them
    in their merchants' manuals (ISO/IEC 7812-1 assigns only the first digits)."""
    size, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    if digits[0] == "4":
        return "visa" if size in (16, 19) else ""
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return "mastercard" if size == 16 else ""
    if two in (34, 37):
        return "american_express" if size == 15 else ""
    if 300 <= three <= 305 or two in (36, 38, 39):
        return "diners_club" if size == 14 else ""
    if 3528 <= four <= 3589:
        return "jcb" if size == 16 else ""
    if two == 62:
        return "unionpay" if 16 <= size <= 19 else ""
    if four == 6011 or two == 65 or 644 <= three <= 649:
        return "discover" if size in (16, 19) else ""
    if 2200 <= four <= 2204:
        return "mir" if size == 16 else ""
    if four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763):
        return "maestro" if size in (16, 18, 19) else ""
    return ""
