"""A web site on this machine that does as it is told and keeps a log of who asked what, when."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Page = bytes | str | tuple[int, dict[str, str], bytes] | Callable[["Handler"], None]


@dataclass
class Request:
    """began, ended: seconds by one clock; ended, just before the answer is sent, is 0 until then."""

    path: str
    headers: dict[str, str]
    began: float
    ended: float = 0.0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        site: Site = self.server.site
        request = self.request_ = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, time.monotonic())
        with site.lock:
            site.log.append(request)
            site.under_way += 1
            site.most_under_way = max(site.most_under_way, site.under_way)
        self.close_connection = True
        try:
            time.sleep(site.pause)
            page = site.pages.get(self.path, site.pages.get("*", (404, {}, b"none")))
            if callable(page):
                page(self)
            else:
                status, headers, body = page if isinstance(page, tuple) else (200, {}, page)
                self.answer(status, headers, body.encode() if isinstance(body, str) else body)
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            self.over()

    def over(self) -> None:
        """Before the answer goes out: who has got it may ask again before this thread comes to its next line."""
        site: Site = self.server.site
        with site.lock:
            if not self.request_.ended:
                site.under_way -= 1
                self.request_.ended = time.monotonic()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.over()
        self.send_response(status)
        for name, value in {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body)),
                            **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        pass


@dataclass
class Site:
    """pages: path -> what is answered; "*" for all other paths. pause: seconds before every answer."""

    pages: dict[str, Page] = field(default_factory=dict)
    pause: float = 0.0
    log: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    under_way: int = 0
    most_under_way: int = 0

    def start(self, certificate: str = "") -> Site:
        self.pages.setdefault("/robots.txt", (404, {}, b""))
        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.site = self  # type: ignore[attr-defined]
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def asked(self, path: str = "") -> list[Request]:
        """The requests for a path, or all but those for robots.txt."""
        return [r for r in self.log if (r.path == path if path else r.path != "/robots.txt")]

    def often(self) -> Counter[str]:
        return Counter(request.path for request in self.log)


def html(text: str = "", *links: str, head: str = "") -> str:
    listed = "".join(f'<li><a href="{link}">to {link}</a></li>' for link in links)
    return (f"<!doctype html><html><head><title>About {text[:20]}</title>{head}</head><body><article><h1>On {text[:20]}"
            f"</h1><p>{text} stands here as a paragraph of plain words, long enough to be the main text.</p></article>"
            f"<ul>{listed}</ul></body></html>")
