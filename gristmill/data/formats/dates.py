"""Dates and times as papers, books, mails, feeds and dumps write them, as ISO 8601: as much of it as they say."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ISO = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?(?:T.*)?$", re.DOTALL)
_ISO_START = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")
_FRACTION = re.compile(r"(\d\d:\d\d:\d\d)[.,](\d+)")
_MONTH_FIRST = re.compile(r"([A-Za-z]{3,9})\.?,?\s+(?:(\d{1,2})(?:st|nd|rd|th)?\s*,\s*)?(\d{4})\b")
_DAY_FIRST = re.compile(r"(\d{1,2})\.?\s+([A-Za-z]{3,9})\.?,?\s+(\d{4})\b")


def iso_date(text: str) -> str:
    """`2008-06-27`, `2008-06` or `2008` of a date in words or digits; "" if it is none."""
    text = text.strip()[:100]
    if match := _ISO.match(text):
        return ymd(match[1], match[2], match[3])
    if match := _MONTH_FIRST.search(text):
        return ymd(match[3], month(match[1]), match[2])
    if match := _DAY_FIRST.search(text):
        return ymd(match[3], month(match[2]), match[1])
    return ""


def month(name: str) -> str | None:
    """The number of an English month."""
    found = name[:3].lower()
    return str(_MONTHS.index(found) + 1) if found in _MONTHS else None


def ymd(year: str | None, month: str | None, day: str | None) -> str:
    """Year, month and day as far as they make a date."""
    if not year or not year.strip().isdecimal() or not 1 <= int(year) <= 9999:
        return ""
    result = f"{int(year):04d}"
    if not month or not month.strip().isdecimal() or not 1 <= int(month) <= 12:
        return result
    result += f"-{int(month):02d}"
    if not day or not day.strip().isdecimal():
        return result
    try:
        return date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        return result


def utc_time(text: str | None) -> str:
    """`2024-05-17T23:31:22Z` for a time in ISO 8601 (also `2024` or `2024-05`; without a zone it is taken to be UTC) or
    RFC 822 (feeds, mail); "" if it is neither. Fractions of a second are dropped."""
    text = (text or "").strip()[:200]
    try:
        if match := _ISO_START.match(text):
            if match[0] == text:
                text += "-01-01"[len(text) - 4:]
            return utc(datetime.fromisoformat(_FRACTION.sub(r"\1", text)))
        return utc(parsedate_to_datetime(text)) if text else ""
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return ""


def unix_time(seconds: object) -> str:
    """Seconds since 1970 (number or text), or a time already in ISO 8601, in UTC; "" if it is neither."""
    try:
        return utc(datetime.fromtimestamp(float(seconds), UTC))  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError, OSError):
        pass
    try:
        return utc(datetime.fromisoformat(str(seconds).strip()[:40]))
    except (ValueError, OverflowError):
        return iso_date(str(seconds))


def utc(moment: datetime) -> str:
    """A moment in UTC to the second; one without a zone is taken to be in UTC."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")
