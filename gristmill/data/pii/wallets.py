"""Addresses of cryptocurrencies whose checksum holds: Bitcoin, Litecoin, Dogecoin (Base58Check, bech32), Ethereum.

Sources: Bitcoin wiki, "List of address prefixes"; BIP 173; EIP-55.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gristmill.data.pii.checksums import base58check, bech32, keccak_256
from gristmill.data.pii.options import Span

_BASE58 = re.compile(r"[13LMDA9](?<![0-9A-Za-z].)[1-9A-HJ-NP-Za-km-z]{25,34}+(?![0-9A-Za-z])")
_BECH32 = re.compile(r"(?<![0-9A-Za-z])(?:bc|ltc|tb)1[02-9ac-hj-np-z]{11,71}+(?![0-9A-Za-z])")
_ETHEREUM = re.compile(r"0x(?<![0-9A-Za-z]..)[0-9A-Fa-f]{40}(?![0-9A-Za-z])")
_VERSIONS = {0x00: "bitcoin", 0x05: "bitcoin", 0x30: "litecoin", 0x32: "litecoin", 0x1E: "dogecoin", 0x16: "dogecoin"}


def wallets(text: str) -> Iterator[Span]:
    """Addresses with a checksum that holds; for Ethereum also those in one case, which have none."""
    for match in _BASE58.finditer(text):
        payload = base58check(match[0])
        if payload and payload[0] in _VERSIONS:
            yield Span(match.start(), match.end(), "wallet", _VERSIONS[payload[0]])
    if "bc1" in text or "ltc1" in text or "tb1" in text:
        for match in _BECH32.finditer(text):
            if bech32(match[0]):
                yield Span(match.start(), match.end(), "wallet", "litecoin" if match[0][0] == "l" else "bitcoin")
    if "0x" in text:
        for match in _ETHEREUM.finditer(text):
            if _ethereum(match[0][2:]):
                yield Span(match.start(), match.end(), "wallet", "ethereum")


def _ethereum(address: str) -> bool:
    """EIP-55: a letter is a capital where the hash of the lower-case address has 8 or more at its place."""
    lower = address.lower()
    if len(set(lower)) < 8:
        return False  # a constant: random addresses have 14.6 different digits, hardly ever fewer than 10
    if address in (lower, address.upper()):
        return True
    digits = keccak_256(lower.encode()).hex()
    return all(letter.isdigit() or letter.isupper() == (digit >= "8")
               for letter, digit in zip(address, digits, strict=False))
