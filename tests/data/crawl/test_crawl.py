"""Whole crawls of sites on this machine: what is kept, what is not and why, and how politely."""

import contextlib
import gzip
import itertools
import json
import threading

import pytest
from warcio.archiveiterator import ArchiveIterator as Warcio

from gristmill.core.errors import UserError
from gristmill.data.documents import Reject
from gristmill.data.sources import Warc
from tests.data.crawl.archives import pages, path, records, rejects, stored, summary
from tests.data.crawl.site_server import html
from tests.shared import HANG, comes_to_an_end

GIVES = {"/": html("the start", "/a", "/b", "http://elsewhere.example/x"), "/a": html("a", "/b", "/c"),
         "/b": html("b", "/"), "/c": html("c", "/d"), "/d": html("d")}


def read(folder, **fields):
    source = Warc(path=str(folder), **fields)
    found = [one for item in source.inputs() for part in source.ranges(item, 1 << 20)
             for one in source.read(part, "web")]
    return [one for one in found if not isinstance(one, Reject)], [one for one in found if isinstance(one, Reject)]


def test_from_addresses_to_documents(site, run):
    at = site(GIVES)
    folder, counts = run(at)
    assert stored(folder) == ["/", "/a", "/b", "/c", "/d"]
    assert at.often() == dict.fromkeys(["/robots.txt", "/", "/a", "/b", "/c", "/d"], 1)
    assert [kind for kind, _, _ in records(folder)] == ["warcinfo", *["response", "request"] * 5]
    documents, left = read(folder, verify=True)
    assert left == []
    assert [d.metadata["url"] for d in documents] == [at.url + p for p in ("/", "/a", "/b", "/c", "/d")]
    assert documents[1].text.startswith("On a")
    assert documents[1].metadata["title"] == "About a"
    assert documents[0].metadata["time"].endswith("Z")
    assert {d.domain for d in documents} == {"127.0.0.1"}
    assert rejects(folder) == {"http://elsewhere.example/x": ("out_of_scope", "scope: host")}
    index = pages(folder)
    assert (index["/d"]["depth"], index["/d"]["via"], index["/d"]["status"]) == (3, at.url + "/c", 200)
    with (folder / index["/c"]["file"]).open("rb") as file:
        file.seek(index["/c"]["offset"])
        assert b"On c" in gzip.decompress(file.read(index["/c"]["length"]))
    assert counts == summary(folder)
    assert (counts["pages"], counts["requests"], counts["found"]) == (5, 6, 6)
    with (folder / "pages-00000.warc.gz").open("rb") as file:
        assert sum(record.rec_type == "response" for record in Warcio(file, check_digests="raise")) == 5
    agent = at.log[0].headers["user-agent"]
    assert agent.startswith("gristmill/")
    assert agent.endswith("(+mailto:tests@example.org)")
    assert run(at)[1] == counts  # complete: nothing is asked again
    assert len(at.log) == 6
    with pytest.raises(UserError, match="other settings"):
        run(at, depth=2)


def test_robots_are_obeyed_also_behind_redirects(site, run):
    other = site({"/rules": "User-agent: gristmill\nDisallow: /secret\nAllow: /secret/open\n"})
    links = ("/secret/1", "/secret/open", "/go")
    at = site({"/": html("x", *links), "*": html("y"), "/go": (302, {"Location": "/secret/2"}, b""),
               "/robots.txt": (301, {"Location": other.url + "/rules"}, b"")})
    folder, counts = run(at)
    assert stored(folder) == ["/", "/secret/open", "/go"]
    assert {p: r for p, (r, _) in rejects(folder).items()} == {"/secret/1": "robots_disallowed",
                                                               "/secret/2": "robots_disallowed"}
    assert at.often() == {"/": 1, "/robots.txt": 1, "/secret/open": 1, "/go": 1}
    assert counts["robots_fetched"] == 1


@pytest.mark.parametrize(("status", "headers", "reason", "asked"), [
    (404, {}, "", 1), (403, {}, "", 1), (500, {}, "robots_unavailable", 2), (503, {}, "robots_unavailable", 2),
    (429, {}, "robots_unavailable", 2), (301, {"Location": "/robots.txt"}, "", 6),
    (301, {"Location": "http://10.0.0.1/robots.txt"}, "address_refused", 1),
])
def test_robots_that_fail(site, run, status, headers, reason, asked):
    at = site({"/": html("x"), "/robots.txt": (status, headers, b"User-agent: *\nDisallow: /")})
    if reason:
        with pytest.raises(UserError, match=f"1 x {reason}"):
            run(at, politeness={"tries": 2})
        assert at.asked() == []
    else:
        assert run(at)[1]["pages"] == 1
    assert at.often()["/robots.txt"] == asked


def test_robots_that_come_back(site, run):
    turns = itertools.count()

    def robots(handler):
        handler.answer(*((503, {}, b"") if next(turns) < 2 else (200, {}, b"User-agent: *\nDisallow: /no\n")))

    at = site({"/": html("x", "/no", "/yes"), "*": html("y"), "/robots.txt": robots})
    folder, _ = run(at)
    assert stored(folder) == ["/", "/yes"]


def test_one_request_at_a_time_with_the_pause_that_was_set(site, run):
    both = threading.Barrier(2)

    def met(handler):
        both.wait(HANG)  # side by side, or else this never ends
        handler.answer(200, {}, GIVES["/"].encode())

    at, other = site({**GIVES, "/": met, "*": html("more")}), site({**GIVES, "/": met})
    run([at, other], politeness={"delay": 0.15})
    for one in (at, other):
        assert one.most_under_way == 1
        gaps = [b.began - a.ended for a, b in itertools.pairwise(one.log)]
        assert len(gaps) == 5
        assert min(gaps) >= 0.15, gaps  # at least: by the clock of the one who is asked


def test_crawl_delay_stands_over_ours_up_to_the_cap(site, run):
    at = site({"/": html("x", "/a"), "/a": html("a"), "/robots.txt": "User-agent: *\nCrawl-delay: 0.3\n"})
    run(at)
    assert min(b.began - a.ended for a, b in itertools.pairwise(at.log)) >= 0.3
    slow = site({"/": html("x", "/a"), "/a": html("a"), "/robots.txt": "User-agent: *\nCrawl-delay: 500\n"})
    run(slow, folder="slow", politeness={"longest_delay": 0.2})
    assert all(b.began - a.ended >= 0.2 for a, b in itertools.pairwise(slow.log))  # and not 500


def test_bounds_on_what_is_under_way(site, run):
    two = threading.Barrier(2)

    def met(handler):
        with contextlib.suppress(threading.BrokenBarrierError):
            two.wait(HANG)  # two at a time, or else this never ends
        handler.answer(200, {}, html("y").encode())

    pages = {"/": html("x", *(f"/{i}" for i in range(6))), "*": html("y")}
    many = [site(pages, pause=0.05), site(pages, pause=0.05), site({**pages, "/0": met, "/1": met}, pause=0.05)]
    run(many, politeness={"per_host": 3, "total": 4})
    assert max(one.most_under_way for one in many) <= 3
    assert many[2].most_under_way > 1
    events = sorted([(r.began, 1) for one in many for r in one.log] + [(r.ended, -1) for one in many for r in one.log])
    assert max(itertools.accumulate(step for _, step in events)) <= 4


def test_limits_on_pages_hosts_and_depth(site, run):
    chain = {f"/{i}": html(f"page {i}", f"/{i + 1}") for i in range(20)}
    at = site({"/": html("x", "/0"), **chain})
    folder, _ = run(at, depth=3)
    assert stored(folder) == ["/", "/0", "/1", "/2"]
    assert rejects(folder) == {"/3": ("too_deep", "4 links away, depth: 3")}
    folder, counts = run(at, pages=4, folder="few")
    assert (counts["pages"], rejects(folder)) == (4, {"/3": ("page_limit", "pages: 4")})
    other = site({"/": html("x", "/0"), **chain})
    folder, counts = run([at, other], pages_per_host=3, folder="hosts")
    assert counts["pages"] == 6
    assert counts["left_out"] == {"host_limit": 2}


def test_traps_end(site, run):
    def calendar(handler):
        month = int(handler.path.rpartition("=")[2])
        links = f"/calendar?month={month + 1}", f"/calendar?month={month - 1}"
        handler.answer(200, {}, html("a month", *links).encode())

    def tree(handler):
        handler.answer(200, {}, html("a branch", handler.path + "/left", handler.path + "/right").encode())

    pages_ = {f"/calendar?month={i}": calendar for i in range(-60, 60)}
    for depth in range(1, 8):
        pages_ |= {f"/tree/{'/'.join(parts)}": tree for parts in itertools.product(("left", "right"), repeat=depth)}
    at = site({"/": html("x", "/calendar?month=0", "/tree/left", "/login", "/shop/cart.php?add=3"), **pages_})
    folder, counts = run(at, depth=1000, limits={"variants": 12, "repeated_parts": 2})
    assert counts["left_out"]["many_variants"] == 2
    assert counts["left_out"]["account_page"] == 2
    assert sum("calendar" in p for p in stored(folder)) == 12
    assert sum("tree" in p for p in stored(folder)) == 1 + 2 + 3 + 3  # no more than two of each
    assert all(reason != "page_limit" for reason, _ in rejects(folder).values())


def test_redirects(site, run):
    def to(place):
        return 302, {"Location": place}, b""

    at = site({
        "/": html("x", "/1", "/loop", "/out", "/inside", "/mail", "/slash", "/utf8"),
        **{f"/{i}": to(f"/{i + 1}") for i in range(1, 9)},
        "/utf8": to("/größe".encode().decode("latin-1")), "/gr%C3%B6%C3%9Fe": html("its address in UTF-8"),
        "/loop": to("/loop2"), "/loop2": to("/loop"), "/out": to("http://elsewhere.example/"),
        "/inside": to("http://169.254.169.254/latest/meta-data/"), "/mail": to("mailto:a@b.org"),
        "/slash": to("/slash/"), "/slash/": html("the page behind the slash"),
    })
    folder, counts = run(at, limits={"redirects": 3})
    found = rejects(folder)
    assert at.often()["/4"] == 1
    assert at.often()["/5"] == 0
    assert found["/4"][0] == "too_many_redirects"
    assert at.often()["/loop"] == at.often()["/loop2"] == 1
    assert found["http://elsewhere.example/"][0] == "out_of_scope"
    assert found["http://169.254.169.254/latest/meta-data/"][0] == "out_of_scope"
    assert found["/mail"] == ("other_scheme", "redirect: mailto: is not http or https")
    assert pages(folder).keys() == {"/", "/slash/", "/gr%C3%B6%C3%9Fe"}
    assert counts["redirects"] == 8


def test_a_redirect_to_a_private_address_leads_nowhere(site, run):
    secret = site({"/": html("secret")})

    async def names(host, port):
        return ["127.0.0.1"] if host == "public.test" else ["127.0.0.2"]

    at = site({"/": html("x", "/go"), "/go": (302, {"Location": f"http://inside.test:{secret.port}/"}, b"")})
    folder, _ = run(f"http://public.test:{at.port}/", scope="any", resolver=names)
    reason, detail = rejects(folder)[f"http://inside.test:{secret.port}/"]
    assert reason == "address_refused"
    assert "127.0.0.2 (loopback)" in detail
    assert secret.log == []


def test_pages_that_ask_to_be_left_out(site, run):
    def page(tag="", header=""):
        body = html("y", f"/behind-{len(tag)}-{header[:5]}", head=tag)
        return 200, {"X-Robots-Tag": header} if header else {}, body.encode()

    at = site({
        "/": html("x", "/noindex", "/none", "/nofollow", "/noai", "/tdm", "/header", "/for-others"),
        "*": html("behind"),
        "/noindex": page('<meta name="robots" content="noindex">'),
        "/none": page('<meta name="gristmill" content=none>'),
        "/nofollow": page('<meta name="robots" content="NoFollow">'),
        "/noai": page('<meta name=robots content="noai">'),
        "/tdm": page('<meta name="tdm-reservation" content="1">'), "/header": page(header="noindex"),
        "/for-others": page(header="otherbot: noindex")})
    folder, _ = run(at)
    assert {p: r for p, (r, _) in rejects(folder).items()} == {
        "/noindex": "noindex", "/none": "noindex", "/noai": "noai", "/tdm": "tdm_reservation", "/header": "noindex"}
    assert {"/nofollow", "/for-others"} <= set(stored(folder))
    assert sum("behind" in p for p in stored(folder)) == 5  # of /noindex, /noai, /tdm, and the two headers
    folder, _ = run(at, folder="all", noindex="keep", reservations=False)
    assert rejects(folder) == {}


def test_answers_that_are_not_kept(site, run):
    bomb = gzip.compress(b"<p>" + b"\0" * (30 << 20))
    slow = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 99\r\n\r\nshort"
    at = site({
        "/": html("x", "/picture", "/bomb", "/gone", "/short", "/empty", "/large", "/cut", "/odd", "/nothing"),
        "/picture": (200, {"Content-Type": "image/png"}, b"\x89PNG"), "/gone": (410, {}, b""),
        "/bomb": (200, {"Content-Encoding": "gzip"}, bomb), "/short": lambda h: h.wfile.write(slow), "/empty": b"",
        "/large": b"x" * (3 << 20), "/cut": (200, {"Content-Encoding": "gzip"}, gzip.compress(b"<p>hello" * 99)[:-20]),
        "/odd": (200, {"Content-Encoding": "gzip"}, b"\x1f\x8bno gzip at all"), "/nothing": (304, {}, b"")})
    folder, counts = run(at, limits={"page_mb": 2}, politeness={"tries": 2, "failures": 9})
    assert {p: r for p, (r, _) in rejects(folder).items()} == {
        "/picture": "content_type", "/bomb": "too_long", "/gone": "http_status", "/short": "truncated_answer",
        "/empty": "empty_page", "/large": "too_large", "/cut": "truncated_answer", "/odd": "damaged_encoding",
        "/nothing": "http_status"}
    assert stored(folder) == ["/"]
    assert at.often()["/short"] == 2
    assert counts["retries"] == 1
    assert sum(counts["left_out"].values()) + counts["pages"] == counts["found"] == counts["asked_for"]


def test_retry_after_is_waited_for(site, run):
    turns = itertools.count()

    def busy(handler):
        handler.answer(*((429, {"Retry-After": "1"}, b"") if next(turns) == 0 else (200, {}, html("at last").encode())))

    at = site({"/": html("x", "/busy", "/other"), "/busy": busy, "/other": html("other")})
    folder, _ = run(at)
    assert sorted(stored(folder)) == ["/", "/busy", "/other"]
    first, second = at.asked("/busy")
    assert second.began - first.ended >= 1
    assert at.asked("/other")[0].began - first.ended >= 1, "the whole host is left alone"


def test_hosts_that_fail_are_parked(site, run):
    down = site({"/": html("x", *(f"/{i}" for i in range(9))), "*": (500, {}, b"")})
    away = site({"/": html("x", "/a", "/b"), "*": (503, {"Retry-After": "86400"}, b"")})
    folder, counts = run([down, away], politeness={"tries": 2, "failures": 4, "backoff": 0.02})
    assert counts["hosts_parked"] == 2
    assert len(down.asked()) == 1 + 4
    assert len(away.asked()) == 1 + 1
    reasons = rejects(folder)
    assert reasons["/b"] == ("host_parked", "it asked to be left alone for 86,400 s, longest_wait: 600")
    assert "4 failures one after the other, the last: http_status: 500" in [d for _, d in reasons.values()]


@pytest.mark.slow
def test_a_page_with_very_many_links(site, run):
    at = site({"/": html("x", *(f"/p{i}" for i in range(100_000))), "*": html("y")})
    with comes_to_an_end(100):
        _, counts = run(at, pages=3)
    assert counts["found"] == 10_001
    assert counts["links"] == {"cut": 90_000}
    assert counts["left_out"] == {"page_limit": 9_998}
    _, counts = run(at, pages=3, folder="bounded", limits={"addresses": 50, "links": 1000})
    assert (counts["found"], counts["links"]) == (50, {"cut": 99_000, "forgotten": 951})


def test_odd_encodings(site, run):
    text = "Grüße aus Köln, schöne Straßen über alles"
    broken = html(text, "/of-broken").encode() + b"\xff\xfe" * 9 + b"\x9d\x80"
    at = site({
        "/of-broken": html("found in a page of no encoding"), "/broken": broken,
        "/": html("x", "/broken", "/latin", "/declared-wrong", "/utf16", "/k%C3%B6ln", "/größe"),
        "/latin": (200, {"Content-Type": "text/html; charset=iso-8859-1"}, html(text, "/näher").encode("latin-1")),
        "/declared-wrong": (200, {"Content-Type": "text/html; charset=ascii"}, html(text).encode()),
        "/utf16": (200, {"Content-Type": "text/html; charset=utf-16"}, html(text, "/von-utf16").encode("utf-16")),
        "/k%C3%B6ln": html(text), "/gr%C3%B6%C3%9Fe": html(text), "/n%C3%A4her": html(text), "/von-utf16": html(text)})
    folder, _ = run(at)
    documents, left = read(folder)
    assert {path(one.document.metadata["url"]) for one in left} <= {"/broken"}
    assert "/of-broken" in stored(folder)
    assert len(documents) + len(left) == 10
    assert sum(text in document.text for document in documents) == 7


def test_sitemaps(site, run):
    def listed(*urls):
        return "<urlset>" + "".join(f"<url><loc>{url}</loc></url>" for url in urls) + "</urlset>"

    at = site({"/": html("x"), "*": html("y")})
    at.pages |= {
        "/robots.txt": f"Sitemap: {at.url}/map.xml\nSitemap: {at.url}/bad.xml\nUser-agent: *\nDisallow: /no\n",
        "/map.xml": f"<sitemapindex><sitemap><loc>{at.url}/one.xml.gz</loc></sitemap></sitemapindex>",
        "/one.xml.gz": (200, {"Content-Type": "application/gzip"}, gzip.compress(
            listed(at.url + "/a", at.url + "/no", "http://elsewhere.example/").encode())),
        "/bad.xml": "<urlset><url><loc>"}
    folder, counts = run(at, sitemaps=True)
    assert stored(folder) == ["/", "/a"]
    assert counts["sitemaps"] == {"read": 2, "unreadable": 1}
    assert rejects(folder)["/no"][0] == "robots_disallowed"
    assert run(at, folder="without")[1]["pages"] == 1


def test_files_are_rotated_and_whole(site, run):
    import os

    def large(handler):
        handler.answer(200, {"Content-Type": "text/plain"}, os.urandom(300_000).hex().encode())

    at = site({"/": html("x", *(f"/{i}" for i in range(9))), "*": large})
    folder, _ = run(at, archive_mb=1)
    files = sorted(p.name for p in folder.iterdir())
    assert files == ["crawl.json", "pages-00000.warc.gz", "pages-00001.warc.gz", "pages-00002.warc.gz", "pages.parquet",
                     "rejects.parquet"]
    kinds = [kind for kind, _, _ in records(folder)]
    assert kinds.count("warcinfo") == 3
    assert len(stored(folder)) == len(set(stored(folder))) == 10


def test_nothing_kept_is_said_and_does_not_last(site, run):
    at = site({"/": (500, {}, b"")})
    with pytest.raises(UserError, match=r"not one page could be kept \(1 x http_status\)"):
        run(at, politeness={"tries": 1})
    at.pages["/"] = html("again")
    assert run(at, politeness={"tries": 1})[1]["pages"] == 1


def test_a_crawl_is_the_same_whatever_is_under_way(site, run):
    pages_ = {"/": html("x", *(f"/{i}" for i in range(5)))} | {
        f"/{i}": html(f"page {i}", f"/{i * 3}", f"/{i + 7}") for i in range(20)}
    sites = [site(pages_) for _ in range(2)]
    one, _ = run(sites, politeness={"total": 1}, depth=4)
    two, _ = run(sites, politeness={"total": 8, "per_host": 3}, depth=4, folder="two")
    assert set(pages(one)) == set(pages(two))
    assert json.loads((one / "crawl.json").read_text())["summary"]["bytes"] == summary(two)["bytes"]
