"""What becomes of an answer: records in the archive, links among the addresses, one line about the page itself."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill.data.crawl.archive import (
    PROFILES,
    Archive,
    Position,
    file_name,
    payload_digest,
    read_member,
    record,
    record_id,
    warc_date,
)
from gristmill.data.crawl.fetch import Answer, Failure, Headers
from gristmill.data.crawl.gate import MOVED
from gristmill.data.crawl.reading import Reading, read_page, read_sitemap, retry_after
from gristmill.data.crawl.state import LEFT_OUT, READ, REDIRECTED, STORED, Row, State
from gristmill.data.crawl.urls import NoAddress, Scope, clean, host_of, key, shape, trap
from gristmill.data.formats.http_message import Undecodable, content_type

if TYPE_CHECKING:
    from gristmill.data.crawl.stage import Crawl

MOST_SITEMAPS = 1000
"""Sitemap files of one crawl; each may name 50,000 addresses."""
_HTTP = "application/http; msgtype="
_DAMAGE = (OSError, ValueError, zlib.error)


@dataclass(frozen=True, slots=True)
class Former:
    """A page as an earlier crawl has it: what is known of it, its record as stored, the record's block."""

    facts: dict[str, Any]
    member: bytes
    block: bytes

    def conditions(self) -> Headers:
        """Headers that ask for the page only if it has changed."""
        asked = (("If-None-Match", self.facts.get("etag", "")), ("If-Modified-Since", self.facts.get("modified", "")))
        return [(name, value) for name, value in asked if value]


class Keeper:
    """Writes down what was found; every method is called inside one transaction of the state."""

    def __init__(self, config: Crawl, state: State, archive: Archive, scope: Scope, earlier: Path | None,
                 now: Callable[[], float]) -> None:
        self.config, self.state, self.archive, self.scope, self.earlier = config, state, archive, scope, earlier
        self.now = now
        self.woken: set[str] = set()
        """Hosts that were given addresses; the crawler empties it."""
        self.longest = config.limits.page_mb << 20

    def check(self, row: Row, former: Former | None) -> Any:
        """What looks at status and headers before a body is read; raises Failure."""

        def look(status: int, headers: Headers) -> None:
            named = dict(reversed(headers))
            if status == 429 or 500 <= status <= 599:
                raise Failure("http_status", str(status), retry=True, status=status,
                              wait=retry_after(named.get("retry-after", ""), self.now()))
            if (status in MOVED and named.get("location", "").strip()) or (status == 304 and former is not None):
                return
            if not 200 <= status <= 299:
                raise Failure("http_status", str(status), status=status)
            kind, _ = content_type(named.get("content-type", ""))
            if kind and not row.sitemap and kind not in self.config.accepted:
                raise Failure("content_type", kind[:100], status=status)

        return look

    def former(self, row: Row) -> Former | None:
        """The page in the earlier crawl, if it is there, whole, and can be asked for by condition."""
        facts = self.state.earlier(row.key) if self.earlier else None
        if facts is None or facts["url"] != row.url or row.sitemap or self.earlier is None:
            return None
        try:
            member, block = read_member(self.earlier / facts["file"], facts["offset"], facts["length"], self.longest)
        except _DAMAGE:
            self.state.count("earlier_unreadable")
            return None
        return Former(facts, member, block)

    def answer(self, row: Row, answer: Answer, former: Former | None) -> str:
        """An answer that passed `check`; what became of it: stored, unchanged, redirect, sitemap or a reason."""
        if answer.status in MOVED:
            return self._redirect(row, answer)
        if row.sitemap:
            return self._sitemap(row, answer)
        unchanged = former is not None and (
            answer.status == 304 or payload_digest(answer.body) == former.facts["digest"])
        block = former.block if former is not None and unchanged else answer.raw
        try:
            page = read_page(block, answer.headers, row.url, self.config.agent, self.longest, self.config.limits.links)
        except Exception as error:  # one page that a parser cannot stand must not end the crawl
            return self._unreadable(row, answer, error)
        for name, n in page.counts.items():
            self.state.count(name, n)
        self.links(row, page.targets)
        reason, detail = self._unwanted(page)
        if reason:
            self.left_out(row, reason, detail, answer.status, answer.time)
            return reason
        if former is not None and unchanged:
            self._keep_former(row, answer, former, page)
            return "unchanged"
        self._keep(row, answer, page)
        return "stored"

    def left_out(self, row: Row, reason: str, detail: str, status: int, time: float) -> None:
        """An address that was asked for and is not kept."""
        self.state.settle(row.id, READ if row.sitemap else LEFT_OUT, time=time, status=status, reason=reason,
                          detail=detail)

    def _unreadable(self, row: Row, answer: Answer, error: Exception) -> str:
        reason, detail = "unreadable_page", f"{type(error).__name__}: {error}"[:500]
        if isinstance(error, Undecodable):
            reason, detail = error.reason, error.detail
        self.left_out(row, reason, detail, answer.status, answer.time)
        return reason

    def _unwanted(self, page: Reading) -> tuple[str, str]:
        said = page.directives
        if said.noindex and self.config.noindex == "drop":
            return "noindex", "the page asks not to be indexed (noindex or none)"
        if said.noai and self.config.reservations:
            return "noai", "the page says noai"
        if said.reserved and self.config.reservations:
            return "tdm_reservation", "the page reserves text and data mining"
        return ("empty_page", "it holds no byte") if not page.size else ("", "")

    def _keep(self, row: Row, answer: Answer, page: Reading) -> None:
        number, payload, members = self._response(answer)
        position = self._append(members, answer.time)[0]
        kind, _ = content_type(answer.header("content-type"))
        self._settle(row, answer, position, page, {
            "kind": "response", "stored": answer.time, "content_type": kind, "digest": payload_digest(answer.body),
            "payload": payload, "record_id": number, "bytes": len(answer.raw)})

    def _response(self, answer: Answer) -> tuple[str, str, list[bytes]]:
        """(id, digest of the payload, records). All that checks payloads (warcio, fastwarc, the source `warc`) takes
        them as they are stored, chunks included, whatever the standard means by an entity body."""
        number, shared = record_id("response", answer.url, str(answer.time)), _shared(answer)
        payload = payload_digest(answer.raw[len(_head(answer.raw)):])
        return number, payload, [
            record("response", [("WARC-Record-ID", number), *shared, ("WARC-Payload-Digest", payload),
                                ("Content-Type", _HTTP + "response")], answer.raw),
            self._request(answer, shared, number)]

    def _request(self, answer: Answer, shared: Sequence[tuple[str, str]], number: str) -> bytes:
        return record("request", [("WARC-Record-ID", record_id("request", answer.url, str(answer.time))), *shared,
                                  ("WARC-Concurrent-To", number), ("Content-Type", _HTTP + "request")], answer.request)

    def _keep_former(self, row: Row, answer: Answer, former: Former, page: Reading) -> None:
        """The earlier record as it is, then a `revisit` that says when it was found unchanged."""
        facts, shared = former.facts, _shared(answer)
        number = record_id("revisit", answer.url, str(answer.time))
        members = [former.member, record("revisit", [
            ("WARC-Record-ID", number), *shared,
            ("WARC-Profile", PROFILES["not_modified" if answer.status == 304 else "same_payload"]),
            ("WARC-Refers-To", facts["record_id"]), ("WARC-Refers-To-Target-URI", facts["url"]),
            ("WARC-Refers-To-Date", warc_date(facts["stored"])), ("WARC-Payload-Digest", facts["payload"]),
            ("WARC-Truncated", "length" if answer.status != 304 else ""),
            ("Content-Type", _HTTP + "response")], _head(answer.raw)),
            self._request(answer, shared, number)]
        position = self._append(members, answer.time)[0]
        self._settle(row, answer, position, page, {
            "kind": "unchanged", "stored": facts["stored"], "content_type": facts["content_type"],
            "digest": facts["digest"], "payload": facts["payload"], "record_id": facts["record_id"],
            "bytes": len(former.block)}, facts)

    def _settle(self, row: Row, answer: Answer, position: Position, page: Reading, facts: dict[str, Any],
                before: dict[str, Any] | None = None) -> None:
        before = before or {}
        self.state.settle(row.id, STORED, time=answer.time, status=answer.status, facts={
            **facts, "etag": answer.header("etag") or before.get("etag", ""),
            "modified": answer.header("last-modified") or before.get("modified", ""), "links": len(page.targets),
            "file": file_name(position.part), "offset": position.offset, "length": position.length})

    def _append(self, members: Sequence[bytes], time: float) -> list[Position]:
        positions = self.archive.append(members, warc_date(time))
        self.state.save_part(self.archive.part, self.archive.end)
        return positions

    def _redirect(self, row: Row, answer: Answer) -> str:
        """The answer is kept, and its target takes its turn as any other address does."""
        if not row.sitemap:
            self._append(self._response(answer)[2], answer.time)
        detail = answer.location[:500]
        try:
            target = clean(answer.location, row.url)
        except NoAddress as problem:
            self.left_out(row, problem.reason, f"redirect: {problem.detail}", answer.status, answer.time)
            return problem.reason
        if row.redirects >= self.config.limits.redirects:
            reason = "too_many_redirects"
            self.left_out(row, reason, f"to {target}, redirects: {self.config.limits.redirects}", answer.status,
                          answer.time)
            return reason
        if key(target) == row.key:  # `/a` to `/a/`, http to https: the same address in another spelling
            self.state.moved(row.id, target, host_of(target))
            self.woken.add(host_of(target))
            return "redirect"
        self.state.settle(row.id, REDIRECTED, time=answer.time, status=answer.status, detail=detail)
        if row.sitemap:
            self.sitemaps([target], row.url)
        else:
            self.links(row, [target], redirect=True)
        return "redirect"

    def _sitemap(self, row: Row, answer: Answer) -> str:
        try:
            pages, maps = read_sitemap(answer.raw, row.url)
        except Exception as error:  # as above
            return self._unreadable(row, answer, error)
        self.state.settle(row.id, READ, time=answer.time, status=answer.status)
        self.links(row, pages, depth=1)
        self.sitemaps(maps, row.url)
        return "sitemap"

    def sitemaps(self, urls: Sequence[str], via: str) -> None:
        """Sitemaps that a robots.txt or another sitemap names wait from now on."""
        for text in urls:
            try:
                url = clean(text, via)
            except NoAddress:
                continue
            if self.scope.outside(url, whole_host=True):
                continue
            if self.state.counts().get("sitemaps", 0) < MOST_SITEMAPS and self.state.add(
                    key(url), url, host_of(url), depth=0, via=via, sitemap=True):
                self.state.count("sitemaps")
                self.woken.add(host_of(url))

    def links(self, row: Row | None, targets: Sequence[str], *, redirect: bool = False, depth: int | None = None,
              via: str = "") -> None:
        """Addresses that were found: those that belong to the crawl wait from now on, the others are left out."""
        if depth is None:
            depth = 0 if row is None else row.depth if redirect else row.depth + 1
        redirects = row.redirects + 1 if row is not None and redirect else 0
        via = row.url if row is not None else via
        for url in targets:
            name = key(url)
            if self.state.knows(name):
                continue
            if self.state.known >= self.config.limits.addresses:
                self.state.count("links_forgotten")
                continue
            reason, detail = self._refusal(url, depth)
            self.state.add(name, url, host_of(url), depth=depth, via=via, redirects=redirects, reason=reason,
                           detail=detail)
            if not reason:
                self.woken.add(host_of(url))

    def _refusal(self, url: str, depth: int) -> tuple[str, str]:
        limits = self.config.limits
        reason, detail = self.scope.refusal(url)
        if not reason:
            reason, detail = trap(url, limits)
        if not reason and depth > self.config.depth:
            reason, detail = "too_deep", f"{depth} links away, depth: {self.config.depth}"
        if not reason and (form := shape(url)) and self.state.variant(form) > limits.variants:
            reason, detail = "many_variants", f"variants: {limits.variants} of this path and these parameters"
        return reason, detail


def _shared(answer: Answer) -> list[tuple[str, str]]:
    """The fields that request and answer have in common."""
    return [("WARC-Date", warc_date(answer.time)), ("WARC-Target-URI", answer.url),
            ("WARC-IP-Address", answer.address)]


def _head(raw: bytes) -> bytes:
    """Status line and headers."""
    end = raw.find(b"\r\n\r\n")
    return raw[: end + 4] if end >= 0 else raw[: raw.find(b"\n\n") + 2]
