"""The times of feeds, archives and dumps, ISO 8601 or RFC 822, as ISO 8601 in UTC."""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import parsedate_to_datetime

from gristmill.data.formats.dates import utc

_FRACTION = re.compile(r"(\d\d:\d\d:\d\d)[.,](\d+)")
_ISO = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")


def utc_time(text: str | None) -> str:
    """`2024-05-17T23:31:22Z` for a time in ISO 8601 (also `2024` or `2024-05`; without a zone it is taken to be UTC) or
    RFC 822 (feeds, mail); "" if it is neither. Fractions of a second are dropped."""
    text = (text or "").strip()
    if not text or len(text) > 80:
        return ""
    try:
        if match := _ISO.match(text):
            if match[0] == text:
                text += "-01-01"[len(text) - 4:]
            return utc(datetime.fromisoformat(_FRACTION.sub(r"\1", text)))
        return utc(parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError, IndexError):
        return ""
