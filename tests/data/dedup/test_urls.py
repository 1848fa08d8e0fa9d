import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.dedup.urls import canonical_url, url_hash

SAME = [
    ["http://example.com/b?a=1&b=2", "HTTPS://WWW.Example.com:443/a/../b/./index.html?utm_source=x&b=2&a=1#top",
     "//example.com/b/?b=2&fbclid=3&a=1", " http://user:pw@example.com./b?a=1&&b=2\n", "http://www2.example.com:80/b?b=2&a=1"],
    ["http://example.com/~foo/ü", "http://example.com/%7Efoo/%c3%bc", "http://EXAMPLE.com/~foo/%C3%BC/"],
    ["http://bücher.de/x", "http://xn--bcher-kva.de/x", "https://BÜCHER.de/x"],
    ["http://a.org", "http://a.org/", "https://a.org/index.php", "http://a.org/;jsessionid=12AB"],
]
OTHER = [
    "http://a.org/x", "http://a.org/X", "http://a.org/x?id=1", "http://a.org/x?id=2", "http://a.org:8080/x",
    "http://b.a.org/x", "http://a.org/x%2Fy", "http://a.org/x/y", "http://a.org/#!/x", "http://www.com/", "http://a.org/x?q=a%26b",
    "http://a.org/x?q=a&b",
]


@pytest.mark.parametrize("urls", SAME)
def test_addresses_of_one_page_are_one(urls: list[str]) -> None:
    assert len({canonical_url(url) for url in urls}) == 1
    assert len({url_hash(url) for url in urls}) == 1


def test_addresses_of_different_pages_stay_different() -> None:
    assert len({url_hash(url) for url in OTHER}) == len(OTHER)


@pytest.mark.parametrize(
    "url", ["", "mailto:a@b.c", "http://[::1", "http://a.b:80a/", "file:///etc/x", "http://", "just text"])
def test_what_is_no_address_equals_nobody(url: str) -> None:
    assert canonical_url(url) == ""
    assert url_hash(url) == b""


@given(st.text(max_size=40), st.sampled_from(["", "http://", "https://a.org/", "http://a.org/?"]))
def test_nothing_raises_and_the_canonical_form_is_its_own(text: str, begin: str) -> None:
    canonical = canonical_url(begin + text)
    if canonical:
        assert canonical_url(f"http://{canonical}") == canonical
