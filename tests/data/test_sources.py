import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.sources import Files, PythonStdlib, source_names
from gristmill.data.sources.files import pieces
from gristmill.data.sources.python_stdlib import group, is_test
from gristmill.data.sources.text import Unreadable, decode


def read(path: Path | str, **options: object) -> tuple[list[Document], list[Reject]]:
    source = Files(path=str(path), **options)  # type: ignore[arg-type]
    items = list(source.read(source.files(), "files"))
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


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
    (tmp_path / "e.html").write_text(f"<html><body><nav>Home About</nav><main>{body}</main></body></html>")
    documents, rejects = read(tmp_path, license="CC0")
    assert not rejects
    assert [(d.id, d.text) for d in documents if not d.id.endswith("html")] == [
        ("files/a.txt", "plain"), ("files/c.txt.gz", "packed"), ("files/code.py", "x = 1\n"),
        ("files/d.parquet#1", "row one"), ("files/d.parquet#2", "row two"), ("files/sub/b.md", "# head"),
    ]
    assert {d.id: d.language for d in documents}["files/code.py"] == "python"
    assert [d.language for d in documents if "parquet" in d.id] == ["de", "en"]
    assert documents[0].metadata == {"path": "a.txt", "license": "CC0"}
    page = next(d for d in documents if d.id.endswith("html"))
    assert "main text" in page.text
    assert "Home About" not in page.text
    assert "<" not in page.text


def test_jsonl_records_hold_line_separators_and_broken_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [
        b'\xef\xbb\xbf{"text": "one\xe2\x80\xa8still one", "id": 7}', b'{"text": "cut', b"", b"[1]", b'{"body": 1}',
        b'{"text": null}', b'{"text": "half \\ud83d smile \\ud83d\\ude00"}', b'{"text": "\xff"}', b'{"text": "last"}',
    ]
    path.write_bytes(b"\n".join(lines))
    documents, rejects = read(path)
    assert [(d.id, d.text) for d in documents] == [
        ("files/x.jsonl#1", "one\u2028still one"), ("files/x.jsonl#7", "half \ufffd smile \U0001f600"),
        ("files/x.jsonl#9", "last"),
    ]
    assert documents[0].metadata["record_id"] == "7"
    assert [(r.document.metadata["line"], r.reason) for r in rejects] == [
        (2, "broken_record"), (4, "broken_record"), (5, "no_text"), (6, "no_text"), (8, "broken_record"),
    ]
    assert rejects[0].detail.startswith("line 2: ")


def test_another_column(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"body": "here"}))
    assert read(tmp_path, column="body")[0][0].text == "here"
    pq.write_table(pa.table({"body": ["a"], "title": ["b"]}), tmp_path / "y.parquet")
    with pytest.raises(UserError, match=r"(?s)no column 'text'.*body, title"):
        read(tmp_path / "y.parquet")


def test_a_truncated_parquet_and_gzip_are_rejects_with_a_reason(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * 5000] * 50}), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    packed = gzip.compress("\n".join(json.dumps({"text": str(i)}) for i in range(9999)).encode())
    (tmp_path / "y.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    documents, rejects = read(tmp_path)
    assert [(r.document.id, r.reason) for r in rejects] == [
        ("files/x.parquet", "unreadable_parquet"), ("files/y.jsonl.gz", "unreadable_file"),
    ]
    assert len(documents) > 100


def test_missing_and_empty_paths_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no.txt", tmp_path, tmp_path / "*.txt"):
        with pytest.raises(UserError, match="to mend it") as caught:
            Files(path=str(path)).files()
        assert caught.value.where == str(path)


def test_encodings() -> None:
    assert decode("schön".encode()) == ("schön", "utf-8")
    assert decode("schön".encode("utf-16")) == ("schön", "utf-16")
    assert decode(b"\xef\xbb\xbfbom") == ("bom", "utf-8")
    german = "Die Übung für größere Bäume läuft schön und heißt Straße. " * 5
    assert decode(german.encode("cp1252"))[0] == german
    russian = "Съешь ещё этих мягких французских булок, да выпей чаю. " * 5
    assert decode(russian.encode("koi8-r"))[0] == russian
    for binary in (b"\x00\x01\x02text", bytes(range(1, 32)) * 20, b"\xff\xfe\x00"):
        with pytest.raises(Unreadable):
            decode(binary)


def test_unreadable_bytes_are_a_reject_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\x89PNG\x00\x00\xff")
    documents, rejects = read(tmp_path)
    assert not documents
    assert (rejects[0].reason, rejects[0].detail) == ("unreadable_bytes", "it holds NUL bytes, so it is binary")


@pytest.mark.parametrize("text", ["a\n\nb" * 1000, "no blank line\n" * 500, "x" * 5000, "short", ""])
def test_pieces_lose_nothing(text: str) -> None:
    cut = list(pieces(text, 1000))
    assert "".join(cut) == text
    assert all(0 < len(piece) <= 1000 for piece in cut)


def test_a_long_file_becomes_pieces(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("A paragraph.\n\n" * 300)
    documents, _ = read(tmp_path, piece_kb=1)
    assert [d.id for d in documents[:2]] == ["files/book.txt~00001", "files/book.txt~00002"]
    assert documents[0].text.endswith("\n")


def test_source_names() -> None:
    files = Files(path="x")
    assert source_names([files, PythonStdlib(), files]) == ["files", "python_stdlib", "files2"]
    with pytest.raises(ValueError, match="two sources are called 'a'"):
        source_names([Files(path="x", name="a"), Files(path="y", name="a")])


def test_a_module_and_its_tests_are_one_group() -> None:
    assert {group(n) for n in ("json/decoder.py", "json/__init__.py", "test/test_json/test_scan.py")} == {"json"}
    names = ("_pydecimal.py", "decimal.py", "test/test_decimal.py")
    assert {group(n) for n in names} == {"decimal"}
    assert group("test/_test_multiprocessing.py") == "multiprocessing"
    assert group("test/datetimetester.py") == "datetime"
    assert group("timeit.py") == "timeit"
    assert is_test("idlelib/idle_test/x.py")
    assert not is_test("unittest/case.py")


def test_stdlib_is_read_in_a_fixed_order_with_provenance() -> None:
    source = PythonStdlib(tests=False)
    files = source.files()
    assert files == source.files()
    names = [file.name for file in files]
    assert "argparse.py" in names
    assert not any("site-packages" in file.parts or name.startswith("_sysconfigdata") for file, name in
                   zip(files, names, strict=True))
    chosen = [file for file in files if file.name in ("argparse.py", "topics.py")]
    documents = [d for d in source.read(chosen, "python_stdlib") if isinstance(d, Document)]
    assert documents[0].id == "python_stdlib/argparse.py"
    assert documents[0].metadata["license"] == "PSF-2.0"
    assert (documents[0].language, documents[0].domain) == ("python", "argparse")
    topics = [d for d in documents if d.domain == "pydoc_data"]
    assert len(topics) > 50
    assert {d.language for d in topics} == {"en"}
