"""GPT-2's reversible alphabet: every byte as one printable character, as byte-level vocabularies are written."""

from __future__ import annotations


def _byte_alphabet() -> dict[str, int]:
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in set(kept)]
    return {chr(b): b for b in kept} | {chr(256 + i): b for i, b in enumerate(moved)}


BYTE_OF = _byte_alphabet()
"""Character -> byte."""

CHARACTER_OF = {byte: letter for letter, byte in BYTE_OF.items()}
"""Byte -> character."""


def bytes_of(piece: str) -> bytes:
    """The bytes of a byte-level piece; one with foreign characters stands for its own text, as in the library."""
    if all(letter in BYTE_OF for letter in piece):
        return bytes(BYTE_OF[letter] for letter in piece)
    return piece.encode()


def piece_of(data: bytes) -> str:
    """The byte-level piece of these bytes."""
    return "".join(CHARACTER_OF[byte] for byte in data)
