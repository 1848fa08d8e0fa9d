"""What counts as personal data, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gristmill.core.config import config, require

Kind = Literal["email", "phone", "ip", "card", "iban", "national_id", "wallet"]
KINDS: tuple[Kind, ...] = ("email", "wallet", "iban", "card", "national_id", "ip", "phone")
"""In order of precedence: where two finds overlap, the one whose kind stands first stays."""
CODE_KINDS: tuple[Kind, ...] = ("email", "ip")
"""What is looked for in programs: long numbers there are constants. Keys and passwords are the business of
`data.formats.secrets`, in the source `code`."""

REASON = "pii"
"""The reason of documents that are dropped."""


def _every_kind() -> list[Kind]:
    return sorted(KINDS)


def _regions() -> list[str]:
    return ["US", "CA", "GB", "IE", "AU", "NZ", "ZA", "IN", "DE", "AT", "CH", "FR", "BE", "NL", "IT", "ES", "PT", "BR",
            "MX", "SE", "NO", "DK", "FI", "PL", "JP"]


@config
class Pii:
    """Personal data in the text of documents: what is looked for, and what happens where it is found."""

    action: Literal["none", "report", "mask", "drop"] = "none"
    """none: not looked for. report: counted in the documents' metadata. mask: replaced, and counted. drop: documents
    with `least` finds or more are left out with the reason `pii`; the others are masked."""
    kinds: list[Kind] = field(default_factory=_every_kind)
    """What is looked for. In programs only `email` and `ip` of these."""
    replacement: Literal["tag", "fake"] = "tag"
    """tag: the kind, such as `<EMAIL>`. fake: a value that belongs to nobody (example.com, 192.0.2.0/24, the numbers
    kept for films), the same for the same value wherever it occurs."""
    least: int = 3
    """The number of finds from which on `drop` leaves a document out."""
    regions: list[str] = field(default_factory=_regions)
    """Countries (ISO 3166, two letters) whose phone numbers are known in their national form, without `+` and country
    code."""

    def __post_init__(self) -> None:
        require(len(self.kinds) > 0, "kinds", "name at least one kind, or choose the action none")
        require(len(set(self.kinds)) == len(self.kinds), "kinds", "name each kind once")
        require(self.least >= 1, "least", "must be 1 or more")
        require(all(len(region) == 2 and region.isascii() and region.isupper() for region in self.regions), "regions",
                "must be ISO 3166 codes of two capital letters, such as US")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A find: text[start:end]. form: which form of its kind it has, such as `us_ssn` of `national_id`."""

    start: int
    end: int
    kind: Kind
    form: str = ""
