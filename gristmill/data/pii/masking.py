"""Personal data taken out of a text: replaced by its kind or by a value that belongs to nobody."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gristmill.core.seeds import fraction
from gristmill.data.pii.options import Pii, Span
from gristmill.data.pii.spans import TAGS, find

_FAKE_ROUNDS = 3


@dataclass(frozen=True)
class Examined:
    """A document after what its options say. text: masked, unless `report` leaves it as it is. counts: finds by kind.
    dropped: is it to be left out? (Its text is masked all the same: rejects are kept, personal data is not.)"""

    text: str
    counts: dict[str, int]
    dropped: bool = False

    @property
    def detail(self) -> str:
        """What was found, in a line; never the data itself."""
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.items())


def examine(text: str, options: Pii, *, code: bool = False) -> Examined:
    """Look for personal data and do what `options.action` says."""
    if options.action == "none":
        return Examined(text, {})
    if options.action == "report":
        return Examined(text, _sorted(Counter(span.kind for span in find(text, options, code=code))))
    cleaned, counts = masked(text, options, code=code)
    dropped = options.action == "drop" and sum(counts.values()) >= options.least
    return Examined(cleaned, counts, dropped)


def masked(text: str, options: Pii | None = None, *, code: bool = False) -> tuple[str, dict[str, int]]:
    """The text with every find replaced, and how many of each kind there were.

    Doing it again changes nothing: what shows itself only when its neighbour is gone is replaced as well.
    """
    options = options or Pii()
    counts = Counter[str]()
    rounds = 0
    while spans := find(text, options, code=code):
        fake = options.replacement == "fake" and rounds < _FAKE_ROUNDS  # digits beside a fake may make a number of it
        rounds += 1
        parts, last = [], 0
        for span in spans:
            parts += [text[last: span.start], _fake(text, span) if fake else TAGS[span.kind]]
            last = span.end
        text = "".join((*parts, text[last:]))
        counts.update(span.kind for span in spans)
    return text, _sorted(counts)


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {kind: counts[kind] for kind in sorted(counts)}


def _fake(text: str, span: Span) -> str:
    """The stand-in of a value: the same wherever it occurs, of ranges that are kept for examples or never given out."""
    value = "".join(filter(str.isalnum, text[span.start: span.end])).lower()
    number = int(fraction("pii", span.kind, value) * 10_000)
    match span.kind:
        case "email":
            return f"user{number:04d}@example.com"  # RFC 2606
        case "ip":
            return f"192.0.2.{number % 256}" if span.form == "v4" else f"2001:db8::{number:x}"  # RFC 5737, RFC 3849
        case "phone":
            return f"+1 202 555 01{number % 100:02d}"  # NANPA keeps 555-0100 to 555-0199
        case "card":
            return f"0000 0000 0000 {number:04d}"  # ISO/IEC 7812-1: no issuer begins with 0000
        case "iban":
            return f"XX00 0000 0000 {number:04d}"  # ISO 3166-1: XX is no country
        case "national_id":
            return f"000-00-{number:04d}"  # no state gives out zeros
        case "wallet":
            return f"1Example{number:04d}"
