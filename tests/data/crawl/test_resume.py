"""A crawl that is killed, stopped or runs into a full disk goes on as if nothing had been."""

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import os
import signal
import sqlite3

import pytest

from gristmill.core import interrupt
from gristmill.core.errors import MachineError, UserError
from gristmill.data.crawl.archive import Archive
from gristmill.data.crawl.crawler import crawl
from gristmill.data.crawl.settings import Network, Politeness
from gristmill.data.crawl.stage import Crawl
from gristmill.data.crawl.state import State
from tests.data.crawl.archives import pages, rejects, stored, summary
from tests.data.crawl.site_server import html
from tests.processes import start
from tests.shared import wait_for

PAGES = {"/": html("x", *(f"/{i}" for i in range(0, 40, 2)), "/gone"),
         **{f"/{i}": html(f"page {i}", f"/{i + 1}", f"/{(i * 7) % 40}", "/missing") for i in range(40)}}
PATHS = {"/", *(f"/{i}" for i in range(40))}


def config(at, **more):
    return Crawl(start=[at.url + "/"], contact="a@example.org", network=Network(allow=["127.0.0.1"]),
                 politeness=Politeness(delay=0, per_host=3, backoff=0.05), **more)


def crawl_and_listen(url, folder):
    """In a process of its own."""
    with interrupt.handlers():
        crawl(Crawl(start=[url], contact="a@example.org", network=Network(allow=["127.0.0.1"]),
                    politeness=Politeness(delay=0, per_host=3, backoff=0.05)), folder)


def begin(at, folder):
    """A real process that crawls."""
    return start(crawl_and_listen, at.url + "/", folder)


def settled(folder):
    """The paths of which the state says that they are done."""
    with contextlib.closing(sqlite3.connect(folder / ".scratch" / "crawl.sqlite")) as base:
        return {"/" + url.split("/", 3)[3] for (url,) in base.execute("SELECT url FROM urls WHERE state != 0")}


@pytest.mark.slow
def test_killed_at_any_moment(site, tmp_path):
    at = site(PAGES, pause=0.03)
    folder, marks = tmp_path / "killed", []
    for kill in (9, 20, 31):
        process = begin(at, folder)
        wait_for(lambda kill=kill: len(at.log) >= kill, process.alive)
        process.kill()
        wait_for(lambda: not at.under_way)
        marks.append((len(at.log), settled(folder)))
        assert len(marks[-1][1]) >= 3
        assert not (folder / "crawl.json").exists()
    process = begin(at, folder)
    assert process.ended() == 0, process.err
    for mark, done in marks:
        assert not {request.path for request in at.log[mark:]} & done, "what was done is not asked for again"
    assert sorted(stored(folder)) == sorted(PATHS)
    assert at.often()["/robots.txt"] == 1
    twice = {path: n for path, n in at.often().items() if n > 1}
    assert sum(n - 1 for n in twice.values()) <= 3 * 3, "only what was under way"
    crawl(config(at), tmp_path / "whole")
    assert pages(folder).keys() == pages(tmp_path / "whole").keys() == PATHS
    assert rejects(folder).keys() == rejects(tmp_path / "whole").keys() == {"/gone", "/missing", "/40"}
    assert {k: v for k, v in summary(folder).items() if k != "requests"} == {
        k: v for k, v in summary(tmp_path / "whole").items() if k != "requests"}


def test_sigterm_stops_politely_and_the_next_run_goes_on(site, tmp_path):
    at = site(PAGES, pause=0.03)
    process = begin(at, tmp_path / "crawl")
    wait_for(lambda: len(at.log) >= 8, process.alive, lambda: process.err)
    process.tell(signal.SIGTERM)
    assert process.ended() != 0
    assert "it continues where it stopped" in process.err
    wait_for(lambda: not at.under_way)
    done, mark = settled(tmp_path / "crawl"), len(at.log)
    assert len(done) >= 2
    crawl(config(at), tmp_path / "crawl")
    assert not {request.path for request in at.log[mark:]} & done
    assert sorted(stored(tmp_path / "crawl")) == sorted(PATHS)


class Died(BaseException):
    """As if the process had been killed here."""


@pytest.mark.parametrize(("method", "moment"), itertools.product(
    ["append", "flush", "publish", "close", "after append", "after publish", "after close"], [1, 3]))
def test_died_between_two_writes(site, tmp_path, monkeypatch, method, moment):
    at = site({"/": html("x", *(f"/{i}" for i in range(5))), **{f"/{i}": os.urandom(700_000).hex() for i in range(5)}})
    calls = itertools.count(1)
    name = method.removeprefix("after ")
    whole = getattr(Archive, name)

    def dies(self, *values):
        if not method.startswith("after ") and next(calls) == moment:
            if method == "append":  # half of it is there
                whole(self, *values)
                os.ftruncate(self._file, self.end - 1000)
            raise Died
        found = whole(self, *values)
        if method.startswith("after ") and next(calls) == moment:
            raise Died
        return found

    monkeypatch.setattr(Archive, name, dies)
    if "close" in method and moment > 1:
        moment = 1
    with pytest.raises(Died):
        crawl(config(at, archive_mb=1), tmp_path / "crawl")
    monkeypatch.undo()
    crawl(config(at, archive_mb=1), tmp_path / "crawl")
    assert sorted(stored(tmp_path / "crawl")) == sorted(["/", *(f"/{i}" for i in range(5))])
    assert len(pages(tmp_path / "crawl")) == 6
    assert not list((tmp_path / "crawl").glob("*.part"))


def test_a_full_disk_is_said_and_nothing_is_lost(site, tmp_path, monkeypatch):
    at = site(PAGES)
    calls = itertools.count(1)

    def full(*values):
        if next(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*values)

    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(MachineError, match="the disk is full"):
        crawl(config(at), tmp_path / "crawl")
    done = settled(tmp_path / "crawl")
    mark = len(at.log)
    crawl(config(at), tmp_path / "crawl")
    assert not {request.path for request in at.log[mark:]} & done
    assert sorted(stored(tmp_path / "crawl")) == sorted(PATHS)


def test_two_crawls_do_not_share_a_folder(site, tmp_path):
    at = site(PAGES)
    held = State(tmp_path / "crawl" / ".scratch" / "crawl.sqlite", "x")
    with pytest.raises(UserError, match="another crawl is at work"):
        crawl(config(at), tmp_path / "crawl")
    held.close()


def test_inside_of_an_event_loop(site, tmp_path):
    at = site({"/": html("x")})

    async def notebook():
        return crawl(config(at), tmp_path / "crawl").summary["pages"]

    assert asyncio.run(notebook()) == 1


def test_archives_that_were_changed_meanwhile(site, tmp_path, monkeypatch):
    at = site(PAGES)
    calls = itertools.count(1)
    flush = Archive.flush

    def dies(self):
        flush(self)
        if next(calls) == 6:
            raise Died

    monkeypatch.setattr(Archive, "flush", dies)
    for name in ("longer", "shorter"):
        calls = itertools.count(1)
        with pytest.raises(Died):
            crawl(config(at), tmp_path / name)
    monkeypatch.undo()
    with (tmp_path / "longer" / "pages-00000.warc.gz.part").open("ab") as file:
        file.write(b"something")
    crawl(config(at), tmp_path / "longer")
    assert sorted(stored(tmp_path / "longer")) == sorted(PATHS)
    os.truncate(tmp_path / "shorter" / "pages-00000.warc.gz.part", 100)
    with pytest.raises(UserError, match="has 100 of its"):
        crawl(config(at), tmp_path / "shorter")


def test_other_settings_do_not_go_on_with_it(site, tmp_path, monkeypatch):
    at = site(PAGES)
    monkeypatch.setattr(Archive, "flush", lambda self: (_ for _ in ()).throw(Died))
    with pytest.raises(Died):
        crawl(config(at), tmp_path / "crawl")
    monkeypatch.undo()
    with pytest.raises(UserError, match="unfinished crawl with other settings"):
        crawl(dataclasses.replace(config(at), depth=1), tmp_path / "crawl")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "pages-00000.warc.gz").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="in the way of a new crawl"):
        crawl(config(at), tmp_path / "foreign")
    assert (tmp_path / "foreign" / "pages-00000.warc.gz").read_bytes() == b"somebody's"
