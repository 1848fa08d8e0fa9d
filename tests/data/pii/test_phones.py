"""Phone numbers against the library whose patterns are used: an example of every country, and random digits."""

from __future__ import annotations

import random

import pytest

from gristmill.data.pii import find
from gristmill.data.pii.phones import calling_code, valid

phonenumbers = pytest.importorskip("phonenumbers")
REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)


@pytest.mark.parametrize("style", ["INTERNATIONAL", "E164"])
def test_an_example_of_every_country_is_found_whole(style: str) -> None:
    missed = []
    for region in REGIONS:
        for kind in (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE):
            number = phonenumbers.example_number_for_type(region, kind)
            if number is None:
                continue
            said = phonenumbers.format_number(number, getattr(phonenumbers.PhoneNumberFormat, style))
            text = f"Ask {said}, please."
            found = [text[span.start: span.end] for span in find(text)]
            if found != [said] and "55501" not in said.replace("-", "").replace(" ", ""):
                missed.append((region, said, found))
    assert missed == []


def test_what_counts_as_a_number_is_what_the_library_says() -> None:
    chance = random.Random(0)
    agreed = {True: 0, False: 0}
    for _ in range(3000):
        region = chance.choice(REGIONS)
        example = phonenumbers.example_number(region)
        national = phonenumbers.national_significant_number(example)
        digits = "".join(chance.choice("0123456789") if chance.random() < 0.3 else digit for digit in national)
        number = phonenumbers.PhoneNumber(example.country_code, int(digits), italian_leading_zero=digits[0] == "0",
                                          number_of_leading_zeros=len(digits) - len(digits.lstrip("0")) or None)
        expected = phonenumbers.is_valid_number(number)
        assert valid(str(example.country_code), digits) == expected, (region, digits)
        agreed[expected] += 1
    assert min(agreed.values()) > 300


def test_calling_codes_are_prefix_free() -> None:
    assert [calling_code(digits) for digits in ("1212", "4420", "35312", "7495", "2101", "")] == [
        "1", "44", "353", "7", "", ""]
