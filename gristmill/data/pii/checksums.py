"""Check digits, as their standards define them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: from the right, every second digit doubled (digits summed); the sum is 0 modulo 10."""
    total = sum(map(int, digits[-1::-2])) + sum(_DOUBLED[int(digit)] for digit in digits[-2::-2])
    return total % 10 == 0


_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def weighted(digits: str, weights: Sequence[int]) -> int:
    """The sum of digit times weight."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def mod_11_10(digits: str) -> bool:
    """ISO/IEC 7064, hybrid system MOD 11,10: the last digit is the check digit."""
    product = 10
    for digit in digits[:-1]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def mod_97_10(text: str) -> bool:
    """ISO/IEC 7064, MOD 97-10, letters counting from A = 10: the number is 1 modulo 97."""
    return int("".join(str(int(character, 36)) for character in text)) % 97 == 1


# The dihedral group D5: 0-4 are rotations, 5-9 reflections (Verhoeff 1969, "Error detecting decimal codes").
_PRODUCT = [[(a + b) % 5 if a < 5 and b < 5 else 5 + (a + b - 5) % 5 if a < 5 else 5 + (a - b) % 5 if b < 5
             else (a - b) % 5 for b in range(10)] for a in range(10)]
_PERMUTED = [list(range(10))]
for _ in range(7):
    _PERMUTED.append([(1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit] for digit in _PERMUTED[-1]])


def verhoeff(digits: str) -> bool:
    """Verhoeff (1969): the last digit is the check digit."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = _PRODUCT[check][_PERMUTED[place % 8][int(digit)]]
    return check == 0


_BASE58 = {character: value for value, character in
           enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}


def base58check(text: str) -> bytes | None:
    """The payload with its version byte if the last four bytes are its double SHA-256 (Bitcoin wiki, "Base58Check")."""
    value = 0
    for character in text:
        value = value * 58 + _BASE58[character]
    data = value.to_bytes((value.bit_length() + 7) // 8)
    data = b"\0" * (len(text) - len(text.lstrip("1"))) + data
    if len(data) != 25:
        return None
    check = hashlib.sha256(hashlib.sha256(data[:-4]).digest()).digest()[:4]
    return data[:-4] if check == data[-4:] else None


_BECH32 = {character: value for value, character in enumerate("qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_BECH32_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def bech32(text: str) -> bool:
    """BIP 173 (bech32) and BIP 350 (bech32m): a lower-case address with its human-readable part."""
    part, _, data = text.rpartition("1")
    values = [ord(c) >> 5 for c in part] + [0] + [ord(c) & 31 for c in part] + [_BECH32.get(c, -1) for c in data]
    if -1 in values:
        return False
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, factor in enumerate(_BECH32_GENERATOR):
            if top >> bit & 1:
                check ^= factor
    return check in (1, 0x2BC830A3)


def keccak_256(data: bytes) -> bytes:
    """Keccak-256 of less than 136 bytes, with the padding of before FIPS 202 (Bertoni et al. 2011, section 1)."""
    block = bytearray(data + b"\x01" + bytes(135 - len(data)))
    block[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for place in range(17):
        lanes[place % 5][place // 5] = int.from_bytes(block[8 * place: 8 * place + 8], "little")
    for constant in _ROUNDS:
        parity = [lanes[x][0] ^ lanes[x][1] ^ lanes[x][2] ^ lanes[x][3] ^ lanes[x][4] for x in range(5)]
        for x in range(5):
            mixed = parity[(x - 1) % 5] ^ _rotated(parity[(x + 1) % 5], 1)
            lanes[x] = [lane ^ mixed for lane in lanes[x]]
        moved = [[0] * 5 for _ in range(5)]
        for x in range(5):
            for y in range(5):
                moved[y][(2 * x + 3 * y) % 5] = _rotated(lanes[x][y], _OFFSETS[x][y])
        lanes = [[moved[x][y] ^ (~moved[(x + 1) % 5][y] & moved[(x + 2) % 5][y]) for y in range(5)] for x in range(5)]
        lanes[0][0] ^= constant
    return b"".join(lanes[place % 5][place // 5].to_bytes(8, "little") for place in range(4))


def _rotated(lane: int, places: int) -> int:
    return (lane << places | lane >> 64 - places) & 0xFFFFFFFFFFFFFFFF


def _round_constants() -> list[int]:
    """24 constants: the bits of a linear feedback shift register with the polynomial x^8 + x^6 + x^5 + x^4 + 1."""
    state, found = 1, []
    for _ in range(24):
        constant = 0
        for power in range(7):
            if state & 1:
                constant |= 1 << (1 << power) - 1
            state = state << 1 ^ (0x171 if state >> 7 else 0)
        found.append(constant)
    return found


def _offsets() -> list[list[int]]:
    """(x, y) the rotations of the step rho: triangular numbers along a walk."""
    found = [[0] * 5 for _ in range(5)]
    x, y = 1, 0
    for step in range(24):
        found[x][y] = (step + 1) * (step + 2) // 2 % 64
        x, y = y, (2 * x + 3 * y) % 5
    return found


_ROUNDS, _OFFSETS = _round_constants(), _offsets()
