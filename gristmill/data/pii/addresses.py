"""IP addresses that may lead to somebody: public ones. Registries: IANA, special-purpose address registries."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from gristmill.data.pii.options import Span

_V4 = re.compile(r"[0-9](?<![0-9A-Za-z_.].)[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}"
                 r"(?![0-9A-Za-z_]|\.[0-9A-Za-z]|[-+][A-Za-z])")
_V6 = re.compile(r"[23](?<![0-9A-Za-z:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{1,36}+(?![0-9A-Za-z])")
"""All public addresses lie in 2000::/3 (RFC 4291): what else looks like one is a time, a hash or `std::name`."""
_NUMBER_OF = re.compile(r"(?:version|versions|ver|release|rel|build|v|firmware|driver|section|sections|sec|chapter|"
                        r"clause|paragraph|article|rule|table|figure|fig|step|oid|part|§+|upgrade to|update to)"
                        r"[\s.:#=(\"'/-]*$|[A-Za-z0-9][/_-]$", re.IGNORECASE)
"""What stands before a number with dots that is no address; also `Chrome/91.0.4472.124`, `name-1.2.3.44`."""
_FRACTION = re.compile(r"([-0-9]*\.[-.0-9]*)[ ,]$")
_LOOK_BACK = 16


def addresses(text: str) -> Iterator[Span]:
    """Public IPv4 and IPv6 addresses. Not: private, local, documentation and reserved ones; numbers of versions and
    sections (three single digits or more, a leading zero, or a word such as `version` before them)."""
    for match in _V4.finditer(text):
        if _public_v4(match[0]) and not _no_address(text[max(0, match.start() - _LOOK_BACK): match.start()]):
            yield Span(match.start(), match.end(), "ip", "v4")
    for match in _V6.finditer(text):
        if (end := _public_v6(match[0])) is not None:
            yield Span(match.start(), match.start() + end, "ip", "v6")


def _no_address(before: str) -> bool:
    """Does this text go before a number that is no address? Also other decimal fractions, as in drawings."""
    fraction = _FRACTION.search(before)
    return bool(_NUMBER_OF.search(before) or (fraction and fraction[1].count(".") != 3))


def _public_v4(text: str) -> bool:
    parts = text.split(".")
    single = sum(len(part) == 1 for part in parts)
    if single >= 3 or any(len(part) > 1 and part[0] == "0" for part in parts):
        return False
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return found.is_global and not found.is_multicast


def _public_v6(text: str) -> int | None:
    """The length of the address at the beginning of `text`; None if there is no public one."""
    end = len(text.rstrip(":")) if not text.endswith("::") else len(text)
    try:
        found = ipaddress.IPv6Address(text[:end])
    except ValueError:
        return None
    return end if found.is_global and not found.is_multicast else None
