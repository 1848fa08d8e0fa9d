"""What is found and what is not, by kind; and what must hold for any text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.pii import CODE_KINDS, KINDS, Pii, Span, find
from tests.shared import comes_to_an_end

FOUND = {
    "email": [
        "ada@lovelace.org", "Ada.B-C_d+list@mail.lovelace.co.uk", "o.a1@x.io", "info@müller.de", "user@host.museum",
        "x@xn--mller-kva.de", "info@пример.рф",
    ],
    "phone": [
        "+44 20 7946 1234", "+44 (0)20 7946 1234", "+1 (212) 736-5000", "+1.2127365000", "+49 30 901820",
        "+33 1 42 68 53 00",
        "+91 98765 43210", "+55 11 91234-5678", "+86 138 1234 5678", "0049 30 901820", "(212) 736-5000", "212-736-5000",
        "212.736.5000", "1-800-273-8255", "212 736 5000", "01 42 68 53 00", "01.42.68.53.00", "020 7946 1234",
        "07885 577 899", "030/901820", "089 / 12345678", "+1 212-736-5000 ext. 12", "212-736-5000 x3",
    ],
    "ip": ["81.2.69.142", "193.0.14.129", "2a00:1450:4001:81b::200e", "2001:500:2f::f"],
    "card": ["4111 1111 1111 1111", "4111111111111111", "5555-5555-5555-4444", "3782 822463 10005",
             "6011 1111 1111 1117",
             "3530 1113 3330 0000", "2223 0031 2200 3222"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR14 2004 1010 0505 0001 3M02 606",
             "NO93 8601 1117 947", "MT84 MALT 0110 0001 2345 MTLC AST0 01S"],
    "national_id": ["219-45-1234", "AB 12 34 56 C", "AB123456C", "RSSMRA85T10A562S", "12345678Z", "X1234567L",
                    "529.982.247-25", "11010519491231002X", "811228-9874", "131052-308T", "756.9217.0769.85",
                    "2 55 08 14 168 025 38", "BOXW310820HNERXN09"],
    "wallet": ["1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy",
               "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"],
}
BEHIND_CUE = [("national_id", "BSN: ", "111222333"), ("national_id", "PESEL ", "44051401359"),
              ("national_id", "CPF nº ", "52998224725"),
              ("national_id", "Aadhaar No. ", "2341 2341 2346"), ("national_id", "Steuer-IdNr. ", "86 095 742 719"),
              ("national_id", "SSN ", "219451234"), ("national_id", "SIN: ", "123-456-782"),
              ("national_id", "TFN ", "123 456 782"),
              ("phone", "Tel. ", "02382 59743"), ("phone", "call ", "555-7832"), ("phone", "Phone: ", "2127365000"),
              ("phone", "my cell number is ", "212 736 5000"), ("card", "card=", "4111111111111111")]
NOTHING = [
    "version 1.2.3.44 of 10.0.19041.388, Chrome/91.0.4472.124, name-1.22.33.44.tar", "section 12.13.14.15",
    "1.2.3.4 and 10.1.2.3",
    "192.168.1.20, 127.0.0.1, 203.0.113.9, 255.255.255.0, 224.0.0.251, 11.22.33.444, 1234.56.78.90, 81.2.69.142.5",
    "12:30:22 and aa:bb:cc:dd:ee:ff and std::vector and 2001:db8::1 and fe80::1 and ::1",
    "2021-03-04 10:11:12 and 04.03.2021",
    "1914-1918, 1939-1945, pp. 721-742, 2018", "ISBN 978-3-16-148410-0, 0-306-40615-2, ISSN 0378-5955, doi:10.1000/182",
    "$1,234,567.89 and 1 234 567 890 and 12,345,678,901",
    "3.14159265358979 and 0.4111111111111111 and 1e-10 and 12345678901234567890",
    "git@github.com:owner/name.git and https://user:secret@host.com/x and ftp://me@ftp.gnu.org",
    "a@b and @handle and x @ y.com and foo@bar.T",
    "user@example.com, me@mail.example, you@localhost.test, root@server.local",
    "+1 202 555 0123 and 020 7946 0958 and +44 7700 900123",
    "4111 1111 1111 1112 and 1234 5678 9012 3456 and 0000 0000 0000 0000",
    "DE88 3704 0044 0532 0130 00 and XX00 0000 0000 1234",
    "219-00-1234, 666-45-1234, 078-05-1120, 000-00-1234", "BG123456A and RSSMRA85T10A562T and 12345678A",
    "111222333 and 44051401359 and 2341 2341 2346 without a word", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
    "0x" + "0" * 40 + " and 0xdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
    "style.css?041911-154924 and text-226274621 and photo-09302016-1200x630",
    "01 02 03 04 05 and 2001 2002 2003 2004", "3,000,000,000 people; x = 162000 - 12000 = 150000",
    "+35236450.6 and -12.3456789",
    "<script src='/a/1650602309375/b'> ca-pub-5205395249730975 fbq('init', '2297786353677208')",
    "the SSN of 000-12-3456 and phone 12",
]


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in FOUND.items() for value in values])
def test_found_whole_in_any_surroundings(kind: str, value: str) -> None:
    for before, after in (("", ""), ("Write: ", "."), ("so (", ") it is"), ("\n", "\n"), ("first, ", ", then")):
        text = before + value + after
        assert [(span.kind, text[span.start: span.end]) for span in find(text)] == [(kind, value)], text


@pytest.mark.parametrize(("kind", "cue", "value"), BEHIND_CUE)
def test_found_behind_a_word_that_names_it_only(kind: str, cue: str, value: str) -> None:
    text = f"{cue}{value}."
    assert [(span.kind, text[span.start: span.end]) for span in find(text)] == [(kind, value)]
    if value not in ("212 736 5000", "02382 59743"):  # their groups are enough
        assert find(f"The value is '{value}'.") == []


@pytest.mark.parametrize("text", NOTHING)
def test_what_is_no_personal_data(text: str) -> None:
    assert [(span, text[span.start: span.end]) for span in find(text)] == []


def test_overlaps_are_settled_by_kind() -> None:
    assert [span.kind for span in find("call 4111 1111 1111 1111 now")] == ["card"]
    text = "call.212-736-5000@mail.org"
    assert [(span.kind, text[span.start: span.end]) for span in find(text)] == [("email", text)]


def test_only_the_kinds_that_are_wanted() -> None:
    text = "ada@lovelace.org, +44 20 7946 1234, 81.2.69.142, 219-45-1234"
    assert [span.kind for span in find(text)] == ["email", "phone", "ip", "national_id"]
    assert [span.kind for span in find(text, Pii(kinds=["phone", "ip"]))] == ["phone", "ip"]
    assert [span.kind for span in find(text, code=True)] == ["email", "ip"]
    assert set(CODE_KINDS) < set(KINDS)


def test_regions_say_which_national_numbers_are_known() -> None:
    assert find("030/901820", Pii(regions=["US"])) == []
    assert find("(212) 736-5000", Pii(regions=["DE"])) == []
    assert [span.form for span in find("+49 30 901820", Pii(regions=[]))] == ["international"]


ALPHABET = st.one_of(
    st.sampled_from(["@", ".", "-", "+", "(", ")", "/", ":", " ", "\n", "<", ">", "_", "0", "1", "4", "212", "736",
                     "5000", "é", "中",
                     "a", "X", "com", "tel ", "ssn ", "AB12", "DE89", "<PHONE>", "0x", "bc1", "::", "2a00:", "\u00a0",
                     "'", "="]),
    st.sampled_from([value for values in FOUND.values() for value in values]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(ALPHABET, max_size=25).map("".join))
def test_finds_are_in_order_and_do_not_overlap(text: str) -> None:
    spans = find(text)
    assert all(isinstance(span, Span) and 0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))


UNITS = ["1", "1 ", "1-", "0.", "@", "a@", "a@a.", "a@a.co", "a.", "+1", "+1 ", "(", "1.1.1.", "81.2.69.142.", "2000:",
         "AA11", "0x",
         "bc1q", "L1", "tel ", "tel 1", "4" * 15 + " ", "DE89 3704 ", "RSSMRA85", "x-1", "://a@", "a-a@", "....",
         "+49.30.123456",
         "(212) 736-5000", "1 1 1 1 x", "ssn 1"]


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear_for_whatever_repeats(unit: str) -> None:
    """Far below a second; as much as the square of the length would be minutes."""
    text = unit * (300_000 // len(unit))
    with comes_to_an_end():
        spans = find(text)
    assert all(span.end <= len(text) for span in spans)
