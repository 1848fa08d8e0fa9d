"""Addresses: one form, scope, traps; links and directives of pages."""

import itertools
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.crawl.directives import Directives, directives
from gristmill.data.crawl.links import find_links
from gristmill.data.crawl.reading import retry_after
from gristmill.data.crawl.settings import Limits
from gristmill.data.crawl.urls import NoAddress, Scope, clean, key, shape, trap
from tests.shared import DATA, comes_to_an_end

REAL = DATA / "web/html_pages_144.tar.xz"


@pytest.mark.parametrize(("link", "expected"), [
    ("HTTP://User:pw@Exämple.ORG:80/a/../b c?q=ü&utm_source=x#part", "http://xn--exmple-cua.org/b%20c?q=%C3%BC"),
    ("http://h", "http://h/"), ("//x.org/a", "https://x.org/a"), ("../c?d", "https://base.org/c?d"),
    ("http://h:8080/", "http://h:8080/"), ("https://h:443/", "https://h/"), ("http://[::1]:80/x", "http://[::1]/x"),
    ("?page=2", "https://base.org/a/b?page=2"), (" \n/x\ty ", "https://base.org/xy"), ("/a%2Fb", "https://base.org/a%2Fb"),
    ("http://h/a/./b//c", "http://h/a/b//c"), ("http://h/a/..", "http://h/"), ("http://h/../../a/.", "http://h/a/"),
    ("http://h//evil/a/../b", "http://h//evil/b"), ("?fbclid=1&a=2", "https://base.org/a/b?a=2"),
])
def test_clean(link, expected):
    assert clean(link, "https://base.org/a/b") == expected


@pytest.mark.parametrize(("link", "reason"), [
    ("mailto:a@b", "other_scheme"), ("javascript:void(0)", "other_scheme"), ("ftp://h/x", "other_scheme"),
    ("file:///etc/passwd", "other_scheme"), ("http://", "no_address"), ("http://[::1", "no_address"),
    ("http://a b/", "no_address"), ("http://h:99999/", "no_address"), ("http://h\x00x/", "no_address"),
])
def test_no_addresses(link, reason):
    with pytest.raises(NoAddress) as problem:
        clean(link, "https://base.org/")
    assert problem.value.reason == reason


@given(st.text(max_size=60))
def test_cleaning_is_done_after_once(text):
    try:
        url = clean(text, "https://base.org/a/")
    except NoAddress:
        return
    assert clean(url) == url
    assert url.isascii()
    assert key(url)


def test_scope():
    start = ["https://www.example.org/docs/index.html"]

    def inside(kind, url, **more):
        return Scope(kind, start, **more).refusal(url)[0] == ""

    assert inside("host", "http://example.org/x")
    assert not inside("host", "http://docs.example.org/x")
    assert not inside("host", "http://example.org:8080/x")
    assert inside("domain", "http://docs.example.org/x")
    assert not inside("domain", "http://notexample.org/x")
    assert not inside("domain", "http://example.org.evil.net/")
    assert inside("prefix", "https://example.org/docs/a/b")
    assert not inside("prefix", "https://example.org/docs-old/")
    assert inside("any", "http://other.net/")
    assert Scope("any", start, ["/a/"], ["x$"]).refusal("http://h/b/")[0] == "not_included"
    assert Scope("any", start, ["/a/"], ["x$"]).refusal("http://h/a/x") == ("excluded", "exclude: x$")


@pytest.mark.parametrize(("url", "reason"), [
    ("http://h/" + "a/" * 20, "deep_path"), ("http://h/a/b/a/b/a/b/a/b", "repeated_path"),
    ("http://h/?a&b&c&d&e&f&g&h&i", "many_parameters"), ("http://h/" + "x" * 3000, "long_address"),
    ("http://h/login", "account_page"), ("http://h/user/Sign-In.php?next=x", "account_page"),
    ("http://h/wp-login.php", "account_page"),
    ("http://h/login-help/a", ""), ("http://h/a/b/a/b?x=1&y=2", ""),
])
def test_traps(url, reason):
    assert trap(url, Limits())[0] == reason


def test_shapes_differ_by_path_and_names_only():
    assert shape("http://h/c?m=1&y=2") == shape("https://www.h/c?y=9&m=8")
    assert shape("http://h/c?m=1") != shape("http://h/d?m=1")
    assert shape("http://h/c") == b""


def test_links():
    page = """<base href="/x/"><!-- <a href=no> --><a class="b>" href="a&amp;b"><A HREF='c' rel="ext NOFOLLOW">
    <script>"<a href=no>"</script><style><a href=no></style><textarea><a href=no></textarea><title><a href=no></title>
    <meta name=ROBOTS content="noindex, nofollow"><meta http-equiv=refresh content="0;URL='z'">
    <link rel=canonical href=can><link rel=stylesheet href=no><iframe src=frame></iframe><area href=d><a href="#top">
    <a href=a&amp;b><noscript><a href=plain></noscript><abbr href=no><a href="un"""
    found = find_links(page, 100)
    assert found.targets == ["a&b", "z", "can", "frame", "d", "plain"]
    assert (found.nofollow, found.cut, found.base) == (1, 0, "/x/")
    assert found.metas == [("robots", "noindex, nofollow")]
    signs = find_links('<a href="?a=1&copy=2&gtm=3&amp;b=&#52;&lt&reg x&nosuch;&eacute;">', 9).targets
    assert signs == ["?a=1&copy=2&gtm=3&b=4<® x&nosuch;é"]
    assert find_links("".join(f"<a href={i}>" for i in range(50)), 20).cut == 30


@pytest.mark.skipif(not REAL.is_file(), reason="the real pages are not on this machine")
def test_links_of_real_pages_are_those_of_a_whole_parser():
    resiliparse = pytest.importorskip("resiliparse.parse.html")
    seen = 0
    with tarfile.open(REAL) as archive:
        pages = (member for member in archive if member.name.endswith(".html"))
        for member in itertools.islice(pages, 20):  # the oracle takes 50 ms for a page
            text = archive.extractfile(member).read().decode("utf-8", "replace")  # type: ignore[union-attr]
            page = resiliparse.HTMLTree.parse(text).document
            links, others = set(), set()
            for one in page.query_selector_all("a[href], area[href]"):
                target = one.getattr("href").strip()
                if not target.startswith("#") and "nofollow" not in (one.getattr("rel") or "").lower().split():
                    links.add(target)
            for one in page.query_selector_all("link[href], iframe[src], frame[src]"):
                others.add((one.getattr("href") or one.getattr("src") or "").strip())
            found = set(find_links(text, 10**6).targets)
            assert links - {""} <= found, member.name
            assert found <= links | others, member.name
            seen += len(links)
    assert seen > 1000


@pytest.mark.parametrize("text", [
    '<a href="' * 50_000, "<a " * 100_000, "<!--" * 100_000, '<a x="' + "b" * 500_000, "<script>" * 100_000,
    "<a" + " x" * 300_000, "<div>" * 100_000 + "<a href=x>", "<a href=x " * 50_000,
])
def test_no_page_is_slow_to_look_through(text):
    with comes_to_an_end():
        assert len(find_links(text, 10).targets) <= 10


def test_directives():
    def say(*headers, metas=()):
        return directives([("x-robots-tag", value) for value in headers], metas, "gristmill")

    assert say("noindex, nofollow") == Directives(noindex=True, nofollow=True)
    assert say(metas=[("robots", "NONE")]) == Directives(noindex=True, nofollow=True)
    assert say("otherbot: noindex") == Directives()
    assert say("otherbot: noindex, nofollow") == Directives()
    assert say("Gristmill: noindex") == Directives(noindex=True)
    assert say("unavailable_after: 25 Jun 2010 15:00:00 PST, noindex") == Directives(noindex=True)
    assert say("max-snippet: 20", "noai, noimageai") == Directives(noai=True)
    assert say(metas=[("gristmill", "nofollow"), ("googlebot", "noindex")]) == Directives(nofollow=True)
    assert directives([("tdm-reservation", "1")], (), "x").reserved
    assert not directives([("tdm-reservation", "0")], (), "x").reserved
    assert directives([], [("tdm-reservation", " 1 ")], "x").reserved


def test_retry_after():
    assert retry_after("120", 0) == 120
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 40) == 60
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 4000) == 0
    assert retry_after("", 0) == retry_after("soon", 0) == retry_after("-5", 0) == 0
    assert retry_after("9" * 50, 0) == 1e9
