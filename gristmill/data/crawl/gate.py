"""The robots.txt of every origin: fetched once, kept for its lifetime, asked before every request (RFC 9309, 2.3).

2xx: its rules. 4xx: there are none, everything is allowed; 429 counts as no answer, since it is one only to how often
was asked. 5xx and network failures: nothing is allowed; asked again after a pause, and given up after some tries.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from gristmill.core.seeds import fraction
from gristmill.data.crawl.fetch import Answer, Failure, Fetcher
from gristmill.data.crawl.reading import retry_after
from gristmill.data.crawl.robots import LONGEST, Robots, parse_robots
from gristmill.data.crawl.settings import Politeness
from gristmill.data.crawl.state import RobotsRow, State
from gristmill.data.crawl.urls import NoAddress, clean
from gristmill.data.formats.http_message import Undecodable, parse_response, unpacked

LONGEST_LIFE, SHORTEST_LIFE = 86_400.0, 600.0
"""Seconds that a robots.txt is kept: 24 hours (RFC 9309, 2.4) or what its Cache-Control says, but ten minutes."""
REDIRECTS = 5
"""That are followed; behind more of them there is no robots.txt (RFC 9309, 2.3.1.2)."""
MOVED = frozenset([301, 302, 303, 307, 308])
_MAX_AGE = re.compile(r"\bmax-age\s*=\s*\"?(\d{1,9})", re.I)


class Gate:
    """Says of every address whether it may be asked for."""

    def __init__(self, state: State, fetcher: Fetcher, agent: str, manners: Politeness, seed: int) -> None:
        self.state, self.fetcher, self.agent, self.manners, self.seed = state, fetcher, agent, manners, seed
        self.parsed: dict[str, tuple[float, Robots]] = {}

    def row(self, origin: str, now: float) -> RobotsRow | None:
        """What is known of an origin; None if its robots.txt is to be fetched now."""
        found = self.state.robots(origin)
        if found is None or (found.state != "refused" and found.until <= now):
            return None
        return found

    def rules(self, row: RobotsRow) -> Robots:
        """The rules of a row in the state `rules`."""
        held = self.parsed.get(row.origin)
        if held is None or held[0] != row.until:
            if len(self.parsed) > 1000:
                self.parsed.clear()
            held = self.parsed[row.origin] = (row.until, parse_robots(row.body, self.agent))
        return held[1]

    async def fetch(self, origin: str) -> Answer:
        """The answer to origin/robots.txt, redirects followed with the usual pause. Raises Failure."""
        url = f"{origin}/robots.txt"
        for hop in range(REDIRECTS + 1):
            if hop:
                await asyncio.sleep(self.manners.delay)
            headers = [("Accept", "text/plain,*/*;q=0.1"), ("Accept-Encoding", "identity")]
            answer = await self.fetcher.fetch(url, headers, longest=LONGEST + 1, cut=True)
            if answer.status not in MOVED or not answer.location:
                return answer
            try:
                url = clean(answer.location, url)
            except NoAddress as problem:
                raise Failure("robots_redirect", problem.detail) from None
        return replace(answer, status=404)

    def settle(self, origin: str, found: Answer | Failure, now: float) -> tuple[RobotsRow, list[str]]:
        """Write down what came of a fetch: what is known now, and the sitemaps that are named."""
        before = self.state.robots(origin)
        row = RobotsRow(origin, "rules", until=now + LONGEST_LIFE)
        failure = found if isinstance(found, Failure) else self._unusable(found, now)
        sitemaps: list[str] = []
        if failure is None:
            assert isinstance(found, Answer)
            row.body = b"" if 300 <= found.status <= 499 else _body(found)
            age = _MAX_AGE.search(found.header("cache-control"))
            if age:
                row.until = now + min(LONGEST_LIFE, max(SHORTEST_LIFE, float(age[1])))
            sitemaps = parse_robots(row.body, self.agent).sitemaps
        elif not failure.retry:
            row.state, row.reason, row.detail = "refused", failure.reason, f"robots.txt: {failure.detail}"
        else:
            row.tries = (before.tries if before else 0) + 1
            row.reason, row.detail = "robots_unavailable", f"{failure.reason}: {failure.detail}"
            pause = max(failure.wait, backoff(self.manners, self.seed, origin, row.tries))
            over = row.tries >= self.manners.tries or failure.wait > self.manners.longest_wait
            row.state, row.until = ("refused" if over else "retry"), now + pause
        self.state.save_robots(row)
        self.state.count("robots_fetched")
        return row, sitemaps

    def _unusable(self, answer: Answer, now: float) -> Failure | None:
        if answer.status == 429 or not 200 <= answer.status <= 499:
            return Failure("http_status", f"status {answer.status}", retry=True,
                           wait=retry_after(answer.header("retry-after"), now))
        return None


def _body(answer: Answer) -> bytes:
    """The file itself; packed although that was not asked for, it is unpacked within bounds, or read as it is."""
    try:
        return unpacked(parse_response(answer.raw), 16 * LONGEST)[0][: LONGEST + 1]
    except Undecodable:
        return answer.body[: LONGEST + 1]


def backoff(manners: Politeness, seed: int, what: str, tries: int) -> float:
    """Seconds before the next try: doubled with each, from half to one and a half times that by the seed."""
    return min(manners.backoff * 2.0 ** (tries - 1) * (0.5 + fraction(seed, what, tries)), 3600.0)
