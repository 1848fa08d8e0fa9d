"""One request and its answer over a connection of its own, with every bound kept and every byte as it came.

The address is resolved, checked and connected to here, nowhere else; TLS is verified against the name all the same.
HTTP/1.1 is parsed by h11. A connection serves one request: between two requests to a host lies a pause of a second
anyway, and so the bytes that arrive are those of this answer alone.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import h11

from gristmill.core.errors import UserError
from gristmill.data.crawl.addresses import Resolver, networks, port_refusal, refusal, system_resolver
from gristmill.data.crawl.settings import Limits, Network

LONGEST_HEAD = 64 << 10
"""Bytes of a status line with all headers."""
_PIECE = 64 << 10
Headers = list[tuple[str, str]]
Check = Callable[[int, Headers], None]
"""Looks at status and headers before the body is read; raises Failure to refuse it."""


class Failure(Exception):
    """No answer that can be used: reason and detail as of a reject.

    retry: may it be different next time? host: does it speak against the whole host? wait: seconds that the host asks
    to be left alone. status: of the answer, if there was one.
    """

    def __init__(self, reason: str, detail: str, *, retry: bool = False, host: bool = False, wait: float = 0.0,
                 status: int = 0) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.retry, self.host, self.wait = reason, detail, retry, host or retry, wait
        self.status = status


@dataclass(slots=True)
class Answer:
    """An answer that arrived whole. request and raw are the bytes as they were sent and came (head and body, chunks and
    encodings as they are); body is without chunks, content encodings as they are. time: when the request went out
    (seconds of the epoch). cut: the body is longer, only its beginning was asked for."""

    url: str
    status: int
    headers: Headers
    request: bytes
    raw: bytes
    body: bytes
    address: str
    time: float
    seconds: float
    cut: bool = False

    def header(self, name: str) -> str:
        """The first header of this name, or ""."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def location(self) -> str:
        """Where a redirect leads; many servers write it in UTF-8 as it is."""
        value = self.header("location").strip()
        try:
            return value.encode("latin-1").decode()
        except UnicodeError:
            return value


@dataclass
class Fetcher:
    """Asks for addresses. resolver: for tests, in place of that of the machine."""

    agent: str
    limits: Limits = field(default_factory=Limits)
    network: Network = field(default_factory=Network)
    resolver: Resolver = system_resolver

    def __post_init__(self) -> None:
        self.allowed = networks(self.network.allow)
        self.proxies = urllib.request.getproxies() if self.network.proxy == "environment" else {}
        self.tls = ssl.create_default_context()
        if self.network.ca_file:
            try:
                self.tls.load_verify_locations(self.network.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise UserError(f"no certificates can be read from it ({error})", where=self.network.ca_file,
                                fix="name a PEM file in network.ca_file") from error

    async def fetch(self, url: str, headers: Sequence[tuple[str, str]] = (), *, check: Check | None = None,
                    longest: int = 0, cut: bool = False) -> Answer:
        """The answer to GET `url`. A body longer than `longest` bytes is a Failure, or is cut there.

        Raises Failure for everything that can go wrong outside of this machine.
        """
        longest = longest or self.limits.page_mb << 20
        clock, began = time.time(), time.monotonic()
        place = ""
        try:
            async with asyncio.timeout(self.limits.total_seconds):
                try:
                    async with asyncio.timeout(self.limits.connect_seconds):
                        reader, writer, place = await self._connect(url)
                except TimeoutError:
                    detail = f"no connection within {self.limits.connect_seconds:g} s"
                    raise Failure("connect_timeout", detail, retry=True) from None
                try:
                    answer = await self._exchange(url, headers, reader, writer, check, longest, cut)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise Failure("total_timeout", f"not done within {self.limits.total_seconds:g} s", retry=True) from None
        except ssl.SSLError as error:
            raise Failure("tls_error", str(error)[:300], retry=True) from error
        except OSError as error:
            raise Failure("connection_broken", str(error)[:300] or type(error).__name__, retry=True) from error
        except (ValueError, h11.LocalProtocolError) as error:  # names and headers that cannot be asked for
            raise Failure("no_request", str(error)[:300]) from error
        answer.address, answer.time, answer.seconds = place, clock, time.monotonic() - began
        return answer

    async def _connect(self, url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        if (problem := port_refusal(port)) and not self._allowed_number(host):
            raise Failure("address_refused", problem)
        if proxy := self._proxy(parts.scheme, host):
            return await self._through(proxy, parts.scheme, host, port)
        secure = self.tls if parts.scheme == "https" else None
        last: Exception | None = None
        for address in await self._addresses(host, port):
            try:
                reader, writer = await asyncio.open_connection(
                    address, port, ssl=secure, server_hostname=host if secure else None)
                return reader, writer, address
            except ssl.SSLCertVerificationError as error:
                raise Failure("tls_certificate", f"{host}: {error.verify_message}", host=True) from error
            except ssl.SSLError as error:
                raise Failure("tls_error", f"{host}: {error}"[:300], retry=True) from error
            except OSError as error:
                last = error
        raise Failure("no_connection", str(last)[:300], retry=True) from last

    async def _addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to."""
        try:
            found = list(await self.resolver(host, port))
        except (OSError, UnicodeError) as error:
            raise Failure("name_not_resolved", f"{host}: {error}"[:300], retry=True) from error
        refused = {address: refusal(address, self.allowed) for address in found}
        good = [address for address, why in refused.items() if not why]
        if not good:
            said = ", ".join(f"{address} ({why})" for address, why in refused.items()) or "no address"
            raise Failure("address_refused", f"{host} is {said}"[:500], host=True)
        return good

    def _allowed_number(self, host: str) -> bool:
        return bool(self.allowed) and not refusal(host, self.allowed) and bool(refusal(host))

    def _proxy(self, scheme: str, host: str) -> str:
        if not self.proxies or urllib.request.proxy_bypass(host):
            return ""
        why = refusal(host, self.allowed)
        if (why and why != "no address") or host == "localhost" or host.endswith((".localhost", ".internal", ".local")):
            raise Failure("address_refused", f"{host}: {why or 'a name of this network'}", host=True)
        return self.proxies.get(scheme, "")

    async def _through(self, proxy: str, scheme: str, host: str,
                       port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """A tunnel (CONNECT) through the proxy, also for http: the exchange inside is then the same for all."""
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 3128)
        try:
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            proof = f"Proxy-Authorization: Basic {base64.b64encode(login.encode()).decode()}\r\n"
            writer.write(f"CONNECT {shown} HTTP/1.1\r\nHost: {shown}\r\n{proof if parts.username else ''}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split(b" ", 2)[1:2]
            if status != [b"200"]:
                raise Failure("proxy_refused", head.split(b"\r\n")[0].decode("latin-1")[:200], retry=True)
            if scheme == "https":
                await writer.start_tls(self.tls, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            writer.transport.abort()
            raise Failure("tls_certificate", f"{host}: {error.verify_message}", host=True) from error
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            writer.transport.abort()
            raise Failure("proxy_refused", "its answer is no HTTP", retry=True) from error
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer, ""

    async def _exchange(self, url: str, headers: Sequence[tuple[str, str]], reader: asyncio.StreamReader,
                        writer: asyncio.StreamWriter, check: Check | None, longest: int, cut: bool) -> Answer:
        parts = urlsplit(url)
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [(name.encode(), value.encode("latin-1", "replace")) for name, value in (
            ("Host", parts.netloc), ("User-Agent", self.agent), *headers, ("Connection", "close"))]
        sent = connection.send(h11.Request(method="GET", target=target, headers=lines))
        sent = (sent or b"") + (connection.send(h11.EndOfMessage()) or b"")
        writer.write(sent)
        await writer.drain()
        return await self._receive(Answer(url, 0, [], sent, b"", b"", "", 0, 0), connection, reader, check, longest,
                                   cut)

    async def _receive(self, answer: Answer, connection: h11.Connection, reader: asyncio.StreamReader,
                       check: Check | None, longest: int, cut: bool) -> Answer:
        raw, body = bytearray(), bytearray()
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    data = await self._some(reader)
                    raw += data
                    connection.receive_data(data)
                elif isinstance(event, h11.InformationalResponse):
                    raw = bytearray(connection.trailing_data[0])  # the answer itself is still to come
                elif isinstance(event, h11.Response):
                    answer.status = event.status_code
                    answer.headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers]
                    if check is not None:
                        check(answer.status, answer.headers)
                    length = answer.header("content-length")
                    if length.isdigit() and int(length) > longest and not cut and answer.status != 304:
                        raise _too_large(f"{int(length):,} bytes by its Content-Length", longest)
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > longest:
                        if not cut:
                            raise _too_large(f"more than {longest:,} bytes", longest)
                        answer.cut = True
                        break
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    raise Failure("no_answer", "the connection was closed before an answer came", retry=True)
        except h11.RemoteProtocolError as error:
            short = bool(answer.status) and reader.at_eof()
            reason = "truncated_answer" if short else "no_answer" if not raw else "broken_answer"
            raise Failure(reason, str(error)[:300], retry=short or not raw) from error
        rest = len(connection.trailing_data[0])
        answer.raw = bytes(raw[: len(raw) - rest] if rest else raw)
        answer.body = bytes(body)
        return answer

    async def _some(self, reader: asyncio.StreamReader) -> bytes:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.limits.silence_seconds):
                return await reader.read(_PIECE)
        except TimeoutError:
            detail = f"nothing came for {time.monotonic() - began:.1f} s, silence_seconds"
            raise Failure("silence_timeout", detail, retry=True) from None


def _too_large(detail: str, longest: int) -> Failure:
    return Failure("too_large", f"{detail}, page_mb: {longest >> 20}")
