"""Numbers that states give to people, with their check digits: one row a country in `NATIONAL_IDS`.

A form that more than about 1 of 250 random numbers of the same look would meet is only taken behind a word that names
it (a cue), such as `BSN`; the others are taken anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from gristmill.data.pii.checksums import luhn, mod_11_10, verhoeff, weighted
from gristmill.data.pii.numbers import Run, part_of_name, stands_alone
from gristmill.data.pii.options import Span
from gristmill.data.pii.phones import phone_cue


@dataclass(frozen=True)
class NationalId:
    """free: its look where no cue is needed. cued: its look behind a cue. cue: words that name it, in lower case.
    check: is this (digits and capitals only) one? source: who says so."""

    name: str
    check: Callable[[str], bool]
    source: str
    free: str = ""
    cued: str = ""
    cue: str = ""


def _day(year: int, month: int, day: int) -> bool:
    try:
        return date(year, month, day) <= _LATEST
    except ValueError:
        return False


_LATEST = date(2040, 12, 31)
"""A fixed bound: what is found must not depend on the day."""


def _short_day(digits: str) -> bool:
    """Is yymmdd a day of this or the last century?"""
    year, month, day = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    return _day(1900 + year, month, day) or _day(2000 + year, month, day)


def us_ssn(text: str) -> bool:
    """Social Security Administration, "Randomization of SSNs": no 000, 666, 9xx; no 00; no 0000; nor the two that
    advertisements made known. 9xx are the taxpayer numbers of the IRS (ITIN): groups 50-65, 70-88, 90-92, 94-99."""
    area, group, serial = int(text[:3]), int(text[3:5]), int(text[5:])
    if area >= 900:
        return group in range(50, 66) or group in range(70, 89) or (group in range(90, 100) and group != 93)
    return area not in (0, 666) and group > 0 and serial > 0 and text not in ("078051120", "219099999", "123456789")


def uk_nino(text: str) -> bool:
    """HMRC, National Insurance Manual NIM39110: letters that are not used, prefixes that are not given."""
    return text[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def de_steuer_id(text: str) -> bool:
    """Abgabenordnung 139b: the first ten digits have one digit twice or three times; ISO/IEC 7064 MOD 11,10."""
    counts = sorted(map(text[:10].count, set(text[:10])))
    return text[0] != "0" and counts[-1] in (2, 3) and counts[-2] == 1 and mod_11_10(text)


def fr_nir(text: str) -> bool:
    """INSEE: the key is 97 minus the number modulo 97; Corsica's 2A and 2B count as 19 and 18."""
    number = text[:13].replace("2A", "19").replace("2B", "18")
    month = int(number[3:5])
    good_month = 1 <= month <= 12 or 20 <= month <= 42 or month >= 50
    return good_month and number.isdigit() and 97 - int(number) % 97 == int(text[13:])


def es_dni(text: str) -> bool:
    """Ministerio del Interior: the letter is the number modulo 23; X, Y, Z of a foreigner's (NIE) count as 0, 1, 2."""
    number = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1] and int(number) > 0


_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22,
    25, 24, 23), strict=True))


def it_codice_fiscale(text: str) -> bool:
    """Decreto ministeriale of 23 December 1976, article 10: values by odd and even place, modulo 26."""
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in text[1:15:2])
    return (sum(_ODD[c] for c in text[0:15:2]) + even) % 26 == ord(text[15]) - 65


def nl_bsn(text: str) -> bool:
    """Regeling burgerservicenummer: weights 9 to 2 and -1, modulo 11."""
    return int(text) > 0 and weighted(text, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def pl_pesel(text: str) -> bool:
    """Ustawa o ewidencji ludności: weights 1 3 7 9, modulo 10; the month tells the century."""
    century, month = divmod(int(text[2:4]), 20)
    years = (1900, 2000, 2100, 2200, 1800)
    return (_day(years[century] + int(text[:2]), month, int(text[4:6]))
            and weighted(text, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0)


def br_cpf(text: str) -> bool:
    """Receita Federal: two check digits modulo 11; not eleven equal digits."""
    first = weighted(text, range(10, 1, -1)) * 10 % 11 % 10
    second = weighted(text, range(11, 1, -1)) * 10 % 11 % 10
    return len(set(text)) > 1 and (first, second) == (int(text[9]), int(text[10]))


def in_aadhaar(text: str) -> bool:
    """UIDAI: Verhoeff; the first digit is neither 0 nor 1; no palindrome."""
    return text[0] not in "01" and text != text[::-1] and verhoeff(text)


_CN_PROVINCES = frozenset((*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55),
                           *range(61, 66), 71, 81, 82, 83))


def cn_resident(text: str) -> bool:
    """GB 11643-1999: province (GB/T 2260), day of birth, ISO/IEC 7064 MOD 11-2."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return (int(text[:2]) in _CN_PROVINCES and int(text[6:10]) >= 1850
            and _day(int(text[6:10]), int(text[10:12]), int(text[12:14]))
            and "10X98765432"[weighted(text[:17], weights) % 11] == text[17])


def se_personnummer(text: str) -> bool:
    """Skatteverket SKV 704: day of birth (plus 60 for coordination numbers) and Luhn over the last ten digits."""
    text = text[-10:]
    day = int(text[4:6])
    return _short_day(f"{text[:4]}{day - 60 if day > 60 else day:02d}") and luhn(text)


def fi_hetu(text: str) -> bool:
    """Digital and Population Data Services Agency: nine digits modulo 31 (the sign between them tells the century)."""
    digits = text[:6] + text[-4:-1]
    return (_short_day(text[4:6] + text[2:4] + text[:2]) and int(text[-4:-1]) >= 2
            and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31] == text[-1])


def no_fodselsnummer(text: str) -> bool:
    """Skatteetaten: day of birth (plus 40 for D numbers) and two check digits modulo 11."""
    day = int(text[:2])
    return (_short_day(f"{text[4:6]}{text[2:4]}{day - 40 if day > 40 else day:02d}")
            and weighted(text, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
            and weighted(text, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0)


def dk_cpr(text: str) -> bool:
    """CPR-kontoret: day of birth; since 2007 without a check digit."""
    return _short_day(text[4:6] + text[2:4] + text[:2])


def be_national(text: str) -> bool:
    """Koninklijk besluit of 3 April 1984: 97 minus nine digits modulo 97, with a 2 before them from 2000 on."""
    key = int(text[9:])
    born = _short_day(text[:6])
    return born and key in (97 - int(text[:9]) % 97, 97 - int(f"2{text[:9]}") % 97)


def pt_nif(text: str) -> bool:
    """Autoridade Tributária: weights 9 to 2, modulo 11; numbers of people begin with 1, 2, 3 or 45."""
    check = (11 - weighted(text, range(9, 1, -1)) % 11) % 11 % 10
    return (text[0] in "123" or text[:2] == "45") and check == int(text[8])


def ch_ahv(text: str) -> bool:
    """Zentrale Ausgleichsstelle: 756 and the check digit of EAN-13."""
    return text.startswith("756") and weighted(text, (1, 3) * 6 + (1,)) % 10 == 0


def cz_rodne_cislo(text: str) -> bool:
    """Zákon č. 133/2000 Sb.: ten digits are a multiple of 11; the month is 50 higher for women, 20 in full years."""
    month = int(text[2:4]) % 50
    return _short_day(f"{text[:2]}{month - 20 if month > 20 else month:02d}{text[4:6]}") and (
        int(text) % 11 == 0 or (int(text[:9]) % 11 == 10 and text[9] == "0"))


def tr_kimlik(text: str) -> bool:
    """Nüfus ve Vatandaşlık İşleri: ten-digit and eleven-digit checks."""
    odd, even = sum(map(int, text[0:9:2])), sum(map(int, text[1:8:2]))
    return text[0] != "0" and (7 * odd - even) % 10 == int(text[9]) and sum(map(int, text[:10])) % 10 == int(text[10])


def kr_rrn(text: str) -> bool:
    """Resident Registration Act, enforcement rules, before October 2020: weights 2 to 9 and 2 to 5, modulo 11."""
    weights = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
    return _short_day(text[:6]) and (11 - weighted(text[:12], weights) % 11) % 10 == int(text[12])


def jp_my_number(text: str) -> bool:
    """Ministry of Internal Affairs, ordinance 85 of 2014: weights 6 to 2, 7 to 2, modulo 11."""
    left = weighted(text[:11], (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return len(set(text)) > 1 and int(text[11]) == (0 if left <= 1 else 11 - left)


def mx_curp(text: str) -> bool:
    """RENAPO, Instructivo normativo: values by place, modulo 10."""
    values = "0123456789ABCDEFGHIJKLMN*OPQRSTUVWXYZ"
    total = sum(values.index(character) * (18 - place) for place, character in enumerate(text[:17]))
    return _short_day(text[4:10]) and (10 - total % 10) % 10 == int(text[17])


def cl_rut(text: str) -> bool:
    """Servicio de Registro Civil: weights 2 to 7 from the right, modulo 11, K for 10."""
    total = sum(int(digit) * (2 + place % 6) for place, digit in enumerate(reversed(text[:-1])))
    return "0123456789K0"[11 - total % 11] == text[-1] and int(text[:-1]) < 60_000_000


def ca_sin(text: str) -> bool:
    """Employment and Social Development Canada: Luhn; none begins with 0 or 8."""
    return text[0] not in "08" and luhn(text)


def za_id(text: str) -> bool:
    """Identification Act 68 of 1997: day of birth, citizenship 0 to 2, 8 or 9, Luhn."""
    return _short_day(text[:6]) and text[10] in "012" and text[11] in "89" and luhn(text)


def ro_cnp(text: str) -> bool:
    """Legea 105/1996: sex and century, day of birth, county, weights modulo 11."""
    check = weighted(text[:12], (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)) % 11
    return (text[0] in "12345678" and _short_day(text[1:7]) and (1 <= int(text[7:9]) <= 52 or text[7:9] == "70")
            and (1 if check == 10 else check) == int(text[12]))


def au_tfn(text: str) -> bool:
    """Australian Taxation Office: weights 1 4 3 7 5 8 6 9 10, modulo 11."""
    return int(text) > 0 and weighted(text, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def sg_nric(text: str) -> bool:
    """Immigration & Checkpoints Authority: weights 2 7 6 5 4 3 2, modulo 11; letters by series."""
    total = weighted(text[1:8], (2, 7, 6, 5, 4, 3, 2)) + (4 if text[0] in "TG" else 0)
    return ("JZIHGFEDCBA" if text[0] in "ST" else "XWUTRQPNMLK")[total % 11] == text[8]


def hr_oib(text: str) -> bool:
    """Zakon o osobnom identifikacijskom broju: ISO/IEC 7064 MOD 11,10."""
    return mod_11_10(text)


_S = "[ \u00a0.-]?"
NATIONAL_IDS = (
    NationalId("us_ssn", us_ssn, "SSA; IRS", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", rf"[0-9]{{3}}{_S}[0-9]{{2}}{_S}[0-9]{{4}}",
               "ssn|social security|itin|taxpayer"),
    NationalId("fr_nir", fr_nir, "INSEE",
               rf"[1-478]{_S}[0-9]{{2}}{_S}[0-9]{{2}}{_S}(?:[0-9]{{2}}|2[AB]){_S}[0-9]{{3}}{_S}[0-9]{{3}}"
               rf"{_S}[0-9]{{2}}"),
    NationalId("br_cpf", br_cpf, "Receita Federal", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", "[0-9]{9}-?[0-9]{2}",
               "cpf"),
    NationalId("ch_ahv", ch_ahv, "ZAS", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", rf"756(?:{_S}[0-9]){{10}}", "ahv|avs"),
    NationalId("be_national", be_national, "KB 3.4.1984",
               r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", "[0-9]{6}-?[0-9]{3}-?[0-9]{2}",
               r"rijksregister\w*|registre national|insz|niss|national number"),
    NationalId("cn_resident", cn_resident, "GB 11643-1999", "[1-8][0-9]{16}[0-9Xx]"),
    NationalId("kr_rrn", kr_rrn, "Resident Registration Act", "[0-9]{6}-[1-8][0-9]{6}"),
    NationalId("za_id", za_id, "Act 68 of 1997", "[0-9]{10}[012][89][0-9]|[0-9]{6} [0-9]{4} [012][89][0-9]"),
    NationalId("ro_cnp", ro_cnp, "Legea 105/1996", "[1-8][0-9]{12}"),
    NationalId("no_fodselsnummer", no_fodselsnummer, "Skatteetaten", "[0-9]{6} ?[0-9]{5}"),
    NationalId("se_personnummer", se_personnummer, "SKV 704", "(?:19|20)?[0-9]{6}[-+][0-9]{4}|(?:19|20)[0-9]{10}",
               "[0-9]{10}", r"personn\w*|pnr"),
    NationalId("fi_hetu", fi_hetu, "DVV", "[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]"),
    NationalId("cz_rodne_cislo", cz_rodne_cislo, "133/2000 Sb.", "[0-9]{6}/[0-9]{4}", "[0-9]{10}",
               r"rodn\w*(?: č\w*)?"),
    NationalId("cl_rut", cl_rut, "Registro Civil", r"[1-9][0-9]?\.[0-9]{3}\.[0-9]{3}-[0-9Kk]", "[0-9]{7,8}-[0-9Kk]",
               "rut|run"),
    NationalId("es_dni", es_dni, "Ministerio del Interior", "[0-9]{8}-?[A-HJ-NP-TV-Z]|[XYZ]-?[0-9]{7}-?[A-HJ-NP-TV-Z]",
               r"[0-9]{1,2}\.[0-9]{3}\.[0-9]{3}[- ]?[A-HJ-NP-TV-Z]", "dni|nif|nie"),
    NationalId("sg_nric", sg_nric, "ICA", "", "[STFGM][0-9]{7}[A-Z]", "nric|fin|identity card"),
    NationalId("dk_cpr", dk_cpr, "CPR-kontoret", "", "[0-9]{6}[- ]?[0-9]{4}", "cpr"),
    NationalId("de_steuer_id", de_steuer_id, "AO 139b", "", "[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
               r"steuer\S*|idnr|id-nr|tax id|tin"),
    NationalId("nl_bsn", nl_bsn, "Regeling BSN", "", rf"[0-9]{{4}}{_S}[0-9]{{2}}{_S}[0-9]{{3}}",
               r"bsn|burgerservice\w*|sofi\S*"),
    NationalId("pl_pesel", pl_pesel, "ewidencja ludności", "", "[0-9]{11}", "pesel"),
    NationalId("in_aadhaar", in_aadhaar, "UIDAI", "", "[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}",
               "aadhaar|aadhar|uidai|uid|आधार"),
    NationalId("pt_nif", pt_nif, "AT", "", "[0-9]{3} ?[0-9]{3} ?[0-9]{3}", "nif|contribuinte"),
    NationalId("tr_kimlik", tr_kimlik, "NVİ", "", "[1-9][0-9]{10}", "kimlik|tckn|tc"),
    NationalId("jp_my_number", jp_my_number, "Ordinance 85 of 2014", "", "[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}",
               "my number|マイナンバー|個人番号"),
    NationalId("ca_sin", ca_sin, "ESDC", "", "[1-79][0-9]{2}[ -]?[0-9]{3}[ -]?[0-9]{3}", "sin|social insurance"),
    NationalId("au_tfn", au_tfn, "ATO", "", "[0-9]{3} ?[0-9]{3} ?[0-9]{3}", "tfn|tax file"),
    NationalId("hr_oib", hr_oib, "Zakon o OIB", "", "[0-9]{11}", "oib"),
)
LETTERED = (
    NationalId("uk_nino", uk_nino, "HMRC NIM39110",
               "[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
               "(?:[0-9]{6}[A-D]| [0-9]{2} [0-9]{2} [0-9]{2} [A-D]| [0-9]{6} ?[A-D])"),
    NationalId("it_codice_fiscale", it_codice_fiscale, "DM 23.12.1976",
               "[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]"),
    NationalId("mx_curp", mx_curp, "RENAPO", "[A-Z][AEIOUX][A-Z]{2}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]"),
)
"""Those that begin with letters, and have no long run of digits."""

_BEFORE, _AFTER = r"(?<![0-9A-Za-z_.])(?<![0-9][-/])", r"(?![0-9A-Za-z_])(?![-./][0-9])"
_FREE = re.compile(_BEFORE + "(?:" + "|".join(f"(?P<{one.name}>{one.free})" for one in NATIONAL_IDS if one.free) + ")"
                   + _AFTER)
_NAMED = {one.name: one for one in (*NATIONAL_IDS, *LETTERED)}
_CUED = {one.name: re.compile(f"{_BEFORE}(?:{one.cued}){_AFTER}") for one in NATIONAL_IDS if one.cued}


def _cues() -> tuple[re.Pattern[str], list[tuple[str, ...]]]:
    """One pattern for all cues, and for each of its groups the ids that the cue may name."""
    meant: dict[str, list[str]] = {}
    for one in NATIONAL_IDS:
        for cue in filter(None, one.cue.split("|")):
            meant.setdefault(cue, []).append(one.name)
    pattern = "(?:" + "|".join(f"({cue})" for cue in meant) + r")(?!\w)"
    return re.compile(pattern), [tuple(names) for names in meant.values()]


_ANY_CUE, _MEANT = _cues()
_WORD = re.compile(r"\w+")
_BEGINNINGS = frozenset(cue[:3] for one in NATIONAL_IDS for cue in filter(None, one.cue.split("|")))
"""Three letters with which a word must begin to be a cue: a look at these costs a tenth of the pattern."""
_LETTERED = {one.name: re.compile(f"{one.free}(?![0-9A-Za-z])") for one in LETTERED}
_KEPT = re.compile("[^0-9A-Za-z]")
LOOK_BACK = 40
"""Characters before a number in which a cue may stand."""


def national_ids(text: str, found: Sequence[Run]) -> Iterator[Span]:
    """Numbers whose look and check digits are those of a row of `NATIONAL_IDS`."""
    for start, end in found:
        first, last = max(0, start - 2), min(len(text), end + 4)
        taken = False
        for match in _FREE.finditer(text, first, last):
            name = match.lastgroup or ""
            if _ended(text, match.end()) and _NAMED[name].check(_compact(match[0])) and _alone(text, match):
                taken = True
                yield Span(match.start(), match.end(), "national_id", name)
        if not taken and end - start <= 32:
            yield from _behind_cue(text, start, first, last)


def _alone(text: str, match: re.Match[str]) -> bool:
    """Eleven digits in a row are more often a key or a phone number than an id, unless they stand like a word."""
    if match[0].isdigit():
        return stands_alone(text, match.start(), match.end()) and not phone_cue(text, match.start())
    return not part_of_name(text, match.start())


def _behind_cue(text: str, start: int, first: int, last: int) -> Iterator[Span]:
    before = text[max(0, start - LOOK_BACK): start].lower()
    tried = set()
    for word in _WORD.finditer(before):
        cue = _ANY_CUE.match(before, word.start()) if word[0][:3] in _BEGINNINGS else None
        if not cue:
            continue
        for name in _MEANT[(cue.lastindex or 1) - 1]:
            if name not in tried:
                tried.add(name)
                match = _CUED[name].search(text, first, last)
                if match and _ended(text, match.end()) and _NAMED[name].check(_compact(match[0])):
                    yield Span(match.start(), match.end(), "national_id", name)
                    return


def lettered_id(text: str, start: int) -> Span | None:
    """The id that begins with the letters at `start`."""
    for name, pattern in _LETTERED.items():
        match = pattern.match(text, start)
        if match and _NAMED[name].check(_compact(match[0])):
            return Span(start, match.end(), "national_id", name)
    return None


def _compact(text: str) -> str:
    return _KEPT.sub("", text).upper()


def _ended(text: str, end: int) -> bool:
    """The end of the window is not the end of the text: does the number end here?"""
    after = text[end: end + 2]
    return not after or not (after[0].isalnum() or after[0] == "_" or (after[0] in "-./" and after[1:].isdigit()))
