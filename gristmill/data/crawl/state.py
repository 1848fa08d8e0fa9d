"""What a crawl knows: every address with what became of it, hosts, robots.txt files, ends of archive files.

SQLite, because one transaction then covers a page, its links and the place where the archive ends: after a kill either
all of it is there or nothing. Addresses wait on disk, not in memory. One thread uses it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.core.errors import MachineError, UserError

WAITING, STORED, LEFT_OUT, REDIRECTED, READ = range(5)
"""What became of an address; READ is a sitemap."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS urls (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, url TEXT NOT NULL, host TEXT NOT NULL, sitemap INTEGER NOT NULL,
    depth INTEGER NOT NULL, redirects INTEGER NOT NULL, via TEXT NOT NULL, state INTEGER NOT NULL,
    not_before REAL NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, time REAL NOT NULL DEFAULT 0,
    status INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '',
    facts TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS waiting ON urls (host, depth, id) WHERE state = 0;
CREATE TABLE IF NOT EXISTS hosts (host TEXT PRIMARY KEY, not_before REAL NOT NULL, failures INTEGER NOT NULL,
    parked TEXT NOT NULL, fetched INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS robots (origin TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL,
    detail TEXT NOT NULL, body BLOB NOT NULL, until REAL NOT NULL, tries INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (part INTEGER PRIMARY KEY, end INTEGER NOT NULL, complete INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS shapes (shape BLOB PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS earlier (key BLOB PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """An address that waits to be asked for."""

    id: int
    key: bytes
    url: str
    host: str
    sitemap: bool
    depth: int
    redirects: int
    tries: int


@dataclass(slots=True)
class HostRow:
    """A host. not_before: seconds of the epoch; parked: why nothing more is asked of it; fetched: pages asked for."""

    host: str
    not_before: float = 0.0
    failures: int = 0
    parked: str = ""
    fetched: int = 0


@dataclass(slots=True)
class RobotsRow:
    """The robots.txt of an origin. state: rules (the body says), retry (not before `until`), or refused (nothing may be
    fetched in this crawl). until: when it is to be fetched again."""

    origin: str
    state: str
    reason: str = ""
    detail: str = ""
    body: bytes = b""
    until: float = 0.0
    tries: int = 0


class State:
    """The database of one crawl."""

    def __init__(self, path: Path, identity: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.base = sqlite3.connect(path, isolation_level=None, timeout=0.5)
            self.base.execute("PRAGMA locking_mode = EXCLUSIVE")  # two crawls would write over each other's archives
            self.base.execute("PRAGMA journal_mode = WAL")
            self.base.execute("PRAGMA synchronous = FULL")
            self.base.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise UserError("another crawl is at work in this folder", where=str(path.parent.parent),
                                fix="wait for it, or name another folder") from error
            raise UserError(f"the state of this crawl cannot be read ({error})", where=str(path),
                            fix="crawl into a new folder") from error
        self.inside = False
        known = self.note("identity")
        if known is not None and known != identity:
            self.close()
            raise UserError("this folder holds an unfinished crawl with other settings", where=str(path.parent),
                            fix="give the same settings as before, or a new folder")
        if known is None:
            self.set_note("identity", identity)
        self.known = int(self._one("SELECT COUNT(*) FROM urls"))

    def close(self) -> None:
        self.base.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; one inside another joins it."""
        if self.inside:
            yield
            return
        self.inside = True
        try:
            self.base.execute("BEGIN")
            yield
            self.base.execute("COMMIT")
        except BaseException as error:
            if self.base.in_transaction:
                self.base.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise MachineError(f"the state of the crawl cannot be written ({error})",
                                   fix="free some space; then run the same command again, it goes on") from error
            raise
        finally:
            self.inside = False

    def _one(self, query: str, values: tuple[Any, ...] = ()) -> Any:
        row = self.base.execute(query, values).fetchone()
        return row[0] if row else None

    def note(self, name: str) -> str | None:
        return self._one("SELECT value FROM notes WHERE name = ?", (name,))

    def set_note(self, name: str, value: str) -> None:
        self.base.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def count(self, name: str, n: int = 1) -> None:
        if n:
            self.base.execute("INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n",
                              (name, n))

    def counts(self) -> dict[str, int]:
        return dict(self.base.execute("SELECT name, n FROM counts ORDER BY name"))

    # Addresses

    def knows(self, key: bytes) -> bool:
        return self._one("SELECT 1 FROM urls WHERE key = ?", (key,)) is not None

    def add(self, key: bytes, url: str, host: str, *, depth: int, via: str, redirects: int = 0, sitemap: bool = False,
            reason: str = "", detail: str = "") -> bool:
        """Remember an address, waiting or (with a reason) left out; False if it was known."""
        cursor = self.base.execute(
            "INSERT OR IGNORE INTO urls (key, url, host, sitemap, depth, redirects, via, state, reason, detail) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (key, url, host, sitemap, depth, redirects, via, LEFT_OUT if reason else WAITING, reason, detail))
        self.known += cursor.rowcount
        return cursor.rowcount == 1

    def variant(self, shape: bytes) -> int:
        """One more address of this shape; how many there are now."""
        return int(self._one("INSERT INTO shapes VALUES (?, 1) ON CONFLICT (shape) DO UPDATE SET n = n + 1 "
                             "RETURNING n", (shape,)))

    def next(self, host: str, now: float, busy: Iterable[int]) -> Row | None:
        """The address of this host that has its turn: those found by fewer links first, then those found earlier."""
        rows = self.base.execute(
            "SELECT id, key, url, host, sitemap, depth, redirects, tries FROM urls "
            "WHERE state = 0 AND host = ? AND not_before <= ? ORDER BY depth, id LIMIT ?",
            (host, now, len(list(busy)) + 1))
        row = next((row for row in rows if row[0] not in busy), None)
        return None if row is None else Row(*row)

    def next_time(self, host: str, busy: Iterable[int]) -> float | None:
        """When an address of this host will have its turn; None if none waits."""
        rows = self.base.execute("SELECT id, not_before FROM urls WHERE state = 0 AND host = ? ORDER BY not_before "
                                 "LIMIT ?", (host, len(list(busy)) + 1))
        return next((at for number, at in rows if number not in busy), None)

    def waiting_hosts(self) -> list[str]:
        return [host for (host,) in self.base.execute("SELECT host FROM urls WHERE state = 0 GROUP BY host "
                                                      "ORDER BY MIN(id)")]

    def settle(self, number: int, state: int, *, time: float = 0.0, status: int = 0, reason: str = "",
               detail: str = "", facts: Mapping[str, Any] | None = None) -> None:
        """Write down what became of an address."""
        self.base.execute(
            "UPDATE urls SET state = ?, time = ?, status = ?, reason = ?, detail = ?, facts = ?, tries = tries + ? "
            "WHERE id = ?",
            (state, time, status, reason, detail, json.dumps(facts) if facts else "", bool(time or status), number))

    def again(self, number: int, not_before: float) -> None:
        """It is to be tried once more, not before this time."""
        self.base.execute("UPDATE urls SET tries = tries + 1, not_before = ? WHERE id = ?", (not_before, number))

    def moved(self, number: int, url: str, host: str) -> None:
        """It was sent on to another spelling of the same address."""
        self.base.execute("UPDATE urls SET url = ?, host = ?, redirects = redirects + 1, tries = 0 WHERE id = ?",
                          (url, host, number))

    def leave_out(self, reason: str, detail: str, *, host: str | None = None, busy: Iterable[int] = ()) -> int:
        """All that waits (of one host) is left out but what is under way; how many that were."""
        held = ",".join(str(int(number)) for number in busy)
        where = f"state = 0 AND id NOT IN ({held})" + (" AND host = ?" if host is not None else "")
        cursor = self.base.execute(f"UPDATE urls SET state = 2, reason = ?, detail = ? WHERE {where}",
                                   (reason, detail, *([host] if host is not None else [])))
        return cursor.rowcount

    def settled(self, *states: int) -> Iterator[dict[str, Any]]:
        """Addresses in these states, in the order in which they were found."""
        marks = ",".join("?" * len(states))
        cursor = self.base.execute(f"SELECT url, depth, redirects, via, state, time, status, reason, detail, tries, "
                                   f"facts FROM urls WHERE state IN ({marks}) ORDER BY id", states)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            found = dict(zip(names, row, strict=True))
            found["facts"] = json.loads(found["facts"] or "{}")
            yield found

    def tally(self) -> list[tuple[int, str, int, int]]:
        """(state, reason, whether it was asked for, how many)."""
        return list(self.base.execute("SELECT state, reason, time > 0, COUNT(*) FROM urls WHERE sitemap = 0 "
                                      "GROUP BY state, reason, time > 0"))

    # Hosts, robots.txt, files

    def host(self, name: str) -> HostRow:
        row = self.base.execute("SELECT * FROM hosts WHERE host = ?", (name,)).fetchone()
        return HostRow(*row) if row else HostRow(name)

    def save_host(self, row: HostRow) -> None:
        self.base.execute("INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?, ?)",
                          (row.host, row.not_before, row.failures, row.parked, row.fetched))

    def hosts(self) -> list[HostRow]:
        return [HostRow(*row) for row in self.base.execute("SELECT * FROM hosts ORDER BY host")]

    def robots(self, origin: str) -> RobotsRow | None:
        row = self.base.execute("SELECT * FROM robots WHERE origin = ?", (origin,)).fetchone()
        return RobotsRow(*row) if row else None

    def save_robots(self, row: RobotsRow) -> None:
        self.base.execute("INSERT OR REPLACE INTO robots VALUES (?, ?, ?, ?, ?, ?, ?)",
                          (row.origin, row.state, row.reason, row.detail, row.body, row.until, row.tries))

    def parts(self) -> dict[int, tuple[int, bool]]:
        return {part: (end, bool(complete)) for part, end, complete in self.base.execute("SELECT * FROM parts")}

    def save_part(self, part: int, end: int) -> None:
        self.base.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, 0)", (part, end))
        self.base.execute("UPDATE parts SET complete = 1 WHERE part < ?", (part,))

    def save_earlier(self, rows: Iterable[tuple[bytes, Mapping[str, Any]]]) -> None:
        self.base.executemany("INSERT OR REPLACE INTO earlier VALUES (?, ?)",
                              ((key, json.dumps(facts)) for key, facts in rows))

    def earlier(self, key: bytes) -> dict[str, Any] | None:
        found = self._one("SELECT facts FROM earlier WHERE key = ?", (key,))
        return json.loads(found) if found else None
