"""robots.txt by the rules of RFC 9309 and the cases that Google published with its parser."""


import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.crawl.robots import LONGEST, Rule, normal, parse_robots
from tests.shared import comes_to_an_end

SITE = "http://foo.bar"


def allowed(text, path, agent="FooBot"):
    return parse_robots(text.encode() if isinstance(text, str) else text, agent).allowed(SITE + path)


# (robots.txt, path, allowed), for the crawler FooBot
CASES = {
    "nothing is allowed to nobody in particular": ("", "/x", True),
    "a group without rules": ("User-agent: FooBot\n\nUser-agent: *\nDisallow: /\n", "/x", False),
    "an empty Disallow": ("User-agent: FooBot\nDisallow:\n\nUser-agent: *\nDisallow: /\n", "/x", True),
    "our group, not that for all (2.2.1)": ("User-agent: *\nDisallow: /\nUser-agent: foobot\nAllow: /\n", "/x", True),
    "case of the token": ("User-Agent: FOOBOT\nDisallow: /\n", "/x", False),
    "another token": ("User-agent: BarBot\nDisallow: /\n", "/x", True),
    "a part of our token is another": ("User-agent: Foo\nDisallow: /\n", "/x", True),
    "a longer token is another": ("User-agent: FooBot-Images\nDisallow: /\n", "/x", True),
    "a version after the token": ("User-agent: FooBot/2.1\nDisallow: /\n", "/x", False),
    "words after the token": ("User-agent: FooBot and others\nDisallow: /\n", "/x", False),
    "groups of one token are joined": (
        "User-agent: FooBot\nDisallow: /a\nUser-agent: BarBot\nDisallow: /b\nUser-agent: FooBot\nDisallow: /c\n",
        "/c", False),
    "the other group's rules are not ours": (
        "User-agent: FooBot\nDisallow: /a\nUser-agent: BarBot\nDisallow: /b\nUser-agent: FooBot\nDisallow: /c\n",
        "/b", True),
    "several agents, one group": ("User-agent: BarBot\nUser-agent: FooBot\nDisallow: /x\n", "/x", False),
    "a sitemap parts no agents": (
        "User-agent: FooBot\nSitemap: http://foo.bar/s.xml\nUser-agent: *\nDisallow: /\n", "/x", False),
    "an unknown line parts no agents": ("User-agent: FooBot\nUnknown: 1\nUser-agent: *\nDisallow: /\n", "/x", False),
    "a Crawl-delay ends a group": ("User-agent: *\nCrawl-delay: 9\n\nUser-agent: BarBot\nDisallow: /\n", "/x", True),
    "the longest match (2.2.2)": ("User-agent: *\nDisallow: /x\nAllow: /x/page.html\n", "/x/page.html", True),
    "a longer Disallow": ("User-agent: *\nAllow: /x\nDisallow: /x/page.html\n", "/x/page.html", False),
    "equally long: Allow": ("User-agent: *\nDisallow: /page\nAllow: /page\n", "/page", True),
    "order does not count": ("User-agent: *\nDisallow: /\nAllow: /page\nDisallow: /page.htm\n", "/page.htm", False),
    "RFC's example of wildcards": ("User-agent: *\nDisallow: *.gif$\nDisallow: /example/\nAllow: /publications/\n",
                                   "/a/b.gif", False),
    "... which is anchored": ("User-agent: *\nDisallow: *.gif$\n", "/a/b.gif?x", True),
    "... its prefix": ("User-agent: *\nDisallow: /example/\n", "/example/index.html", False),
    "paths are case-sensitive": ("User-agent: *\nDisallow: /X/\n", "/x/y", True),
    "names of fields are not": ("USER-AGENT: *\nDISALLOW: /x\n", "/x", False),
    "a wildcard in the middle": ("User-agent: *\nDisallow: /a*b\n", "/a123b/c", False),
    "a wildcard takes nothing, too": ("User-agent: *\nDisallow: /a*b$\n", "/ab", False),
    "`$` is the end": ("User-agent: *\nDisallow: /a$\n", "/a/b", True),
    "`$` elsewhere is itself": ("User-agent: *\nDisallow: /a$b\n", "/a$b", False),
    "the last piece may not overlap": ("User-agent: *\nDisallow: /aba*aba$\n", "/aba", True),
    "%2A is a star": ("User-agent: *\nDisallow: /file-%2A.html\n", "/file-*.html", False),
    "... and only that": ("User-agent: *\nDisallow: /file-%2A.html\n", "/file-x.html", True),
    "escapes (2.2.2): UTF-8": ("User-agent: *\nDisallow: /foo/bar/ツ\n", "/foo/bar/%E3%83%84", False),
    "... lower case": ("User-agent: *\nDisallow: /%e3%83%84\n", "/ツ", False),
    "... of a letter": ("User-agent: *\nDisallow: /foo/bar/%62%61%7A\n", "/foo/bar/baz", False),
    "... of a slash is not a slash": ("User-agent: *\nDisallow: /a%2Fb\n", "/a/b", True),
    "the query counts": ("User-agent: *\nDisallow: /*?id=\n", "/page?id=3", False),
    "comments": ("User-agent: * # all\nDisallow: /x # secret\n", "/x", False),
    "no colon": ("user-agent FooBot\ndisallow /x\n", "/x", False),
    "blanks around": ("  User-agent :  FooBot \n\tDisallow\t: /x\t\n", "/x", False),
    "a byte order mark": ("\ufeffUser-agent: FooBot\nDisallow: /x\n", "/x", False),
    "old line ends": ("User-agent: FooBot\rDisallow: /x\r", "/x", False),
    "rules before any group": ("Disallow: /x\nUser-agent: BarBot\nDisallow: /\n", "/x", True),
    "misspelt": ("User-agent: FooBot\nDissallow: /x\n", "/x", False),
    "no slash before": ("User-agent: FooBot\nDisallow: x/\n", "/x/y", False),
    "robots.txt itself": ("User-agent: *\nDisallow: /\n", "/robots.txt", True),
    "a page in place of it": ("<html><body>Not found: sorry</body></html>", "/x", True),
}


@pytest.mark.parametrize("case", CASES)
def test_rules(case):
    text, path, expected = CASES[case]
    assert allowed(text, path) is expected


def test_delay_and_sitemaps():
    text = (b"Sitemap: https://foo.bar/one.xml\nUser-agent: *\nCrawl-delay: 3\nUser-agent: FooBot\nCrawl-delay: 2.5\n"
            b"Crawl-delay: 9\nDisallow: /a\nsitemap: /two.xml\n")
    assert parse_robots(text, "foobot").delay == 2.5
    assert parse_robots(text, "other").delay == 3
    assert parse_robots(text, "other").sitemaps == ["https://foo.bar/one.xml", "/two.xml"]
    for wrong in (b"soon", b"-1", b"nan", b"inf", b""):
        assert parse_robots(b"User-agent: *\nCrawl-delay: " + wrong, "x").delay is None


def test_what_lies_beyond_500_kib_is_not_read_nor_the_line_that_is_cut():
    head = b"User-agent: *\nDisallow: /a\n#"
    head += b"x" * (LONGEST - 20 - len(head))
    cut = head + b"\nDisallow: /b/and/so/on\nDisallow: /c\n"
    assert not allowed(cut, "/a")
    assert allowed(cut, "/b/else")
    assert allowed(cut, "/c")
    assert not allowed(head + b"\nDisallow: /d", "/d")


def test_no_pattern_is_slow():
    text = "User-agent: *\nDisallow: /" + "*a" * 2000 + "b\n"
    with comes_to_an_end():
        assert allowed(text, "/" + "a" * 8000)


def _slow_match(pattern, path):
    """By the definition: `*` is any text, a last `$` the end, otherwise a prefix is enough."""
    if pattern == "$":
        return path == ""
    if not pattern:
        return True
    if pattern[0] == "*":
        return any(_slow_match(pattern[1:], path[i:]) for i in range(len(path) + 1))
    return path[:1] == pattern[0] and _slow_match(pattern[1:], path[1:])


@given(st.text("ab*", max_size=7), st.booleans(), st.text("ab", max_size=8))
def test_matching_is_that_of_the_definition(middle, anchored, rest):
    pattern = "/" + middle + "$" * anchored
    assert Rule(pattern, True).matches("/" + rest) == _slow_match(pattern, "/" + rest)


@given(st.text(max_size=20))
def test_one_form_of_escapes_is_reached_at_once(text):
    assert normal(normal(text)) == normal(text)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_robots_file(data):
    assert parse_robots(data, "FooBot").allowed("http://x/y") in (True, False)
