"""A crawl with an earlier one at hand: only what changed is transferred, and the folder is whole by itself."""

import hashlib

import pytest
from warcio.archiveiterator import ArchiveIterator as Warcio

from gristmill.core.errors import UserError
from gristmill.data.documents import Reject
from gristmill.data.sources import Warc
from tests.data.crawl.archives import pages, records, rejects, stored
from tests.data.crawl.site_server import html


def conditional(text, *links, tag=True):
    """A page with an ETag (else a Last-Modified) that answers conditional requests."""
    body = html(text, *links).encode()
    mark = f'"{hashlib.sha256(body).hexdigest()[:8]}"' if tag else "Tue, 03 Nov 2026 10:00:00 GMT"

    def page(handler):
        asked = handler.headers.get("If-None-Match" if tag else "If-Modified-Since")
        named = {"ETag" if tag else "Last-Modified": mark}
        handler.answer(*((304, {**named, "Content-Type": ""}, b"") if asked == mark else (200, named, body)))

    return page


@pytest.fixture
def at(site):
    return site({"/": conditional("the start", "/dated", "/plain", "/changes", "/goes"),
                 "/dated": conditional("dated", "/deeper", tag=False), "/plain": html("no marks"),
                 "/changes": conditional("before"), "/goes": conditional("short-lived"),
                 "/deeper": conditional("found through a page that did not change"),
                 "/new": conditional("new")})


def documents(folder):
    source = Warc(path=str(folder), verify=True)
    found = [one for item in source.inputs() for part in source.ranges(item, 1 << 20) for one in source.read(part, "w")]
    return ({one.metadata["url"].split("/", 3)[3]: one for one in found if not isinstance(one, Reject)},
            [one.reason for one in found if isinstance(one, Reject)])


def test_only_what_changed_is_transferred(at, run):
    first, counts = run(at, folder="first")
    assert counts["pages"] == 6
    at.pages["/changes"] = conditional("after", "/new")
    at.pages["/goes"] = (404, {}, b"")
    mark = len(at.log)
    second, counts = run(at, folder="second", earlier=first, as_of="2026-12-01")
    answered = {r.path: ("if-none-match" in r.headers, "if-modified-since" in r.headers) for r in at.log[mark:]}
    assert answered["/"] == (True, False)
    assert answered["/dated"] == (False, True)
    assert answered["/plain"] == answered["/new"] == (False, False)
    assert (counts["pages"], counts["unchanged"]) == (6, 4)
    assert rejects(second) == {"/goes": ("http_status", "404")}
    kinds = [kind for kind, _, _ in records(second)]
    assert kinds.count("revisit") == 4
    assert kinds.count("response") == 6
    index = pages(second)
    assert {p: row["kind"] for p, row in index.items()} == {
        "/": "unchanged", "/dated": "unchanged", "/plain": "unchanged", "/deeper": "unchanged", "/changes": "response",
        "/new": "response"}
    assert index["/"]["stored"] == pages(first)["/"]["stored"]
    assert index["/"]["record_id"] == pages(first)["/"]["record_id"]
    assert index["/dated"]["modified"] == "Tue, 03 Nov 2026 10:00:00 GMT"
    texts, left = documents(second)
    assert set(texts) == {"", "dated", "plain", "deeper", "changes", "new"}
    assert "after" in texts["changes"].text
    assert texts["dated"].text == documents(first)[0]["dated"].text
    assert left == ["revisit"] * 4

    third, counts = run(at, folder="third", earlier=second)
    assert (counts["pages"], counts["unchanged"]) == (6, 6)
    assert set(documents(third)[0]) == set(texts)


def test_revisits_say_what_they_revisit(at, run):
    first, _ = run(at, folder="first")
    second, _ = run(at, folder="second", earlier=first)
    found = {}
    with (second / "pages-00000.warc.gz").open("rb") as file:
        for record in Warcio(file, check_digests="raise"):
            if record.rec_type == "revisit":
                found[record.rec_headers["WARC-Target-URI"].rpartition("/")[2]] = record.rec_headers
    one = found["dated"]
    assert one["WARC-Profile"] == "http://netpreserve.org/warc/1.1/revisit/server-not-modified"
    assert one["WARC-Refers-To"] == pages(first)["/dated"]["record_id"]
    assert one["WARC-Refers-To-Date"] == pages(first)["/dated"]["stored"]
    assert one["WARC-Payload-Digest"] == pages(first)["/dated"]["payload"]
    assert found["plain"]["WARC-Profile"].endswith("identical-payload-digest")


def test_chunks_may_fall_otherwise(site, run):
    body, cuts = html("in chunks").encode(), iter([10, 20, 30, 40])

    def chunked(handler):
        at = next(cuts)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (body[:at], body[at:]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    place = site({"/": chunked})
    first, _ = run(place, folder="first")
    second, counts = run(place, folder="second", earlier=first)
    assert counts["unchanged"] == 1
    for folder in (first, second):
        with (folder / "pages-00000.warc.gz").open("rb") as file:
            assert [record.rec_type for record in Warcio(file, check_digests="raise")][1] == "response"
        assert "in chunks" in documents(folder)[0][""].text


def test_what_the_earlier_crawl_has_lost_is_fetched_anew(at, run):
    first, _ = run(at, folder="first")
    (first / "pages-00000.warc.gz").write_bytes(b"damaged")
    mark = len(at.log)
    second, counts = run(at, folder="second", earlier=first)
    assert (counts["pages"], counts["unchanged"], counts["earlier_unreadable"]) == (6, 0, 6)
    assert not any("if-none-match" in r.headers for r in at.log[mark:])
    assert len(set(stored(second))) == 6
    with pytest.raises(UserError, match="no finished crawl"):
        run(at, folder="third", earlier=first / "nowhere")
    (first / "pages.parquet").write_bytes(b"damaged")
    with pytest.raises(UserError, match="index of this crawl is damaged"):
        run(at, folder="fourth", earlier=first)
