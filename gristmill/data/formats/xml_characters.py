"""Characters that XML forbids, and that dumps and feeds hold all the same."""

from __future__ import annotations

import re

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_REFERENCE = re.compile(r"&#(?:[xX]([0-9a-fA-F]{1,8})|([0-9]{1,10}));")


def allowed(code: int) -> bool:
    """May this character stand in XML 1.0 (section 2.2)?"""
    return code in (9, 10, 13) or 32 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0x10000 <= code < 0x110000


def without_forbidden(text: str) -> str:
    """The text without control characters, and with U+FFFD for references to characters that cannot be."""
    text = _FORBIDDEN.sub("", text)
    return _REFERENCE.sub(_reference, text) if "&#" in text else text


def mended(data: bytes) -> bytes:
    """UTF-8 without the characters that XML forbids; what is no UTF-8 becomes U+FFFD."""
    return without_forbidden(data.decode("utf-8", "replace")).encode()


def _reference(match: re.Match[str]) -> str:
    code = int(match[1], 16) if match[1] else int(match[2])
    return match[0] if allowed(code) else "\ufffd"
