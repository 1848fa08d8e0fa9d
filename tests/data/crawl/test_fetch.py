"""One request: what servers can do wrong, where a connection may lead, what TLS must prove."""

import asyncio
import contextlib
import gzip
import itertools
import socket
import threading
import time
from dataclasses import replace

import pytest

from gristmill.core.errors import UserError
from gristmill.data.crawl.fetch import Failure, Fetcher
from gristmill.data.crawl.settings import Limits, Network
from tests.data.crawl.site_server import html
from tests.shared import HANG

HERE = Network(allow=["127.0.0.1"])
PATIENT = Limits(connect_seconds=HANG, silence_seconds=HANG, total_seconds=HANG, page_mb=1)
IMPATIENT = {"silence_timeout": replace(PATIENT, silence_seconds=0.4),
             "total_timeout": replace(PATIENT, total_seconds=0.5)}


def fetch(url, *, network=HERE, limits=PATIENT, resolver=None, **more):
    async def once():
        return await Fetcher("tests/1 (+mailto:a@b.org)", limits, network, **(
            {"resolver": resolver} if resolver else {})).fetch(url, **more)

    return asyncio.run(once())


def failure(url, **more):
    with pytest.raises(Failure) as error:
        fetch(url, **more)
    return error.value


def raw(*pieces, drop=b""):
    """A page that writes these bytes as they are. drop: and then this again and again, as long as anybody listens."""

    def page(handler):
        for piece in itertools.chain(pieces, itertools.repeat(drop) if drop else ()):
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.02 if drop else 0)

    return page


def test_bytes_as_they_came(site):
    body = gzip.compress(html("Chunks").encode())
    chunks = b"".join(b"%x;q=1\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:]))
    chunks += b"0\r\nX-T: 1\r\n\r\n"
    head = b"HTTP/1.1 200 Fine\r\nX-Odd:  two\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    at = site({"/x?y=%20": raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", head, chunks, b"and more")})
    answer = fetch(at.url + "/x?y=%20", headers=[("If-None-Match", '"1"')])
    assert answer.raw == head + chunks
    assert answer.body == body
    assert (answer.status, answer.header("x-odd"), answer.address) == (200, "two", "127.0.0.1")
    assert answer.request.startswith(b"GET /x?y=%20 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert at.log[0].headers["user-agent"] == "tests/1 (+mailto:a@b.org)"
    assert at.log[0].headers["if-none-match"] == '"1"'
    assert fetch(at.url + "/x?y=%20", headers=[("If-None-Match", '"\xe9"')]).status == 200, "an ETag that is not ASCII"
    assert failure(at.url + "/x?y=%20", headers=[("If-None-Match", "a\r\nEvil: 1")]).reason == "no_request"


def test_a_body_that_ends_with_the_connection(site):
    at = site({"/": raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")})
    assert fetch(at.url + "/").body == b"all of it"


def until_closed(handler):
    """Says nothing until the other side has hung up."""
    handler.connection.settimeout(HANG)
    handler.connection.recv(1)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
WRONG = {
    "truncated_answer": [raw(OK + b"Content-Length: 100\r\n\r\nshort")],
    "truncated_answer in chunks": [raw(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhell")],
    "broken_answer": [raw(b"220 mail.example.org ESMTP\r\n\r\n")],
    "broken_answer: length": [raw(OK + b"Content-Length: -5\r\n\r\nx")],
    "broken_answer: endless head": [raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 60_000)],
    "no_answer": [raw()],
    "too_large by its word": [raw(OK + b"Content-Length: 99999999\r\n\r\n")],
    "silence_timeout": [lambda handler: (raw(OK, b"\r\nhalf")(handler), until_closed(handler))],
    "total_timeout: slow loris": [raw(drop=b"x")],
    "total_timeout: slow body": [raw(OK + b"\r\n", drop=b"x")],
}


@pytest.mark.parametrize("case", WRONG)
def test_servers_that_do_wrong(site, case):
    at = site({"/": WRONG[case][0]})
    reason = case.split(" ")[0].rstrip(":")
    found = failure(at.url + "/", limits=IMPATIENT.get(reason, PATIENT))
    assert found.reason == reason
    assert found.detail


def test_a_body_without_end_is_left_at_the_limit(site):
    def endless(handler):
        handler.wfile.write(OK + b"\r\n")
        while True:
            handler.wfile.write(b"x" * 65536)

    at = site({"/": endless})
    assert failure(at.url + "/").reason == "too_large"
    answer = fetch(at.url + "/", longest=1000, cut=True)
    assert answer.cut
    assert answer.body[:1000] == b"x" * 1000


def test_status_and_type_are_looked_at_before_the_body(site):
    def check(status, headers):
        raise Failure("content_type", dict(headers)["content-type"])

    def page(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n")
        done.wait(HANG)

    done = threading.Event()
    at = site({"/": page})
    assert failure(at.url + "/", check=check).detail == "video/mp4"
    done.set()  # until now the answer had no body


def test_private_addresses_are_refused_also_behind_names(site):
    at = site({"/": "secret"})
    assert "127.0.0.1 (loopback)" in failure(at.url + "/", network=Network()).detail
    for name in (f"http://localhost:{at.port}/", f"http://2130706433:{at.port}/", f"http://127.1:{at.port}/",
                 f"http://0x7f000001:{at.port}/", f"http://[::ffff:127.0.0.1]:{at.port}/"):
        assert failure(name, network=Network()).reason in ("address_refused", "name_not_resolved"), name

    async def inside(host, port):
        return ["10.0.0.7", "169.254.169.254"]

    found = failure("http://public.test/", network=Network(), resolver=inside)
    assert found.reason == "address_refused"
    assert "public.test is 10.0.0.7 (private), 169.254.169.254 (link-local or metadata)" in found.detail
    assert not found.retry
    assert failure("http://127.0.0.1:25/", network=Network()).reason == "address_refused"
    assert at.log == []


def test_a_name_that_changes_its_mind_leads_nowhere_else(site):
    """DNS rebinding: the name is resolved once, and the connection is made to what was checked."""
    at = site({"/": "the public page"})
    other = site({"/": "secret"})
    asked = []

    async def rebinding(host, port):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    assert fetch(f"http://public.test:{at.port}/", resolver=rebinding).body == b"the public page"
    assert asked == ["public.test"]
    assert at.log[0].headers["host"] == f"public.test:{at.port}"
    assert failure(f"http://public.test:{other.port}/", resolver=rebinding).reason == "address_refused"
    assert other.log == []


def test_of_several_addresses_the_good_ones_are_tried(site):
    at = site({"/": "page"})

    async def several(host, port):
        return ["10.0.0.1", "::1", "127.0.0.9", "127.0.0.1"]  # refused, refused, allowed and dead, allowed

    assert fetch(f"http://some.test:{at.port}/", network=Network(allow=["127.0.0.1", "127.0.0.9"]),
                 resolver=several).address == "127.0.0.1"


def test_names_that_cannot_be_resolved():
    async def none(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    found = failure("http://nowhere.test/", resolver=none)
    assert (found.reason, found.retry) == ("name_not_resolved", True)

    async def hanging(host, port):
        await asyncio.sleep(HANG)

    soon = Limits(connect_seconds=0.2)
    assert failure("http://slow.test/", resolver=hanging, limits=soon).reason == "connect_timeout"


def test_tls_is_verified_against_the_name(site, certificate, tmp_path):
    both, public = certificate
    at = site({"/": "over TLS"}, certificate=str(both))
    found = failure(at.url + "/")
    assert (found.reason, found.retry) == ("tls_certificate", False)
    trusting = Network(allow=["127.0.0.1"], ca_file=str(public))
    assert fetch(at.url + "/", network=trusting).body == b"over TLS"

    async def here(host, port):
        return ["127.0.0.1"]

    assert fetch(f"https://site.test:{at.port}/", network=trusting, resolver=here).body == b"over TLS"
    assert failure(f"https://other.test:{at.port}/", network=trusting, resolver=here).reason == "tls_certificate"
    plain = site({"/": "no TLS"})
    assert failure(f"https://127.0.0.1:{plain.port}/", network=trusting).reason == "tls_error"
    with pytest.raises(UserError, match="no certificates"):
        Fetcher("x", PATIENT, Network(ca_file=str(tmp_path / "none.pem")))


def test_proxies_of_the_environment_only_if_asked(site, monkeypatch, certificate):
    both, public = certificate
    at = site({"/": "directly"})
    over = site({"/": "inside a tunnel"}, certificate=str(both))
    seen = []

    def connect(handler):
        seen.append(handler.path)
        port = handler.path.rpartition(":")[2]
        handler.wfile.write(b"HTTP/1.1 200 Go on\r\n\r\n")
        with socket.create_connection(("127.0.0.1", int(port))) as there:
            there.settimeout(0.05)
            handler.connection.settimeout(0.05)
            while True:
                for source, target in ((handler.connection, there), (there, handler.connection)):
                    with contextlib.suppress(TimeoutError):
                        if not (came := source.recv(65536)):
                            return
                        target.sendall(came)

    from tests.data.crawl.site_server import Handler

    monkeypatch.setattr(Handler, "do_CONNECT", connect, raising=False)
    proxy = site({})
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert fetch(at.url + "/").body == b"directly"
    assert seen == []
    asked = Network(allow=["127.0.0.1"], ca_file=str(public), proxy="environment")
    assert fetch(at.url + "/", network=asked).body == b"directly"
    assert fetch(f"https://site.test:{over.port}/", network=asked).body == b"inside a tunnel"
    assert seen == [f"127.0.0.1:{at.port}", f"site.test:{over.port}"]
    assert failure("http://10.0.0.1/", network=asked).reason == "address_refused"
    assert failure("http://metadata.google.internal/", network=asked).reason == "address_refused"
