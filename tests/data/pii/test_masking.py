"""Masking: once is enough, what is left is the same text, stand-ins belong to nobody."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.pii import Pii, examine, find, masked
from gristmill.data.signals.pii import pii_v1
from tests.data.pii.test_spans import ALPHABET, FOUND

TEXT = "Ada <ada@lovelace.org> or +44 20 7946 1234, 81.2.69.142; card 4111 1111 1111 1111; again ada@lovelace.org"


def test_a_tag_for_each() -> None:
    assert masked(TEXT) == ("Ada <<EMAIL>> or <PHONE>, <IP>; card <CARD>; again <EMAIL>",
                            {"card": 1, "email": 2, "ip": 1, "phone": 1})
    assert masked("") == ("", {})


def test_a_stand_in_is_the_same_for_the_same_value_and_another_for_another() -> None:
    fake = Pii(replacement="fake")
    text, _ = masked(TEXT, fake)
    assert text.count("@example.com") == 2
    assert len(set(text.split("user")[1:])) == 2
    assert text.split("user")[1][:4] == text.split("user")[2][:4]
    assert masked("ada@lovelace.org", fake)[0] == masked("Write: ADA@lovelace.org", fake)[0].removeprefix("Write: ")
    assert masked("ada@lovelace.org", fake) != masked("ada2@lovelace.org", fake)


@pytest.mark.parametrize(("kind", "value"), [(kind, values[0]) for kind, values in FOUND.items()])
@pytest.mark.parametrize("replacement", ["tag", "fake"])
def test_every_stand_in_is_left_alone(kind: str, value: str, replacement: str) -> None:
    options = Pii(replacement=replacement)  # type: ignore[arg-type]
    text, counts = masked(f"so {value} is", options)
    assert counts == {kind: 1}
    assert value not in text
    assert find(text) == []
    assert text.startswith("so ")
    assert text.endswith(" is")


@settings(deadline=None, max_examples=400)
@given(st.lists(ALPHABET, max_size=25).map("".join), st.sampled_from(["tag", "fake"]))
def test_twice_is_once(text: str, replacement: str) -> None:
    options = Pii(replacement=replacement)  # type: ignore[arg-type]
    once, _ = masked(text, options)
    assert masked(once, options) == (once, {})


@settings(deadline=None)
@given(st.lists(ALPHABET, max_size=25).map("".join))
def test_what_was_not_found_stays_byte_for_byte(text: str) -> None:
    spans = find(text)
    if not spans:
        assert masked(text) == (text, {})
    else:
        cleaned, counts = masked(text)
        assert sum(counts.values()) >= len(spans)
        assert cleaned.startswith(text[: spans[0].start])


def test_chains_of_neighbours_do_not_unravel_one_by_one() -> None:
    cleaned, _ = masked("+49.30.123456" * 20_000)  # one pass each would take hours
    assert cleaned.count("<PHONE>") == 1


def test_actions() -> None:
    assert examine(TEXT, Pii()).text == TEXT
    assert examine(TEXT, Pii()).counts == {}
    report = examine(TEXT, Pii(action="report"))
    assert (report.text, report.dropped, report.counts["email"]) == (TEXT, False, 2)
    mask = examine(TEXT, Pii(action="mask"))
    assert "lovelace" not in mask.text
    assert not mask.dropped
    assert examine(TEXT, Pii(action="drop", least=5)).dropped
    kept = examine(TEXT, Pii(action="drop", least=6))
    assert not kept.dropped
    assert "lovelace" not in kept.text
    assert examine(TEXT, Pii(action="drop")).detail == "1 card, 2 email, 1 ip, 1 phone"


def test_in_programs_only_addresses_are_masked() -> None:
    code = "LIMIT = 4111111111111111  # ask ada@lovelace.org, 212-736-5000\n"
    assert masked(code, code=True) == ("LIMIT = 4111111111111111  # ask <EMAIL>, 212-736-5000\n", {"email": 1})


@pytest.mark.parametrize(("wrong", "field"), [
    ({"kinds": []}, "kinds"), ({"kinds": ["email", "email"]}, "kinds"), ({"least": 0}, "least"),
    ({"regions": ["usa"]}, "regions"),
])
def test_options_that_make_no_sense(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Pii(**wrong)  # type: ignore[arg-type]


def test_the_signal_counts_finds() -> None:
    found = pii_v1(TEXT)
    assert {name: value for name, value in found.items() if value} == {
        "card": 1, "email": 2, "ip": 1, "phone": 1, "total": 5}
    assert pii_v1("")["total"] == 0
