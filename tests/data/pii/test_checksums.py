"""Check digits against published examples and, where it is installed, against python-stdnum."""

from __future__ import annotations

import importlib
import random
import re
import string
from collections.abc import Callable

import pytest

from gristmill.data.pii.checksums import base58check, bech32, keccak_256, luhn, mod_11_10, mod_97_10, verhoeff
from gristmill.data.pii.ibans import LENGTHS
from gristmill.data.pii.national_ids import LETTERED, NATIONAL_IDS

CHECKS = {one.name: one.check for one in (*NATIONAL_IDS, *LETTERED)}
DIGITS = string.digits


def test_published_examples() -> None:
    assert luhn("79927398713")  # Luhn's patent, as it is cited everywhere
    assert verhoeff("2363")
    assert mod_11_10("07945")  # ISO 7064
    assert mod_97_10("WEST12345698765432GB82")  # ISO 13616
    assert base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa") is not None  # the first block's reward
    for address in ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",  # BIP 173
                    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0"):  # BIP 350
        assert bech32(address)
    assert keccak_256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak_256(b"abc").hex() == "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"


@pytest.mark.parametrize(("check", "good"), [
    (luhn, "4111111111111111"), (verhoeff, "234123412346"), (mod_11_10, "86095742719"), (bech32, ("bc1qw508d6qejxtdg4"
     "y5r3zarvary0c5xw7kv8f3t4")), (base58check, "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
    (mod_97_10, "370400440532013000DE89"),
])
def test_every_wrong_character_is_noticed(check: Callable[[str], object], good: str) -> None:
    assert check(good)
    start = 4 if check is bech32 else 0
    for place in range(start, len(good)):
        for other in set("0123456789") & set("qpzry9x8gf2tvdw0s3jn54khce6mua7l" if check is bech32 else DIGITS[1:]):
            if other != good[place]:
                assert not check(good[:place] + other + good[place + 1:]), (place, other)


def _day(chance: random.Random, form: str) -> str:
    year = chance.randrange(1930, 2020)
    return form.format(y=year, s=year % 100, m=chance.randrange(1, 13), d=chance.randrange(1, 29))


BODIES: dict[str, tuple[str,
                        str]] = {  # name: (stdnum's module, form: # a digit, {..} a day, [..] one of, rest as it is)
    "us_ssn": ("us.ssn", "8########"), "fr_nir": ("fr.nir", "[12]##05##########"), "br_cpf": ("br.cpf", "###########"),
    "ch_ahv": ("ch.ssn", "756##########"), "cn_resident": ("cn.ric", "110105{y}{m:02d}{d:02d}###[0123456789X]"),
    "za_id": ("za.idnr", "{s:02d}{m:02d}{d:02d}####[01]8#"),
                                 "ro_cnp": ("ro.cnp", "[12]{s:02d}{m:02d}{d:02d}[1234][0123456]####"),
    "se_personnummer": ("se.personnummer", "{s:02d}{m:02d}{d:02d}-####"),
    "cz_rodne_cislo": ("cz.rc", "{s:02d}{m:02d}{d:02d}####"), "de_steuer_id": ("de.idnr", "permuted"),
    "nl_bsn": ("nl.bsn", "#########"), "pl_pesel": ("pl.pesel", "{s:02d}{m:02d}{d:02d}#####"),
    "in_aadhaar": ("in_.aadhaar", "############"), "pt_nif": ("pt.nif", "[123]########"),
    "tr_kimlik": ("tr.tckimlik", "###########"), "jp_my_number": ("jp.in_", "############"),
    "ca_sin": ("ca.sin", "#########"), "au_tfn": ("au.tfn", "#########"), "hr_oib": ("hr.oib", "###########"),
    "es_dni": ("es.dni", "########[ABCDEFGHJKLMNPQRSTVWXYZ]"),
    "it_codice_fiscale": ("it.codicefiscale", "RSSMRA##[ABCDEHLMPRST]1[123456789]H###[ABCDEFGHIJKLMNOPQRSTUVWXYZ]"),
}
LOOSER = {"be_national": ("be.nn", "{s:02d}{m:02d}{d:02d}#####"),
          "kr_rrn": ("kr.rrn", "{s:02d}{m:02d}{d:02d}[1234]######"),
          "no_fodselsnummer": ("no.fodselsnummer", "{d:02d}{m:02d}{s:02d}#####"),
          "fi_hetu": ("fi.hetu", "{d:02d}{m:02d}{s:02d}-###[0123456789ABCDEFHJKLMNPRSTUVWXY]"),
          "dk_cpr": ("dk.cpr", "{d:02d}{m:02d}{s:02d}####"),
          "mx_curp": ("mx.curp", "GOMC{s:02d}{m:02d}{d:02d}HDFMRR[0123456789A]#")}
"""Those of which stdnum knows more than the law says for all (centuries in digits, places of birth)."""


def _made(chance: random.Random, form: str) -> str:
    if form == "permuted":  # nine of the ten digits, one of them twice
        digits = chance.sample(DIGITS, 9)
        return "".join([*digits, chance.choice(digits), chance.choice(DIGITS)])
    text = "".join(chance.choice(DIGITS) if character == "#" else character for character in form)
    return re.sub(r"\[([^\]]+)\]", lambda match: chance.choice(match[1]), _day(chance, text))


@pytest.mark.parametrize("name", [*BODIES, *LOOSER])
def test_national_ids_agree_with_stdnum(name: str) -> None:
    module, form = {**BODIES, **LOOSER}[name]
    theirs = pytest.importorskip(f"stdnum.{module}", reason="python-stdnum is not installed")
    chance = random.Random(name)
    found = 0
    for _ in range(4000):
        number = _made(chance, form)
        ours = CHECKS[name](number.replace("-", ""))
        if name in BODIES:
            assert ours == theirs.is_valid(number), number
        else:
            assert ours or not theirs.is_valid(number), number
        found += ours
    assert 5 <= found < 4000 or name == "dk_cpr"  # has no check digit


def test_lengths_of_ibans_agree_with_stdnum() -> None:
    data = pytest.importorskip("stdnum.iban", reason="python-stdnum is not installed")._ibandb
    assert importlib.import_module("stdnum.iban").is_valid("DE89370400440532013000")
    for first in string.ascii_uppercase:
        for second in string.ascii_uppercase:
            parts = data.info(f"{first}{second}00")
            form = parts[0][1].get("bban") if parts and parts[0][1] else None
            expected = 4 + sum(map(int, re.findall(r"\d+", form))) if form else None
            assert LENGTHS.get(first + second) == expected, first + second
