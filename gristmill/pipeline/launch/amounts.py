"""Times and sizes as people write them, and as schedulers read them."""

from __future__ import annotations

import re

from gristmill.core.errors import UserError

_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?\Z")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)\Z")
_SIZE = re.compile(r"(\d+)([MGT])(?:i?B)?\Z", re.IGNORECASE)
_MIB = {"M": 1, "G": 1024, "T": 1024 * 1024}


def seconds_of(text: str) -> int:
    """`90m`, `1d12h`, `4:00:00` or `1-12:00:00` in seconds."""
    match = _UNITS.match(text) or _CLOCK.match(text)
    if not text or not match:
        raise UserError(f"{text!r} is not a time", where="--time", fix="90m, 4h, 1d12h, 4:00:00 or 1-12:00:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def mib_of(text: str) -> int:
    """`512M`, `64G`, `64GiB` or `1T` in MiB; units are powers of 1024, as Slurm and Kubernetes' `Gi` have them."""
    match = _SIZE.match(text)
    if not match:
        raise UserError(f"{text!r} is not an amount of memory", where="--memory", fix="512M, 64G or 1T")
    return int(match[1]) * _MIB[match[2].upper()]


def slurm_time(seconds: int) -> str:
    """D-HH:MM:SS."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day}-{hour:02}:{minute:02}:{second:02}"


def quantity(mib: int) -> str:
    """A Kubernetes quantity."""
    return f"{mib // 1024}Gi" if mib % 1024 == 0 else f"{mib}Mi"
