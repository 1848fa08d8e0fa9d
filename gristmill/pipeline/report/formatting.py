"""Numbers and texts as a person reads them."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

MISSING = "–"
LONGEST_RUN = 8
MARKS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


def count(value: Any) -> str:
    """1,234 or 2.35 M."""
    if not _is_number(value):
        return MISSING
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:,.0f}"


def short_count(value: float, more: int = 0) -> str:
    """For axes: 300, 1k, 2.5M, 10²². more: digits beyond the usual ones."""
    if abs(value) >= 1e15:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        raised, factor = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")), f"{value / 10.0**power:.2g}"
        return f"10{raised}" if factor == "1" else f"{factor}·10{raised}"
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.{3 + more}g}{letter}"
    return f"{value:.{4 + more}g}"


def short_counts(values: Sequence[float]) -> list[str]:
    """`short_count` of different values, with as many digits as tell them apart."""
    texts: list[str] = []
    for more in range(9):
        texts = [short_count(value, more) for value in values]
        if len({*texts}) == len(values):
            break
    return texts


def size(value: Any) -> str:
    """Bytes as 12.3 MB (powers of ten)."""
    if not _is_number(value):
        return MISSING
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} bytes"


def number(value: Any, digits: int = 4) -> str:
    """Significant digits, without an exponent where it can be read without one; the minus sign is a real one."""
    if not _is_number(value):
        return MISSING
    if value == int(value) and abs(value) < 1e6:
        text = f"{value:,.0f}"
    elif abs(value) >= 1e5 or (value and abs(value) < 1e-4):
        text = f"{value:.{digits - 1}g}"
    else:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{min(places, 6)}f}"
    return text.replace("-", "−")


def signed(value: Any, places: int = 3) -> str:
    """A difference, with its sign and a fixed number of decimals."""
    if not _is_number(value):
        return MISSING
    return "0" if value == 0 else f"{value:+.{places}f}".replace("-", "−")


def percent(value: Any) -> str:
    """A share in [0, 1]: 63 %, 0.4 %, < 0.1 %."""
    if not _is_number(value):
        return MISSING
    if 0 < value < 0.001:
        return "< 0.1 %"
    return f"{value * 100:.1f} %" if value < 0.0995 else f"{value * 100:.0f} %"


def exact_percent(value: Any) -> str:
    """A share with one decimal, for tables that compare."""
    return f"{value * 100:.1f} %" if _is_number(value) else MISSING


def tick_percent(value: float) -> str:
    return f"{value * 100:.3g} %"


def p_value(value: Any) -> str:
    if not _is_number(value):
        return MISSING
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def duration(seconds: Any) -> str:
    """4.2 s, 7 min 12 s, 2 h 5 min."""
    if not _is_number(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(text: Any) -> str:
    """An ISO 8601 moment in UTC to the minute."""
    if not isinstance(text, str) or len(text) < 16:
        return MISSING
    return f"{text[:10]} {text[11:16]} UTC"


def plain(value: Any) -> str:
    """Any value of an unknown table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return number(value)
    return MISSING if value is None else str(value)


def short_name(name: Any) -> str:
    """`quickstart/base@1` as `base`; a path by its last part."""
    text = str(name).rstrip("/").rsplit("/", 1)[-1]
    stem, at, version = text.rpartition("@")
    return stem if at and version.isdigit() and stem else text


def words(name: Any) -> str:
    """`bits_per_byte` as `bits per byte`."""
    return str(name).replace("_", " ")


def visible(text: Any) -> list[tuple[str, bool]]:
    """A token in pieces (text, is a mark): white space and control characters become marks that can be seen, and
    long runs of one character are counted (`·×24`)."""
    pieces: list[tuple[str, bool]] = []
    for letter, run in itertools.groupby(str(text)):
        mark = MARKS.get(letter)
        if mark is None and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            mark = f"\\u{ord(letter):04x}"
        length = sum(1 for _ in run)
        if length > LONGEST_RUN:
            pieces += [(mark or letter, mark is not None), (f"×{length}", True)]
        else:
            pieces.append(((mark or letter) * length, mark is not None))
    merged: list[tuple[str, bool]] = []
    for shown, marked in pieces:
        if merged and merged[-1][1] == marked:
            merged[-1] = (merged[-1][0] + shown, marked)
        else:
            merged.append((shown, marked))
    return merged


def clip(text: Any, limit: int) -> str:
    text = str(text)
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


FILTERS = {
    f.__name__: f
    for f in (
        count,
        short_count,
        size,
        number,
        signed,
        percent,
        p_value,
        duration,
        moment,
        plain,
        words,
        visible,
        clip,
        short_name,
    )
}
