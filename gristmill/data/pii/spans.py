"""Finding personal data in a text: one quick look for what every kind needs, and close ones at those places only."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from gristmill.data.pii.addresses import addresses
from gristmill.data.pii.emails import emails
from gristmill.data.pii.ibans import iban_end
from gristmill.data.pii.national_ids import lettered_id, national_ids
from gristmill.data.pii.numbers import cards, runs
from gristmill.data.pii.options import CODE_KINDS, KINDS, Kind, Pii, Span
from gristmill.data.pii.phones import phones
from gristmill.data.pii.wallets import wallets

_LETTERS = re.compile(r"[A-Z](?<![0-9A-Za-z].)(?=[A-Z] ?[0-9]{2}|[A-Z]{3}[0-9]{6}[HMX]|"
                      r"[A-Z]{5}[0-9LMNP-V]{2}[A-EHLMPRST])")
"""Where an IBAN or an id that begins with letters may begin."""
TAGS: dict[Kind, str] = {kind: f"<{kind.upper()}>" for kind in KINDS}
"""What stands for a find that is masked."""
_WORDS = {tag: f"x{tag[1:-1]}x".replace("_", "x") for tag in TAGS.values()}
"""Tags are read as words: what was glued to a find stays glued to its tag, or masking would lay bare one find after
another."""
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


def find(text: str, options: Pii | None = None, *, code: bool = False) -> list[Span]:
    """The personal data of a text, in order, without overlaps; in a program only kinds of `CODE_KINDS`.

    Time: linear in the length of the text. MachineError for phones without the package phonenumbers.
    """
    options = options or Pii()
    for tag, word in _WORDS.items():
        if tag in text:
            text = text.replace(tag, word)
    kinds = [kind for kind in options.kinds if kind in CODE_KINDS] if code else options.kinds
    return _disjoint(list(_found(text, frozenset(kinds), options.regions)))


def _found(text: str, kinds: frozenset[Kind], regions: Sequence[str]) -> Iterator[Span]:
    if "email" in kinds and "@" in text:
        yield from emails(text)
    if "wallet" in kinds:
        yield from wallets(text)
    if "ip" in kinds:
        yield from addresses(text)
    if kinds & {"iban", "national_id"}:
        yield from _lettered(text, kinds)
    if kinds & {"phone", "card", "national_id"} and (found := runs(text)):
        if "card" in kinds:
            yield from cards(text, found)
        if "national_id" in kinds:
            yield from national_ids(text, found)
        if "phone" in kinds:
            yield from phones(text, found, regions)


def _lettered(text: str, kinds: frozenset[Kind]) -> Iterator[Span]:
    for match in _LETTERS.finditer(text):
        start = match.start()
        if "iban" in kinds and (end := iban_end(text, start)) is not None:
            yield Span(start, end, "iban", text[start: start + 2])
        elif "national_id" in kinds and (span := lettered_id(text, start)) is not None:
            yield span


def _disjoint(found: list[Span]) -> list[Span]:
    """Of overlapping finds that whose kind stands first in `KINDS`; of the same kind the first and longest."""
    found.sort(key=lambda span: (span.start, -span.end))
    if all(one.end <= other.start for one, other in itertools.pairwise(found)):
        return found
    kept: list[Span] = []
    for group in _touching(found):
        taken: list[Span] = []
        for span in sorted(group, key=lambda one: (_RANK[one.kind], one.start, -one.end)):
            if all(span.end <= other.start or other.end <= span.start for other in taken):
                taken.append(span)
        kept += sorted(taken)
    return kept


def _touching(found: list[Span]) -> Iterator[list[Span]]:
    """Stretches of finds that overlap one after the other."""
    group: list[Span] = []
    end = 0
    for span in found:
        if group and span.start >= end:
            yield group
            group = []
        group.append(span)
        end = max(end, span.end)
    yield group
