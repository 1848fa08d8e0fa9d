import gzip
import io
import json
import lzma
import os
import stat
import tarfile
import tracemalloc
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats import tar_stream
from gristmill.data.formats.markup import plain_markdown, plain_rst
from gristmill.data.formats.text import Unreadable, decode, decode_stream
from gristmill.data.inputs import Range
from gristmill.data.sources import Files
from gristmill.data.sources.files import pieces
from tests.shared import DATA as SHARED


def read(path: Path | str, cuts: int = 1, **options: Any) -> tuple[list[Document], list[Reject]]:
    source = Files(path=str(path), **options)
    parts = [part for item in source.inputs() for part in source.ranges(item, max(1, item.size // cuts))]
    items = [item for part in parts for item in source.read(part, "files")]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


def reasons(rejects: list[Reject]) -> dict[str, str]:
    return {reject.document.id.removeprefix("files/"): reject.reason for reject in rejects}


def test_a_folder_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.txt").write_text("secret")
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "sub" / "b.md").write_text("# head")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    with gzip.open(tmp_path / "c.txt.gz", "wb") as file:
        file.write(b"packed")
    pq.write_table(pa.table({"text": ["row one", "row two"], "language": ["de", "En"]}), tmp_path / "d.parquet")
    body = "<p>The main text is long enough to be taken for the content of the page.</p>" * 3
    (tmp_path / "e.html").write_text(f"<html><head><title>A &amp;\n B</title></head><body><nav>Home About</nav>"
                                     f"<main>{body}</main></body></html>")
    documents, rejects = read(tmp_path, license="CC0")
    assert not rejects
    assert [(d.id, d.text) for d in documents if not d.id.endswith("html")] == [
        ("files/a.txt", "plain"), ("files/c.txt.gz", "packed"), ("files/code.py", "x = 1\n"),
        ("files/d.parquet@0", "row one"), ("files/d.parquet@1", "row two"), ("files/sub/b.md", "# head"),
    ]
    assert {d.id: d.language for d in documents}["files/code.py"] == "python"
    assert [(d.language, d.metadata["row"]) for d in documents if "parquet" in d.id] == [("de", 0), ("en", 1)]
    assert documents[0].metadata == {"path": "a.txt", "license": "CC0"}
    assert [d.domain for d in documents] == ["files"] * 6 + ["sub"]
    page = next(d for d in documents if d.id.endswith("html"))
    assert page.metadata["title"] == "A & B"
    assert "main text" in page.text
    assert "<" not in page.text


def test_missing_and_empty_paths_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no.txt", tmp_path, tmp_path / "*.txt"):
        with pytest.raises(UserError, match="to mend it") as caught:
            Files(path=str(path)).inputs()
        assert caught.value.where == str(path)


@pytest.mark.parametrize("wrong", [
    {"path": " "}, {"path": "x", "column": ""}, {"path": "x", "column": "body", "columns": {"text": "b"}},
    {"path": "x", "piece_kb": -1}, {"path": "x", "delimiter": ";;"}, {"path": "x", "columns": {"text": "{"}},
    {"path": "x", "columns": {"path": "p"}}, {"path": "x", "columns": {"url": " "}},
])
def test_settings_that_can_never_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(path|columns?|piece_kb|delimiter): "):
        Files(**wrong)


def test_empty_and_binary_files_and_wrong_encodings(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for name in ("empty.csv", "empty.json", "empty.parquet", "empty.arrow", "empty.zip", "empty.tar", "empty.txt.gz"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\x00\x00\xff")
    (tmp_path / "latin.md").write_bytes(("Größe und Übung, schön und süß. " * 20).encode("latin-1"))
    (tmp_path / "wide.txt").write_bytes("weit".encode("utf-16"))
    (tmp_path / "cut.txt").write_bytes(b"\xff\xfe\x00")
    documents, rejects = read(tmp_path)
    texts = {d.id.removeprefix("files/"): d.text for d in documents}
    assert texts == {"empty.txt": "", "empty.txt.gz": "", "latin.md": "Größe und Übung, schön und süß. " * 20,
                     "wide.txt": "weit"}
    assert reasons(rejects) == {"picture.txt": "unreadable_bytes", "cut.txt": "unreadable_bytes",
                                "empty.parquet": "unreadable_file", "empty.arrow": "unreadable_file",
                                "empty.zip": "damaged_archive", "empty.tar": "empty_archive"}
    assert {r.document.metadata["path"]: r.detail for r in rejects}["picture.txt"] == (
        "it holds NUL bytes, so it is binary")
    assert next(d for d in documents if d.id.endswith("wide.txt")).metadata["encoding"] == "utf-16"


def test_truncated_and_mislabelled_compression_is_a_reject(tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(json.dumps({"text": str(i)}) for i in range(9999)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "b.txt.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "c.txt.xz").write_bytes(b"no xz at all")
    (tmp_path / "d.txt.zst").write_bytes(b"no zst at all")
    documents, rejects = read(tmp_path)
    assert set(reasons(rejects).values()) == {"unreadable_file"}
    assert len(rejects) == 4
    assert 100 < len(documents) < 9999
    assert all(d.metadata["path"] == "a.jsonl.gz" for d in documents)


def test_a_file_that_vanishes_or_may_not_be_read(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl", "c.parquet", "d.zip"):
        (tmp_path / name).write_text("x")
    source = Files(path=str(tmp_path))
    listed = source.inputs()
    for path in tmp_path.iterdir():
        path.unlink()
    found = [i for item in listed for i in source.read(Range(item), "files")]
    assert [item.reason for item in found if isinstance(item, Reject)] == ["unreadable_file"] * 4


@pytest.mark.parametrize("text", ["a\n\nb" * 1000, "no blank line\n" * 500, "x" * 5000, "short", ""])
@pytest.mark.parametrize("block", [1, 7, 999, 1 << 20])
def test_pieces_lose_nothing(text: str, block: int) -> None:
    cut = list(pieces(text, 1000))
    assert "".join(cut) == text
    assert all(0 < len(piece) <= 1000 for piece in cut)
    assert list(pieces((text[i: i + block] for i in range(0, len(text), block)), 1000)) == cut


def test_a_long_file_becomes_pieces(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("A paragraph.\n\n" * 300)
    documents, _ = read(tmp_path, piece_kb=1)
    assert [d.id for d in documents[:2]] == ["files/book.txt~00001", "files/book.txt~00002"]
    assert documents[0].text.endswith("\n")
    assert documents[1].metadata["piece"] == 2
    (tmp_path / "book.txt.gz").write_bytes(gzip.compress((tmp_path / "book.txt").read_bytes()))
    (tmp_path / "short.txt.gz").write_bytes(gzip.compress(b"short"))
    (tmp_path / "empty.txt.gz").write_bytes(gzip.compress(b""))
    ids = {d.id: d.text for d in read(tmp_path, piece_kb=1)[0]}
    assert ids["files/book.txt.gz~00002"] == ids["files/book.txt~00002"]
    assert (ids["files/short.txt.gz"], ids["files/empty.txt.gz"]) == ("short", "")


def test_a_file_too_long_to_hold_is_read_in_pieces_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"Paragraph {n} with ä.\n\n" for n in range(400_000))
    (tmp_path / "long.txt").write_text(text)
    (tmp_path / "long.txt.gz").write_bytes(gzip.compress(text.encode("utf-16"), 1))
    monkeypatch.setattr("gristmill.data.sources.files.LONGEST_TEXT", 1 << 20)
    documents, rejects = read(tmp_path)
    assert not documents
    assert [r.reason for r in rejects] == ["too_long", "too_long"]
    assert "piece_kb" in rejects[0].detail
    tracemalloc.start()
    source = Files(path=str(tmp_path / "long.txt"), piece_kb=4)
    joined = []
    for item in source.read(Range(source.inputs()[0]), "files"):
        assert isinstance(item, Document)
        joined.append(len(item.text))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(joined) == len(text)
    assert peak < 9e6 < len(text.encode())
    documents, rejects = read(tmp_path, piece_kb=4)
    assert not rejects
    for name in ("long.txt", "long.txt.gz"):
        assert "".join(d.text for d in documents if d.metadata["path"] == name) == text


@given(st.text(max_size=3000), st.sampled_from(["utf-8", "utf-16", "utf-8-sig", "cp1252"]))
@settings(max_examples=60)
def test_a_stream_is_decoded_as_a_whole(text: str, encoding: str) -> None:
    data = text.encode(encoding, "replace")
    try:
        whole = decode(data)
    except Unreadable:
        whole = None
    try:
        blocks, name = decode_stream(lambda: io.BytesIO(data))
        streamed = "".join(blocks), name
    except Unreadable:
        streamed = None
    assert streamed == whole


def test_html_nested_100000_deep(tmp_path: Path) -> None:
    deep = 100_000
    (tmp_path / "a.html").write_text("<div>" * deep + "<p>The bottom of the page.</p>" + "</div>" * deep)
    (tmp_path / "b.html").write_text("<b><i>" * deep + "text")
    (tmp_path / "c.html").write_text("<html><body><main><p>" + "A page after them is read. " * 20 + "</p></main>")
    documents, rejects = read(tmp_path)
    assert len(documents) + len(rejects) == 3
    assert {r.reason for r in rejects} <= {"unreadable_html"}
    assert "A page after them" in next(d.text for d in documents if d.id == "files/c.html")


def test_markup_can_be_stripped(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Head\n\nSee [the *page*](http://x.y) and `code`.\n\n- one\n- two\n\n"
                                   "| a | b |\n"
                                   "|---|---|\n| 1 | 2 |\n\n```python\nx = 1\n```\n\n<div>raw</div>\n\n![alt](pic.png)\n")  # noqa: E501
    (tmp_path / "b.rst").write_text("Head\n====\n\nSee :ref:`the page <label>` and `a link <http://x>`_ and "
                                    "``code``::\n\n    x = *1*\n\n.. note:: Mind *this*.\n\n.. image:: x.png\n   :alt: gone\n\nEnd.\n")  # noqa: E501
    kept, _ = read(tmp_path)
    assert kept[0].text.startswith("# Head")
    documents, rejects = read(tmp_path, markup="strip")
    assert not rejects
    assert documents[0].text == ("Head\n\nSee the page and code.\n\n- one\n- two\n\na\tb\n1\t2\n\nx = 1\n")
    assert documents[1].text == "Head\n\nSee the page and a link and code:\n\n    x = 1\n\nMind this.\n\nEnd.\n"


@given(st.text(alphabet="#*_`[](){}<>!-+.:|~ \n\tab1=\\&\"'^", max_size=300))
@settings(max_examples=150)
def test_stripping_takes_any_text(text: str) -> None:
    assert isinstance(plain_markdown(text), str)
    assert isinstance(plain_rst(text), str)


# Archives


def zipped(path: Path, content: dict[str, bytes], **options: Any) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def tarred(path: Path, content: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def content() -> dict[str, bytes]:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["in", "parquet"]}), sink)
    return {
        "a.txt": b"first", "sub/b.jsonl": b'{"text": "one"}\n{"text": "two"}\n', "sub/c.parquet": sink.getvalue(),
        "d.txt.gz": gzip.compress(b"packed"), "e.jpg": b"\xff", ".hidden/f.txt": b"no", "__MACOSX/a.txt": b"no",
        "g.csv": b'text,n\n"x\ny",1\n', "big.txt": b"long text\n" * 10_000,
    }


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "x.txz", "x.tar.bz2", "x.tbz2"])
def test_archives_are_read_as_folders(tmp_path: Path, name: str) -> None:
    write = zipped if name == "x.zip" else tarred
    ending = name.rpartition(".")[2].removeprefix("t")
    mode = [] if name in ("x.zip", "x.tar") else [f"w:{ending}"]
    write(tmp_path / name, content(), *mode)  # type: ignore[arg-type]
    documents, rejects = read(tmp_path)
    assert not rejects
    base = f"files/{name}"
    assert {d.id: d.text for d in documents} == {
        f"{base}/a.txt": "first", f"{base}/sub/b.jsonl@0": "one", f"{base}/sub/b.jsonl@16": "two",
        f"{base}/sub/c.parquet@0": "in", f"{base}/sub/c.parquet@1": "parquet", f"{base}/d.txt.gz": "packed",
        f"{base}/g.csv@0": "x\ny", f"{base}/big.txt": "long text\n" * 10_000,
    }
    assert documents[0].metadata["path"] == f"{name}/a.txt"
    many = [[d.id for d in read(tmp_path, cuts)[0]] for cuts in (2, 7, 30)]
    assert many == [[d.id for d in documents]] * 3
    source = Files(path=str(tmp_path))
    assert (len(source.ranges(source.inputs()[0], 100)) > 1) == (name in ("x.zip", "x.tar"))


def test_members_that_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("../up.txt", "/root.txt", "C:\\drive.txt", "ok.txt", "inner.zip", "a/../b.txt"):
            archive.writestr(name, "x")
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with tarfile.open(tmp_path / "y.tar", "w") as archive:
        for name, kind in (("s.txt", tarfile.SYMTYPE), ("h.txt", tarfile.LNKTYPE), ("p.txt", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("../up.txt", "/abs.txt", "ok.txt"):
            info = tarfile.TarInfo(name)
            info.size = 2
            archive.addfile(info, io.BytesIO(b"ok"))
    documents, rejects = read(tmp_path)
    assert [d.id for d in documents] == ["files/x.zip/ok.txt", "files/y.tar/ok.txt"]
    assert Counter(r.reason for r in rejects) == {
        "unsafe_member_path": 6, "link": 3, "nested_archive": 1, "not_a_file": 1}


def test_damaged_and_encrypted_members_leave_the_others(tmp_path: Path) -> None:
    zipped(tmp_path / "x.zip", {"a.txt": b"first " * 100, "b.txt": os.urandom(500).hex().encode(), "c.txt": b"last"})
    data = bytearray((tmp_path / "x.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        place = archive.getinfo("b.txt").header_offset
        central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    data[place + 60] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(bytes(data))
    documents, rejects = read(tmp_path)
    assert [d.text for d in documents] == ["first " * 100, "last"]
    assert reasons(rejects) == {"x.zip/b.txt": "damaged_member"}
    data[central + 8] |= 1
    (tmp_path / "x.zip").write_bytes(bytes(data))
    assert reasons(read(tmp_path)[1]) == {"x.zip/b.txt": "encrypted"}


def test_names_twice_in_an_archive_get_ids_of_their_own(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of the name that is there already
        for text in ("one", "two", "three"):
            archive.writestr("a.txt", text)
    for cuts in (1, 50):
        assert [(d.id, d.text) for d in read(tmp_path, cuts)[0]] == [
            ("files/x.zip/a.txt", "one"), ("files/x.zip/a~2.txt", "two"), ("files/x.zip/a~3.txt", "three")]


def test_zip_bombs_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_stream, "LEAST_UNPACKED", 1 << 20)
    monkeypatch.setattr(tar_stream, "MOST_RATIO", 5)
    bomb = {"a.txt": b"small", "b.txt": b"\0" * (5 << 20), "c.txt": b"x" * (5 << 20)}
    zipped(tmp_path / "x.zip", bomb)
    tarred(tmp_path / "y.tar.gz", bomb, "w:gz")
    tarred(tmp_path / "z.tar.xz", bomb, "w:xz")
    for cuts in (1, 20):
        documents, rejects = read(tmp_path, cuts)
        assert [d.id for d in documents] == ["files/x.zip/a.txt", "files/y.tar.gz/a.txt", "files/z.tar.xz/a.txt"]
        assert {r.reason for r in rejects} == {"archive_bomb"}
        assert len(rejects) == 4


def test_a_bomb_of_one_line_is_passed_by_in_little_memory(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "x.jsonl.xz", "wb", preset=0) as file:
        for _ in range(100):
            file.write(b"\0" * (1 << 20))
        file.write(b'\n{"text": "last"}\n')
    tracemalloc.start()
    documents, rejects = read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d.text for d in documents] == ["last"]
    assert reasons(rejects) == {"x.jsonl.xz@0": "too_long"}
    assert peak < 150e6


def test_a_tar_whose_header_asks_for_gigabytes(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.tar.gz", "wb", 1) as file:
        info = tarfile.TarInfo("long name")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(50):
            file.write(b"\0" * (1 << 20))
    tracemalloc.start()
    documents, rejects = read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not documents
    assert reasons(rejects) == {"x.tar.gz": "truncated_archive"}
    assert peak < 10e6


def test_truncated_archives(tmp_path: Path) -> None:
    whole = {f"{n}.txt": os.urandom(3000).hex().encode() for n in range(20)}
    tarred(tmp_path / "y.tar.gz", whole, "w:gz")
    zipped(tmp_path / "x.zip", whole)
    for path in (tmp_path / "x.zip", tmp_path / "y.tar.gz"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    documents, rejects = read(tmp_path)
    assert reasons(rejects) == {"x.zip": "damaged_archive", "y.tar.gz": "unreadable_file"}
    assert {r.document.metadata["path"].partition("/")[0] for r in rejects} == {"x.zip", "y.tar.gz"}
    assert 5 < len(documents) < 20


def test_urls_are_read_like_folders(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    for name, data in content().items():
        files.pipe(f"/reading/{name}", data)
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(data)
    zipped(tmp_path / "z.zip", content())
    files.pipe("/reading/z.zip", (tmp_path / "z.zip").read_bytes())
    try:
        for cuts in (1, 5):
            there, rejects = read("memory://reading", cuts)
            assert there == read(tmp_path)[0]
            assert not rejects
    finally:
        files.rm("/reading", recursive=True)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_novels_and_reviews_of_the_shared_data() -> None:
    novels, rejects = read(SHARED / "text" / "novels_60.tar.xz")
    assert (len(novels), len(rejects)) == (60, 0)
    assert sum(len(d.text) for d in novels) > 40e6
    assert not any(d.text.startswith("\ufeff") for d in novels)
    source = Files(path=str(SHARED / "classification" / "movie_reviews.zip"))
    parts = source.ranges(source.inputs()[0], 1 << 20)
    assert len(parts) > 2
    found = [d for part in parts for d in source.read(part, "files")]
    assert Counter(type(d) for d in found) == {Document: 2000}
    assert len({d.id for d in found if isinstance(d, Document)}) == 2000


def test_only_files_whose_name_fits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("one.txt", "two.md", "a/three.txt"):
        (tmp_path / name).write_text(name)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("four.txt", "a/five.md"):
            archive.writestr(name, name)
    assert [d.text for d in read(tmp_path, only=["*.txt"])[0]] == ["a/three.txt", "one.txt", "four.txt"]
    assert [d.text for d in read(tmp_path, only=["five.md", "one.*"])[0]] == ["one.txt", "a/five.md"]
    assert [d.text for d in read(tmp_path, only=["a/*"])[0]] == ["a/three.txt", "a/five.md"]
    (tmp_path / "x.zip").unlink()
    with pytest.raises(UserError, match="none of the 3 files here fits `only`"):
        read(tmp_path, only=["*.pdf"])


@pytest.mark.parametrize(("given", "find", "found"), [
    ("unknown", False, "unknown"), ("unknown", True, "CC-BY-4.0"), ("MIT", True, "MIT")])
def test_the_licence_that_a_page_states(tmp_path: Path, given: str, find: bool, found: str) -> None:
    (tmp_path / "page.html").write_text(
        "<title>Mills</title><body><p>" + "The old mill stood by the river, and nobody had worked in it. " * 9
        + '</p><footer><a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC BY</a></footer>')
    [document] = read(tmp_path, license=given, find_license=find)[0]
    assert document.metadata["license"] == found
    assert "CC BY" not in document.text
