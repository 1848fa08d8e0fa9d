"""Bad input of every kind: counted, kept with a reason that explains; the run goes on in bounded time and memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import socket
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject, iterate_documents
from gristmill.data.inputs import fingerprint, list_inputs
from gristmill.data.sources import Code, Files, Warc
from tests.data.reading import read_all
from tests.shared import HANG

WORDS = "the quiet river and the garden that we have to cross with a light of stone by the old mill in the evening"


def text(number: int) -> str:
    """A document that stays."""
    return f"Number {number} says: {WORDS}. " + " ".join(f"w{number}x{n * 37 % 101}" for n in range(60)) + "."


def records(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def warc(texts: list[str], *, pack: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    found = b""
    for body in (text.encode() for text in texts):
        found += pack(b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: https://example.org/%s\r\nContent-Type: "
                      b"text/plain\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (
                          body[:12].replace(b" ", b"-"), len(body), body))
    return found


def zipped(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return held.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return held.getvalue()[: 512 * (sum(1 + -(-len(data) // 512) for data in files.values()) + 2)]


def parquet(texts: list[str], group: int = 2) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=group)
    return sink.getvalue()


SHORT = [f"document {n} with a few words" for n in range(3)]
MEMBERS = {f"{n}.txt": text.encode() for n, text in enumerate(SHORT)}


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


CUT: dict[str, tuple[bytes, type[Files] | type[Warc]]] = {
    "a.jsonl": (records(SHORT), Files),
    "a.jsonl.gz": (gzip.compress(records(SHORT), mtime=0), Files),
    "a.jsonl.bz2": (bz2.compress(records(SHORT)), Files),
    "a.jsonl.xz": (lzma.compress(records(SHORT)), Files),
    "a.jsonl.zst": (zstd(records(SHORT)), Files),
    "a.parquet": (parquet(SHORT), Files),
    "a.zip": (zipped(MEMBERS), Files),
    "a.tar": (tarred(MEMBERS), Files),
    "a.tar.gz": (gzip.compress(tarred(MEMBERS), mtime=0), Files),
    "a.warc": (warc(SHORT, pack=bytes), Warc),
    "a.warc.gz": (warc(SHORT, pack=lambda data: gzip.compress(data, mtime=0)), Warc),
    "a.warc.zst": (warc(SHORT, pack=zstd), Warc),
}
UNSAID = {"a.jsonl": 6, "a.warc": 15, "a.tar": 1024, "a.tar.gz": 16}
"""Cuts after which nothing is missing, or nothing that anybody knows of: at the end of a record, and in what follows
the last."""


@pytest.mark.parametrize("name", CUT)
def test_cut_at_any_byte_the_documents_before_come_and_one_reject(tmp_path: Path, name: str) -> None:
    data, kind = CUT[name]
    path = tmp_path / name
    source = kind(path=str(path))
    path.write_bytes(data)
    assert [found.text for found in read_all(source, "s") if isinstance(found, Document)] == SHORT
    unsaid = last = 0
    for cut in range(1, len(data), 1 if len(data) < 2048 else 7):
        path.write_bytes(data[:cut])
        found = read_all(source, "s")
        documents = [one for one in found if isinstance(one, Document)]
        rejects = [one for one in found if isinstance(one, Reject)]
        assert [d.text for d in documents] == SHORT[: len(documents)], cut
        assert len(documents) >= last, cut
        assert len(rejects) <= 1, (cut, rejects)
        assert all(one.detail and found[-1] is one for one in rejects)
        unsaid, last = unsaid + (not rejects), len(documents)
    assert unsaid <= UNSAID.get(name, 2), unsaid
    assert last >= (2 if name not in ("a.zip", "a.parquet", "a.jsonl.zst") else 0)


NOTHING = 1 << 20
"""Bytes of zeros that are written at once."""


def hole(path: Path, before: bytes, size: int, after: bytes) -> None:
    """A file with `size` zeros inside that take no place on the disk."""
    with path.open("wb") as file:
        file.write(before)
        file.seek(size, os.SEEK_CUR)
        file.write(after)


def bomb(path: Path, before: bytes, size: int, after: bytes) -> None:
    """The same compressed by what the name says."""
    level: dict[str, Any] = {"preset": 0} if path.suffix == ".xz" else {"compresslevel": 1}
    with {".gz": gzip, ".bz2": bz2, ".xz": lzma}[path.suffix].open(path, "wb", **level) as file:
        file.write(before)
        for _ in range(size // NOTHING):
            file.write(bytes(NOTHING))
        file.write(after)


def corpus(base: Path) -> tuple[list[dict[str, Any]], set[int]]:
    """Sources of bad input with good documents among it, and the numbers of those."""
    from tests.data.sources.test_pdf import PROSE, column, make

    number = 0

    def new(count: int = 1) -> list[str]:
        nonlocal number
        number += count
        return [text(number - count + n) for n in range(count)]

    folder = base / "files"
    folder.mkdir(parents=True)
    long = json.dumps({"text": new()[0]}).encode() + b"\n"
    hole(folder / "long_line.jsonl", long, 200 << 20, b"\n" + records(new()))
    bomb(folder / "long_line.jsonl.gz", records(new()), 200 << 20, b"\n" + records(new()))
    hole(folder / "long.txt", b"text", 200 << 20, b"text")
    hole(folder / "long.json", b'[{"text": "' + new()[0].encode() + b'"}, {"text": "', 80 << 20,
         b'"}, {"text": "' + new()[0].encode() + b'"}]')
    (folder / "deep.json").write_bytes(b'[{"text": "' + new()[0].encode() + b'"}, ' + b"[" * 100_000 + b"]" * 100_000
                                       + b"]")
    (folder / "deep.jsonl").write_bytes(b"[" * 100_000 + b"\n" + records(new()))
    (folder / "deep.html").write_bytes(b"<html><body>" + b"<div>" * 100_000 + b"deep" + b"</div>" * 100_000)
    (folder / "duplicate.jsonl").write_bytes(b"".join(
        json.dumps({"id": "same", "text": one}).encode() + b"\n" for one in new(3)))
    for name, data in {"empty.txt": b"", "empty.jsonl": b"", "empty.parquet": b"", "empty.zip": b"", "empty.tar": b"",
                       "empty.jsonl.gz": b"", "noise.txt": bytes(range(256)) * 9, "noise.jsonl.zst": b"no zstd",
                       "wrong.csv": b"text\n\"never closed\n" + b"x\n" * 99}.items():
        (folder / name).write_bytes(data)
    (folder / "latin.txt").write_bytes(("Größe und Übung, schön und süß. " * 20).encode("latin-1"))
    (folder / "utf16.txt").write_bytes(new()[0].encode("utf-16"))
    (folder / "half.txt").write_bytes(b"\xff\xfe" + b"\0\xd8" * 9)
    Path(os.fsdecode(os.fsencode(folder) + b"/name\xff\xfe.txt")).write_text(new()[0])
    for ending, pack in {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}.items():
        lost = records([f"{ending} {n}" for n in range(9)])
        (folder / f"cut.jsonl{ending}").write_bytes(pack(records(new(40))) + pack(lost)[:-9])
        (folder / f"whole.jsonl{ending}").write_bytes(pack(records(new(2))))
    (folder / "cut.parquet").write_bytes(parquet(["lost", "too"])[:-9])
    (folder / "cut.zip").write_bytes(zipped({"a.txt": b"lost"})[:-9])
    (folder / "cut.tar").write_bytes(tarred({"a.txt": new()[0].encode(), "b.txt": b"b" * 3000})[:-2000])
    (folder / "bad.zip").write_bytes(zipped({"../up.txt": b"up", "in.zip": b"PK", "a.txt": new()[0].encode()}))
    bomb(folder / "bomb.jsonl.bz2", records(new()), 300 << 20, b"\n" + records(["behind the limit"]))
    bomb(folder / "bomb.tar.xz", tarred({"a.txt": new()[0].encode()})[:-1024], 8 << 20, b"")
    (folder / "up").symlink_to(folder, target_is_directory=True)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "gone.txt").symlink_to(folder / "nothing.txt")
    os.mkfifo(folder / "pipe.txt")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket may have 107 bytes
    listening.bind("socket.txt")
    os.chdir(here)
    listening.close()
    if os.geteuid() == 0:
        os.mknod(folder / "device.txt", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero

    pages = base / "warc"
    pages.mkdir()
    absurd = [b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: %s\r\n\r\nshort\r\n\r\n" % length for length in (
        b"99999999999999999", b"-5", b"1e9", b"9" * 5000)]
    (pages / "a.warc.gz").write_bytes(warc(new(2)) + b"".join(map(gzip.compress, absurd)) + warc(new(2)) + warc(
        ["cut"])[:-30])
    (pages / "b.warc").write_bytes(warc(new(2), pack=bytes) + absurd[0])
    with (pages / "bomb.warc.gz").open("wb") as file:
        file.write(warc(new()))
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as member:
            member.write(b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 300000000\r\n\r\n")
            for _ in range(300):
                member.write(bytes(NOTHING))
        file.write(warc(new()))

    wiki = base / "wiki"
    wiki.mkdir()
    head = b'<mediawiki xml:lang="en"><siteinfo><dbname>testwiki</dbname></siteinfo>'
    page = "<page><title>T{0}</title><ns>0</ns><id>{0}</id><revision><text>{1}</text></revision></page>"
    for name, inside in (("broken.xml", b"<page><title>x<page>" + b"<a>" * 100_000), ("cut.xml", b"<page><title>")):
        (wiki / name).write_bytes(head + page.format(1, new()[0]).encode() + inside)
    bomb(wiki / "bomb.xml.bz2", head + page.format(1, new()[0]).encode() + b"<page><text>", 300 << 20, b"</text>")
    (wiki / "entities.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><mediawiki/>')

    posts = base / "posts" / "a.example.org"
    posts.mkdir(parents=True)
    row = '<row Id="{0}" PostTypeId="{1}" ParentId="{2}" Title="{3}" Body="{4}" Score="1"/>'
    question, answer = new(2)
    bomb(posts / "Posts.xml.gz", ("<posts>" + row.format(1, 1, "", "t", question) + row.format(2, 2, 1, "", answer)
                                  + "<row Id=\"3\" Body=\"").encode(), 300 << 20, b'"/></posts>')

    feeds = base / "feeds"
    feeds.mkdir()
    item = "<item><title>t</title><link>https://a.example/{0}</link><description>{1}</description></item>"
    (feeds / "deep.rss").write_bytes(f"<rss version='2.0'><channel>{item.format(1, new()[0])}<item>".encode()
                                     + b"<a>" * 100_000)
    (feeds / "entities.rss").write_text('<!DOCTYPE rss [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><rss/>')
    articles = base / "articles"
    articles.mkdir()
    (articles / "deep.xml").write_bytes(b"<article><body>" + b"<sec>" * 100_000)
    (articles / "broken.xml").write_text("<article><body><p>never closed")
    papers = base / "pdf"
    papers.mkdir()
    (papers / "locked.pdf").write_bytes(make([column(72, PROSE)], password="secret"))
    (papers / "noise.pdf").write_bytes(b"%PDF-1.4 noise")
    (papers / "good.pdf").write_bytes(make([column(72, [f"{WORDS[:60]} {n}" for n in range(30)])]))
    return [
        {"kind": "files", "path": str(folder)}, {"kind": "warc", "path": str(pages)},
        {"kind": "wikipedia", "path": str(wiki), "headings": "plain"},
        {"kind": "stackexchange", "path": str(base / "posts")}, {"kind": "feeds", "path": str(feeds), "titles": False},
        {"kind": "jats", "path": str(articles)}, {"kind": "pdf", "path": str(papers)},
    ], set(range(number))


PROGRAM = """
import json, resource, sys
from pathlib import Path
from gristmill.core.stage import Runtime, StageContext
from gristmill.data.decide import Filter
from gristmill.data.sources import source_from_plain
from gristmill.data.stage import Data
import gristmill.data.compression, gristmill.data.extract, gristmill.data.read, pyarrow.parquet

sources, out = json.loads(sys.argv[1]), Path(sys.argv[2])
gristmill.data.compression.LEAST_UNPACKED = 256 << 20  # 1 GiB takes its time
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = Data(sources=[source_from_plain(one) for one in sources], languages="none", filter=Filter(preset="none"))
out.mkdir()
metrics = data.run(StageContext(name="t/corpus@1", seed=1, work=out, cache=out / "cache", runtime=Runtime(workers=1)))
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, dict(metrics)], default=str))
"""


@pytest.mark.slow
def test_everything_at_once_through_the_real_stage(tmp_path: Path) -> None:
    sources, good = corpus(tmp_path / "bad")
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(sources), str(tmp_path / "out")], check=False,
                          capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr[-3000:]
    grown, _ = json.loads(done.stdout.splitlines()[-1])
    assert grown < 400 << 10, f"{grown >> 10} MiB more than before"
    texts = [one["text"] for split in ("train", "valid", "test") for one in iterate_documents(tmp_path / "out", split)]
    assert {int(number) for one in texts for number in re.findall(r"Number (\d+) says", one)} >= good
    assert not any("behind the limit" in one for one in texts)
    rejects = [row for file in sorted((tmp_path / "out" / "rejects").glob("*.parquet"))
               for row in pq.read_table(file).to_pylist()]
    assert {re.sub(r"@.*", "@", row["id"]): row["reason"] for row in rejects} == EXPECTED
    assert all(row["detail"] for row in rejects)
    assert sum(len(row["text"]) for row in rejects) < 20_000
    assert Counter(row["reason"] for row in rejects)["broken_record"] == 3  # absurd lengths


EXPECTED = {
    "files/bad.zip/../up.txt": "unsafe_member_path", "files/bad.zip/in.zip": "nested_archive",
    "files/bomb.jsonl.bz2": "zip_bomb",
    "files/cut.jsonl.bz2": "unreadable_file", "files/cut.jsonl.gz": "unreadable_file",
    "files/cut.jsonl.xz": "unreadable_file",
    "files/cut.jsonl.zst": "unreadable_file", "files/cut.parquet": "unreadable_file",
    "files/cut.tar": "truncated_archive", "files/cut.zip": "damaged_archive",
    "files/deep.json@": "too_deep", "files/deep.jsonl@": "too_deep",
    "files/empty.parquet": "unreadable_file", "files/empty.tar": "empty_archive", "files/empty.txt": "min_characters",
    "files/empty.zip": "damaged_archive", "files/half.txt": "unreadable_bytes", "files/long.json@": "too_long",
    "files/long.txt": "too_long", "files/long_line.jsonl.gz@": "too_long", "files/long_line.jsonl@": "too_long",
    "files/noise.jsonl.zst": "unreadable_file", "files/noise.txt": "unreadable_bytes",
    "warc/a.warc.gz@": "truncated_record", "warc/b.warc@": "truncated_record", "warc/bomb.warc.gz@": "zip_bomb",
    "wikipedia/bomb.xml.bz2@": "zip_bomb", "wikipedia/broken.xml@": "truncated_page",
    "wikipedia/cut.xml@": "truncated_page", "wikipedia/entities.xml": "xml_dtd",
    "stackexchange/a.example.org/Posts.xml.gz@": "zip_bomb", "feeds/deep.rss@": "too_deep",
    "feeds/entities.rss": "xml_dtd", "jats/broken.xml": "broken_xml", "jats/deep.xml": "too_deep",
    "pdf/locked.pdf": "locked", "pdf/noise.pdf": "damaged_pdf",
}
"""The last reason for each place."""


def test_what_may_not_be_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open/a.txt", "closed/b.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    scandir, opened = os.scandir, Path.open

    def refused(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def locked(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == "c.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.setattr(Path, "open", locked)
    source = Files(path=str(tmp_path))
    found = read_all(source)
    assert [one.text for one in found if isinstance(one, Document)] == ["open/a.txt"]
    assert {one.document.id: one.reason for one in found if isinstance(one, Reject)} == {
        "files/c.txt": "unreadable_file", "files/closed": "unreadable_file"}
    assert all("may not be listed" in one.detail or "Permission denied" in one.detail
               for one in found if isinstance(one, Reject))
    assert all(fingerprint(item) for item in source.inputs())
    with pytest.raises(UserError, match="may not be listed"):
        list_inputs(str(tmp_path / "closed"))
    code = read_all(Code(path=str(tmp_path), types=["prose"]))
    assert "code/closed" in {one.document.id for one in code if isinstance(one, Reject)}


def test_files_that_grow_shrink_or_vanish_while_they_are_read(tmp_path: Path) -> None:
    whole = [text(n) for n in range(40)]
    path = tmp_path / "a.jsonl"
    source = Files(path=str(path))

    def changed(change: Callable[[], object]) -> tuple[list[str], list[Reject]]:
        path.write_bytes(records(whole))
        item = source.inputs()[0]
        parts = source.ranges(item, item.size // 4)
        found = list(source.read(parts[0], "s"))
        change()
        found += [one for part in parts[1:] for one in source.read(part, "s")]
        return [f.text for f in found if isinstance(f, Document)], [f for f in found if isinstance(f, Reject)]

    texts, rejects = changed(lambda: path.write_bytes(records(whole) + records(["new"])))
    assert (texts, rejects) == ([*whole, "new"], [])
    texts, rejects = changed(lambda: path.write_bytes(records(whole)[:9000]))
    assert texts == whole[: len(texts)]
    assert [r.reason for r in rejects][-2:] == ["unreadable_file"] * 2
    assert "was longer when it was listed" in rejects[-1].detail
    texts, rejects = changed(path.unlink)
    assert texts == whole[: len(texts)]
    assert [r.reason for r in rejects] == ["unreadable_file"] * 3
    assert len({r.document.id for r in rejects}) == 3
