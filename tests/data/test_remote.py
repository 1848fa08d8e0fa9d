"""Inputs behind URLs: a real web server that fails in many ways, fsspec's own memory, a data set behind either."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.core.errors import UserError
from gristmill.data import remote
from gristmill.data.documents import Document, Reject
from gristmill.data.inputs import list_inputs, open_input
from gristmill.data.sources import Files, HuggingFace, Warc, Wikipedia
from tests.data.reading import read_all


class Server(http.server.SimpleHTTPRequestHandler):
    """Sends files and parts of them; `failures` says what happens to the next requests for content: a status, or the
    number of bytes after which the line is cut."""

    folder = Path()
    failures: list[int] = []
    asked: list[str] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Range", "whole"))
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.folder / self.path.split("?")[0].lstrip("/")
        failure = self.failures.pop(0) if body and self.failures else 0
        if not path.is_file() or failure >= 400:
            self.send_error(failure or 404)
            return
        data = path.read_bytes()
        first, last, status = 0, len(data) - 1, 200
        if wanted := self.headers.get("Range"):
            begin, end = wanted.removeprefix("bytes=").split("-")
            first, last, status = int(begin), min(int(end or last), last), 206
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body:
            self.wfile.write(data[first: min(last + 1, first + failure) if failure else last + 1])
            if failure:
                self.wfile.flush()
                self.connection.close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01, 0.01))
    Server.folder, Server.failures, Server.asked = tmp_path, [], []
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()


def jsonl(count: int, pad: int = 0) -> bytes:
    return b"".join(json.dumps({"text": f"text {n} {'x' * pad}"}).encode() + b"\n" for n in range(count))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.warc.gz", "a.xml"])
def test_the_same_from_a_web_server_as_from_the_disk(tmp_path: Path, server: str, name: str) -> None:
    records = jsonl(3000, pad=100)
    if name.startswith("a.jsonl"):
        (tmp_path / name).write_bytes(gzip.compress(records) if name.endswith("gz") else records)
    elif name == "a.parquet":
        pq.write_table(pa.table({"text": [f"row {n}" for n in range(5000)]}), tmp_path / name, row_group_size=500)
    elif name == "a.xml":
        page = "<page><title>T{0}</title><ns>0</ns><revision><text>Some text {0}.</text></revision></page>"
        (tmp_path / name).write_text("<mediawiki>" + "".join(page.format(n) for n in range(2000)) + "</mediawiki>")
    else:
        (tmp_path / name).write_bytes(b"".join(gzip.compress(
            b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: %d\r\n\r\npage %d\r\n\r\n"
            % (len(b"page %d" % n), n)) for n in range(2000)))
    kind = {"a.warc.gz": Warc, "a.xml": Wikipedia}.get(name, Files)
    here, there = (read_all(kind(path=path), "s", size) for path, size in (
        (str(tmp_path / name), 1 << 40), (f"{server}/{name}", (tmp_path / name).stat().st_size // 3)))
    assert here == there
    assert len(here) >= 2000
    assert any(asked.startswith("bytes=") and not asked.startswith("bytes=0-") for asked in Server.asked)


@pytest.mark.parametrize("failure", [500, 503, 1000, 1])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_server_that_fails_now_and_then_is_asked_again(tmp_path: Path, server: str, failure: int, name: str) -> None:
    records = jsonl(300, pad=50)
    (tmp_path / name).write_bytes(gzip.compress(records, 0) if name.endswith("gz") else records)
    source = Files(path=f"{server}/{name}")
    item = source.inputs()[0]
    Server.failures = [0, failure, failure]
    found = [one for part in source.ranges(item, item.size // 2) for one in source.read(part, "s")]
    assert [one.text for one in found if isinstance(one, Document)] == [
        json.loads(line)["text"] for line in records.splitlines()]
    assert len(found) == 300
    assert not Server.failures


def test_a_server_that_goes_on_failing_costs_a_reject(tmp_path: Path, server: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(12_000, pad=1000))
    source = Files(path=f"{server}/a.jsonl")
    item = source.inputs()[0]
    part = source.ranges(item, 1 << 40)[0]
    found = []
    for one in source.read(part, "s"):
        found.append(one)
        if len(found) == 10:
            Server.failures = [500] * 1000
    assert 1000 < len(found) < 12_000, "what had come is kept"
    assert all(isinstance(one, Document) for one in found[:-1])
    assert isinstance(found[-1], Reject)
    assert (found[-1].reason, "500" in found[-1].detail) == ("unreadable_file", True)
    assert 1000 - len(Server.failures) < 20, "it was asked a few times, not for ever"
    Server.failures = []
    (tmp_path / "a.jsonl").unlink()
    Server.asked.clear()
    gone = list(source.read(part, "s"))
    assert [one.reason for one in gone if isinstance(one, Reject)] == ["unreadable_file"]
    assert len(Server.asked) <= 4, "what is not there is not asked for again"


def test_a_file_that_changed_since_it_was_listed(tmp_path: Path, server: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(100))
    item = list_inputs(f"{server}/a.jsonl")[0]
    (tmp_path / "a.jsonl").write_bytes(jsonl(50))
    with pytest.raises(OSError, match="bytes when it was listed"):
        open_input(item).read()


def test_servers_that_are_not_there_and_unknown_protocols_are_refused_at_once() -> None:
    for url in ("http://127.0.0.1:9/a.jsonl", "nosuch://bucket/a.jsonl", "http://[broken/a.jsonl"):
        with pytest.raises(UserError, match="cannot be read"):
            Files(path=url).inputs()


def test_a_data_set_behind_urls_and_in_a_folder(tmp_path: Path) -> None:
    """What `datasets` wrote, and a clone with a card, are the same from the disk and from memory://."""
    table = pa.table({"content": ["one", "two", "three"], "url": ["https://a.example/1", None, "https://a.example/3"]})
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 1), folder / "data" / "test-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\nA set.")
    files = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe(f"/remote/set/{path.relative_to(folder)}", path.read_bytes())
    try:
        for place in (str(folder), "memory://remote/set"):
            found = read_all(HuggingFace(dataset=place, columns={"text": "content"}), "s")
            assert [one.text for one in found if isinstance(one, Document)] == ["one", "two", "three"]
            assert isinstance(found[0], Document)
            assert (found[0].metadata["license"], found[0].metadata["dataset"]) == ("cc-by-4.0", "set")
            assert len(read_all(HuggingFace(dataset=place, split="test", columns={"text": "content"}))) == 1
    finally:
        files.rm("/remote", recursive=True)
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": datasets.Dataset(table)}).save_to_disk(str(tmp_path / "saved"))
    found = read_all(HuggingFace(dataset=str(tmp_path / "saved"), columns={"text": "content"}), "s")
    assert [one.text for one in found if isinstance(one, Document)] == ["one", "two", "three"]
