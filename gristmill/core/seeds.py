"""Seeds derived by name, so that every random choice can be made again alone."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a pure function of `parts`, e.g. derive_seed(recipe_seed, "base", "init")."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def fraction(*parts: int | str) -> float:
    """A number in [0, 1) that is a pure function of `parts`: the basis of splits and samples."""
    return derive_seed(*parts) / 2**63
