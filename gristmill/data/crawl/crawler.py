"""The crawl itself: whose turn it is, what is asked of whom and when, until nothing waits or a bound is reached.

One thread and one event loop. A host has its turn when its pause is over; the requests under way are tasks, and what
they bring is written down one after the other, each in one transaction with its records flushed to the disk before.
A kill therefore loses only requests under way: they are made again, and nothing that was written down is.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import importlib.metadata
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill.core import interrupt
from gristmill.core.config import non_default
from gristmill.core.hashing import digest
from gristmill.core.progress import Bar, Progress, Silent
from gristmill.data.crawl.addresses import Resolver, system_resolver
from gristmill.data.crawl.archive import Archive
from gristmill.data.crawl.fetch import Answer, Failure, Fetcher
from gristmill.data.crawl.gate import Gate, backoff
from gristmill.data.crawl.keeper import Former, Keeper
from gristmill.data.crawl.results import NothingKept, Result, finish, finished, load_earlier
from gristmill.data.crawl.state import HostRow, Row, State
from gristmill.data.crawl.urls import Scope, clean, origin

if TYPE_CHECKING:
    from gristmill.data.crawl.stage import Crawl

TICK = 0.2
"""Seconds after which a request to stop is noticed at the latest."""
_MOST_LEFT_OUT = 500
"""Addresses left out at one go before other hosts have their turn."""


def crawl(config: Crawl, folder: Path, *, seed: int = 0, earlier: Path | None = None, state: Path | None = None,
          progress: Progress | None = None, resolver: Resolver = system_resolver) -> Result:
    """Crawl into `folder`, or go on with what an interrupted crawl has left there.

    earlier: the folder of a crawl whose pages are asked for by condition. state: where the state of an unfinished crawl
    lies. A finished crawl is given as it is. Raises UserError for a folder with another crawl, for a crawl that could
    keep nothing, and Interrupted if a stop was asked for: what was reported is kept.
    """
    work = partial(_crawl, config, folder, seed, earlier, state or folder / ".scratch" / "crawl.sqlite",
                   progress or Silent(), resolver)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as thread:  # a notebook has an event loop of its own in this one
        return thread.submit(work).result()


def _crawl(config: Crawl, folder: Path, seed: int, earlier: Path | None, path: Path, progress: Progress,
           resolver: Resolver) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    identity = digest([non_default(config), seed])
    if (done := finished(folder, identity)) is not None:
        return done
    with interrupt.deferred():
        base = State(path, identity)
        try:
            load_earlier(base, earlier)
            work = _Crawler(config, folder, base, seed, earlier, resolver)
            with progress.bar("crawl", config.pages, "pages") as bar:
                whole = asyncio.run(work.run(bar))
            if not whole:
                interrupt.stop()
            seconds = time.monotonic() - work.began
            result = finish(config, folder, base, work.archive, identity, seconds)
        except NothingKept:
            base.close()
            _forget(path)  # or else this would be all that another run could say
            raise
        finally:
            base.close()
    _forget(path)
    return result


def _forget(path: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds something else
        path.parent.rmdir()


@dataclass
class _Host:
    """A host and its turn. ready: when it may be asked next. waits: is it in the queue of hosts? gate: is its
    robots.txt being fetched?"""

    row: HostRow
    ready: float = 0.0
    delay: float = 0.0
    waits: bool = False
    gate: bool = False


@dataclass(frozen=True)
class _Job:
    """A request under way: for a page, or (row is None) for the robots.txt of `origin`."""

    host: _Host
    row: Row | None = None
    former: Former | None = None
    origin: str = ""


class _Crawler:
    def __init__(self, config: Crawl, folder: Path, state: State, seed: int, earlier: Path | None,
                 resolver: Resolver) -> None:
        self.config, self.state, self.seed, self.manners = config, state, seed, config.politeness
        contact = config.contact if "://" in config.contact else f"mailto:{config.contact}"
        version = _version()
        agent = f"{config.agent}/{version} (+{contact})"
        self.fetcher = Fetcher(agent, config.limits, config.network, resolver)
        about = [("software", f"gristmill/{version}"), ("format", "WARC File Format 1.1"),
                 ("conformsTo", "http://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/"),
                 ("robots", "obey (RFC 9309)"), ("http-header-user-agent", agent), ("operator", config.contact)]
        self.archive = Archive(folder, about, state.parts(), config.archive_mb << 20)
        self.began, self.epoch = time.monotonic(), time.time()
        self.starts = [clean(url) for url in config.start]
        scope = Scope(config.scope, self.starts, config.include or (), config.exclude or ())
        self.keeper = Keeper(config, state, self.archive, scope, earlier, self.now)
        self.gate = Gate(state, self.fetcher, config.agent, self.manners, seed)
        self.hosts: dict[str, _Host] = {}
        self.queue: list[tuple[float, str]] = []
        self.jobs: dict[asyncio.Task[Answer | Failure], _Job] = {}
        self.fetched = self.reported = state.counts().get("fetched", 0)

    def now(self) -> float:
        """Seconds of the epoch by a clock that never goes back."""
        return self.epoch + time.monotonic() - self.began

    async def run(self, bar: Bar) -> bool:
        """Crawl; False if a stop was asked for before the end."""
        if self.fetched:
            bar.advance(self.fetched, "going on")
        with self.state.transaction():
            self.keeper.links(None, self.starts, via="start")
        for name in self.state.waiting_hosts():
            self._enqueue(self._host(name))
        try:
            while not interrupt.requested():
                self._dispatch()
                if not self.jobs and (not self.queue or self._full()):
                    return True
                pause = TICK
                if self.queue and not self._full() and len(self.jobs) < self.manners.total:
                    pause = min(TICK, max(0.0, self.queue[0][0] - self.now()))
                if not self.jobs:
                    if self.queue[0][0] > self.now() + 5:
                        bar.advance(0, f"waiting for {self.queue[0][1]}")
                    await asyncio.sleep(pause)
                    continue
                done, _ = await asyncio.wait(self.jobs, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                self._done([(self.jobs.pop(task), task.result()) for task in done], bar)
            return False
        finally:
            for task in self.jobs:
                task.cancel()
            await asyncio.gather(*self.jobs, return_exceptions=True)
            self.archive.leave()

    def _full(self) -> bool:
        return self.fetched + self._pages_under_way() >= self.config.pages

    def _pages_under_way(self, host: _Host | None = None) -> int:
        return sum(job.row is not None and not job.row.sitemap and host in (None, job.host)
                   for job in self.jobs.values())

    def _busy(self, host: _Host) -> list[int]:
        return [job.row.id for job in self.jobs.values() if job.host is host and job.row is not None]

    def _host(self, name: str) -> _Host:
        if name not in self.hosts:
            row = self.state.host(name)
            self.hosts[name] = _Host(row, row.not_before, self.manners.delay)
        return self.hosts[name]

    def _enqueue(self, host: _Host) -> None:
        """Let a host have its turn when it is ready."""
        under_way = sum(job.host is host for job in self.jobs.values())
        if not host.waits and not host.gate and under_way < self.manners.per_host:
            host.waits = True
            heapq.heappush(self.queue, (host.ready, host.row.host))

    def _dispatch(self) -> None:
        """Begin what may be begun now."""
        while self.queue and self.queue[0][0] <= self.now() and len(self.jobs) < self.manners.total:
            if self._full():
                return
            _, name = heapq.heappop(self.queue)
            host = self.hosts[name]
            host.waits = False
            if host.ready > self.now():
                self._enqueue(host)
                continue
            with self.state.transaction():
                job = self._choose(host)
            if job is None:
                continue
            work = self.gate.fetch(job.origin) if job.row is None else self._fetch(job.row, job.former)
            self.jobs[asyncio.ensure_future(_kept(work))] = job
            host.ready = self.now() + host.delay
            self._enqueue(host)

    def _choose(self, host: _Host) -> _Job | None:
        """What this host is asked next; None if that is nothing now."""
        busy = self._busy(host)
        for _ in range(_MOST_LEFT_OUT):
            if host.row.parked:
                self.state.leave_out("host_parked", host.row.parked, host=host.row.host, busy=busy)
                return None
            most = self.config.pages_per_host
            if most is not None and host.row.fetched + self._pages_under_way(host) >= most:
                if host.row.fetched >= most:
                    self.state.leave_out("host_limit", f"pages_per_host: {most}", host=host.row.host, busy=busy)
                return None
            row = self.state.next(host.row.host, self.now(), busy)
            if row is None:
                later = self.state.next_time(host.row.host, busy)
                if later is not None:
                    host.ready = max(host.ready, later)
                    self._enqueue(host)
                return None
            place = origin(row.url)
            robots = self.gate.row(place, self.now())
            if robots is None:
                host.gate = True
                return _Job(host, origin=place)
            if robots.state == "retry":
                host.ready = max(host.ready, robots.until)
                self._enqueue(host)
                return None
            if robots.state == "refused":
                self.keeper.left_out(row, robots.reason, robots.detail, 0, 0)
                continue
            rules = self.gate.rules(robots)
            host.delay = max(self.manners.delay, min(rules.delay or 0.0, self.manners.longest_delay))
            if not rules.allowed(row.url):
                self.keeper.left_out(row, "robots_disallowed", f"by {place}/robots.txt", 0, 0)
                continue
            return _Job(host, row, self.keeper.former(row))
        self._enqueue(host)
        return None

    async def _fetch(self, row: Row, former: Former | None) -> Answer:
        accept = "application/xml,text/xml,*/*;q=0.5" if row.sitemap else ",".join(
            [*sorted(self.config.accepted), "*/*;q=0.1"])
        headers = [("Accept", accept), ("Accept-Encoding", "gzip, br"), *(former.conditions() if former else [])]
        return await self.fetcher.fetch(row.url, headers, check=self.keeper.check(row, former))

    def _done(self, found: list[tuple[_Job, Answer | Failure]], bar: Bar) -> None:
        """Write down what requests brought, all of it or nothing; only then it is reported."""
        with self.state.transaction():
            for job, result in found:
                self._came(job, result)
            self.archive.flush()
        self.archive.publish()
        if self.fetched > self.reported:
            bar.advance(self.fetched - self.reported, found[-1][0].host.row.host)
            self.reported = self.fetched
        for host in [*(job.host for job, _ in found), *map(self._host, sorted(self.keeper.woken))]:
            self._enqueue(host)
        self.keeper.woken.clear()

    def _came(self, job: _Job, found: Answer | Failure) -> None:
        host = job.host
        host.gate = host.gate and job.row is not None
        host.ready = max(host.ready, self.now() + host.delay)
        self.state.count("requests")
        if isinstance(found, Answer):
            self.state.count("bytes", len(found.raw))
        if job.row is None:
            self._robots_came(job, found)
        elif isinstance(found, Failure):
            self._failed(host, job.row, found)
        else:
            host.row.failures = 0
            self.keeper.answer(job.row, found, job.former)
            self._count(host, job.row)
        self.state.save_host(host.row)

    def _robots_came(self, job: _Job, found: Answer | Failure) -> None:
        row, sitemaps = self.gate.settle(job.origin, found, self.now())
        if row.state == "rules":
            asked = self.gate.rules(row).delay or 0.0
            job.host.delay = max(self.manners.delay, min(asked, self.manners.longest_delay))
            job.host.ready = max(job.host.ready, self.now() + job.host.delay)
            if self.config.sitemaps:
                self.keeper.sitemaps(sitemaps, f"{job.origin}/robots.txt")

    def _failed(self, host: _Host, row: Row, failure: Failure) -> None:
        """Once more after a pause, or given up; a host that fails again and again is parked."""
        manners, about = self.manners, host.row
        if failure.host:
            about.failures += 1
        elif failure.status:
            about.failures = 0
        if failure.wait > manners.longest_wait:
            about.parked = (f"it asked to be left alone for {failure.wait:,.0f} s, "
                            f"longest_wait: {manners.longest_wait:g}")
        elif about.failures >= manners.failures:
            last = f"{failure.reason}: {failure.detail}"
            about.parked = f"{about.failures} failures one after the other, the last: {last}"
        if failure.retry and not about.parked:
            pause = max(failure.wait, backoff(manners, self.seed, about.host, about.failures))
            about.not_before = self.now() + pause
            host.ready = max(host.ready, about.not_before)
            if row.tries + 1 < manners.tries:
                self.state.again(row.id, about.not_before)
                self.state.count("retries")
                return
        self.keeper.left_out(row, failure.reason, failure.detail, failure.status, self.now())
        self._count(host, row)

    def _count(self, host: _Host, row: Row) -> None:
        """One page more that was asked for."""
        if not row.sitemap:
            host.row.fetched += 1
            self.fetched += 1
            self.state.count("fetched")


def _version() -> str:
    try:
        return importlib.metadata.version("gristmill")
    except importlib.metadata.PackageNotFoundError:  # a bare source tree
        return "0"


async def _kept(work: Any) -> Answer | Failure:
    """The answer, or the failure as a value."""
    try:
        return await work
    except Failure as failure:
        return failure
