"""Telephone numbers: international (ITU-T E.164), of North America, and national ones of chosen countries.

Which digits are a number of a country is what the package `phonenumbers` knows; its patterns are asked directly, since
its own parser takes 55 microseconds a number.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from gristmill.core.errors import MachineError
from gristmill.data.pii.numbers import DASHES, SPACES, Run, part_of_name, stands_alone
from gristmill.data.pii.options import Span

_MOST_DIGITS = 15  # E.164, section 6.1
_DIGITS = re.compile("[0-9]+")
_NANP = re.compile(
    rf"(?<![0-9A-Za-z_.,])(?:1[{SPACES}.{DASHES}]{{1,2}})?(?:\([2-9][0-9]{{2}}\)[{SPACES}]?[.{DASHES}/]?[{SPACES}]?"
    rf"|[2-9][0-9]{{2}}[.{DASHES}/][{SPACES}]?)[2-9][0-9]{{2}}[{SPACES}.{DASHES}][0-9]{{4}}(?![0-9])")
_SPACED_NANP = re.compile(rf"(?:1[{SPACES}])?[2-9][0-9]{{2}}[{SPACES}][2-9][0-9]{{2}}[{SPACES}][0-9]{{4}}")
_LOCAL_NANP = re.compile(rf"[2-9][0-9]{{2}}[{DASHES}.{SPACES}][0-9]{{4}}")
_TRUNK = re.compile(rf"0[1-9][0-9]{{0,4}}\)?(?:(?:[{SPACES}]?[{DASHES}/][{SPACES}]?|[{SPACES}])?[0-9]{{2,8}}){{1,4}}"
                    r"(?:-[0-9])?")
_PAIRS = re.compile(rf"0[1-9](?P<s>[{SPACES}.{DASHES}])[0-9]{{2}}(?:(?P=s)[0-9]{{2}}){{3}}")
_NO_PHONE = re.compile(r"[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9])"
                       r"|(?:0?[1-9]|[12][0-9]|3[01])([./-])(?:0?[1-9]|1[0-2])\1(?:1[5-9]|20|21)[0-9]{2}(?![0-9])"
                   r"|(?:1[5-9]|20|21)[0-9]{2}([./-])(?:0[1-9]|1[0-2])\2(?:0[1-9]|[12][0-9]|3[01])(?![0-9])")
_EXTENSION = re.compile(r"[ ,]{0,2}(?:ext\.?|extension|x|#)[ .]?[0-9]{1,6}(?![0-9A-Za-z])", re.IGNORECASE)
_CUE = re.compile(
    r"(?<!\w)(?:[tpmf]:|(?:(?:tele|mobile |cell |home |work |office )?phones?|ph|tele?|tele(?:phone|fono?|fon|fax)|"
    r"t[eé]l(?:[eé]phone|[eé]fono)?|fax|mob(?:ile|il)?|m[oó]vil|cell(?:ular)?|celular|call(?:ing)?|freephone|dial|"
    r"whatsapp|sms|text|handy|fon|ruf(?:nummer)?|hotline|helpline|toll[- ]free|portable|appel(?:ez|er)?|llam[ae])"
    r"(?: us| me| him| her| them)?(?: now| free)?(?: on| at| au| al| unter)?(?: (?:no|nr|number|num)\.?)?(?: is)?)"
    r"[.:)\s/|#]{0,6}(?:[-–] )?\+?$", re.IGNORECASE)
_SHORT_GROUP = re.compile(rf"(?<=[0-9]{{4}})[.)/]?[{SPACES}][0-9]{{1,3}}$")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]{1,5}|[0-9]{4,}\.[0-9]+")
_OTHER_NUMBER = re.compile(r"(?:isbn|issn|doi|oclc|lccn|pmid|arxiv|asin|ean|upc|sku|part|item|model|order|invoice|"
                           r"case|ref|bsn|ssn|iban|zip|\bid)[^0-9\n]{0,12}$", re.IGNORECASE)


def phones(text: str, found: Sequence[Run], regions: Sequence[str]) -> Iterator[Span]:
    """Numbers that a country has really given out the digits for, apart from those kept for films and examples.

    International ones begin with `+` or `00`. National ones of `regions` need the usual groups (and a leading zero,
    outside North America) or a word such as `tel` before them.
    """
    for start, end in found:
        if (start and text[start - 1] in "+(") or text.startswith("00", start):
            span = _international(text, start, end)
            if span:
                yield span
                continue
        before = text[start - 1: start] if start else ""
        if (before and (before.isalnum() or before in "_.$€£¥#=%&@\\+?")) or part_of_name(text, start):
            continue
        one = _national(text, start, end, tuple(regions))
        if one:
            yield one
        elif "US" in regions or "CA" in regions:
            yield from _north_american(text, start, end)


def _international(text: str, start: int, end: int) -> Span | None:
    """The number at the beginning of a run that stands behind a `+`, or begins with 00."""
    plus = max(text.rfind("+", max(0, start - 3), start), -1)
    if plus >= 0 and text[plus + 1: start].strip(SPACES + "("):
        return None
    if plus < 0 and not text.startswith("00", start):
        return None
    first = plus if plus >= 0 else start
    before = text[first - 1: first] if first else ""
    if before and (before.isalnum() or before in "_.+"):
        return None
    part = text[start: min(end, start + 32)]
    groups = [(match[0], match.end()) for match in _DIGITS.finditer(part)]
    if plus < 0:
        if len(groups) < 2 and not phone_cue(text, start):
            return None
        groups[0] = (groups[0][0][2:], groups[0][1])
        if not groups[0][0]:
            del groups[0]
    if len(groups) > 1 and "(0)" in part:
        groups = [(digits, stop) for digits, stop in groups if not (digits == "0" and part[stop: stop + 1] == ")")]
    while groups:
        digits = "".join(group for group, _ in groups)
        stop = start + groups[-1][1]
        if 7 <= len(digits) <= _MOST_DIGITS and _ends(text, stop) and not _DECIMAL.fullmatch(text, start, stop):
            code = calling_code(digits)
            if code and valid(code, digits[len(code):]):
                if _for_films(code, digits[len(code):]):
                    return None
                number = text[first:stop]
                opened = first > 0 and text[first - 1] == "(" and number.count(")") > number.count("(")
                return Span(first - opened,
                            _with_extension(text, stop), "phone", "international")
        groups.pop()
    return None


def _national(text: str, start: int, end: int, regions: tuple[str, ...]) -> Span | None:
    """A number that is dialled within one of the regions: the run, or the run without a last short group."""
    if end - start > 32:
        return None
    begins = start - (text[start - 1: start] == "(" and ")" in text[start:end])
    cued = phone_cue(text, begins)
    if not cued and _OTHER_NUMBER.search(text, max(0, begins - 24), begins):
        return None
    while end - start >= 7:
        run = text[start:end]
        digits = "".join(_DIGITS.findall(run))
        if _ends(text, end) and len(digits) <= _MOST_DIGITS and not _NO_PHONE.match(run) and (
                _dialled(run, digits, regions) if cued else
                _shaped(run, digits, regions) and (len(run) > len(digits) or stands_alone(text, start, end))):
            return Span(begins, _with_extension(text, end), "phone", "national")
        short = _SHORT_GROUP.search(run)
        if not short:
            return None
        end = start + short.start()
    return None


def _dialled(run: str, digits: str, regions: tuple[str, ...]) -> bool:
    """Is this a number, given that a word before it says so?"""
    if _LOCAL_NANP.fullmatch(run):
        return "US" in regions or "CA" in regions
    if valid_within(digits, regions):
        return True
    code = calling_code(digits) if len(digits) > 10 else ""
    return bool(code) and valid(code, digits[len(code):])


def _shaped(run: str, digits: str, regions: tuple[str, ...]) -> bool:
    """Is this a number by its groups, or by a leading zero that amounts do not have?"""
    if _PAIRS.fullmatch(run) or (9 <= len(digits) <= 12 and _TRUNK.fullmatch(run)):
        return not _counting(run) and valid_within(digits, regions)
    if _SPACED_NANP.fullmatch(run) and ("US" in regions or "CA" in regions):
        return valid("1", digits[-10:]) and not _for_films("1", digits[-10:])
    return False


def _north_american(text: str, start: int, end: int) -> Iterator[Span]:
    """Numbers like (212) 736-5000 and 212-736-5000 anywhere in a run."""
    begins = start - (start > 0 and text[start - 1] == "(")
    for match in _NANP.finditer(text, begins, end):
        digits = "".join(_DIGITS.findall(match[0]))[-10:]
        if not _ends(text, match.end()) or not valid("1", digits) or _for_films("1", digits):
            continue
        if part_of_name(text, match.start()) or _OTHER_NUMBER.search(text, max(0, match.start() - 24), match.start()):
            continue
        yield Span(match.start(), _with_extension(text, match.end()), "phone", "national")


def phone_cue(text: str, start: int) -> bool:
    """Does a word such as `call` or `tel` stand right before?"""
    before = text[max(0, start - 36): start]
    word = before.rstrip(" .:)/|#-–+\n\t\xa0(")
    return word[-1:].isalpha() and _CUE.search(before) is not None


def _ends(text: str, end: int) -> bool:
    """Does the number end here, and not go on as a name, a larger number or a fraction?"""
    after = text[end: end + 2]
    if not after:
        return True
    if after[0].isalnum():
        return after[0] in "xX" and after[1:].isdigit()
    return not (after[0] == "_" or (after[0] in f",.:{DASHES[1:]}" and after[1:].isdigit()) or after[0] in "%°")


def _with_extension(text: str, end: int) -> int:
    match = _EXTENSION.match(text, end)
    return match.end() if match else end


def _counting(run: str) -> bool:
    """Do the groups count up (01 02 03 04 05)?"""
    groups = [int(group) for group in _DIGITS.findall(run)]
    return len(groups) > 2 and all(b - a == 1 for a, b in itertools.pairwise(groups))


def _for_films(code: str, national: str) -> bool:
    """Numbers that are given to nobody: 555-0100 to 555-0199 of North America (NANPA), and those that Ofcom keeps for
    drama."""
    if code == "1":
        return national[3:8] == "55501"
    return code == "44" and national.startswith(("2079460", "7700900", "1632960", "1134960", "1144960", "1154960",
                                                 "1164960", "1174960", "1184960", "1214960", "1314960", "1414960",
                                                 "1514960", "1614960", "1914980", "2890180", "2920180", "8081570"))


def calling_code(digits: str) -> str:
    """The country calling code (one to three digits) at the beginning; empty if there is none."""
    codes = _codes()
    return next((digits[:size] for size in (1, 2, 3) if digits[:size] in codes), "")


def valid(code: str, national: str) -> bool:
    """Are these digits a number under this country calling code?"""
    pattern = _pattern_of(code)
    return pattern is not None and pattern.fullmatch(national) is not None


@functools.lru_cache(maxsize=64)
def _regional(regions: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Numbers without and with their trunk prefix."""
    metadata = _library().PhoneMetadata.metadata_for_region
    known = [one for region in regions if (one := metadata(region)) is not None]
    bare = "|".join(_descriptions(one) for one in known) or r"(?!)"
    prefixed = "|".join(f"{one.national_prefix}(?:{_descriptions(one)})" for one in known
                        if one.national_prefix and one.national_prefix.isdigit()) or r"(?!)"
    return re.compile(bare), re.compile(f"{prefixed}|{bare}")


def valid_within(digits: str, regions: tuple[str, ...]) -> bool:
    """Are these digits a number as it is dialled in one of the regions, with or without the trunk prefix?"""
    if "US" in regions and digits[-10:][3:8] == "55501" and len(digits) in (10, 11):
        return False
    if "GB" in regions and digits.startswith("0") and _for_films("44", digits[1:]):
        return False
    return _regional(regions)[1].fullmatch(digits) is not None


_TYPES = ("fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "personal_number", "voip", "pager", "uan",
          "voicemail")


def _descriptions(metadata: Any) -> str:
    """One pattern for the numbers of every type."""
    found = []
    for name in _TYPES:
        one = getattr(metadata, name)
        if one is not None and one.national_number_pattern and one.national_number_pattern != "NA":
            lengths = "|".join(rf"[0-9]{{{size}}}" for size in one.possible_length if size > 0)
            ahead = f"(?=(?:{lengths})$)" if lengths else ""
            found.append(f"{ahead}(?:{one.national_number_pattern})")
    return "|".join(found) or r"(?!)"


@functools.cache
def _pattern_of(code: str) -> re.Pattern[str] | None:
    library = _library()
    regions = library.COUNTRY_CODE_TO_REGION_CODE.get(int(code), ())
    known = [library.PhoneMetadata.metadata_for_nongeo_region(int(code)) if region == "001"
             else library.PhoneMetadata.metadata_for_region(region) for region in regions]
    return re.compile("|".join(_descriptions(one) for one in known if one)) if any(known) else None


@functools.cache
def _codes() -> frozenset[str]:
    return frozenset(map(str, _library().COUNTRY_CODE_TO_REGION_CODE))


@functools.cache
def _library() -> Any:
    try:
        import phonenumbers
    except ImportError as error:
        raise MachineError("the package phonenumbers is not installed", where="pii: kinds: phone",
                           fix="pip install phonenumberslite, or leave `phone` out of `kinds`") from error
    return phonenumbers
