import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.pdf_text import Line, in_reading_order, join, running_text, without_running
from gristmill.data.sources import pdf
from gristmill.data.sources.pdf import Pdf

pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed")
PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


def rc4(key: bytes, data: bytes) -> bytes:
    state, j, out = list(range(256)), 0, bytearray()
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def make(pages: list[list[tuple[float, float, str]]], *, password: str | None = None, allow: int = -4,
         contents: bytes | None = None) -> bytes:
    """A PDF with lines of text at places; encrypted (RC4 of 40 bits, PDF 1.7, 7.6.3) if there is a password."""
    ident = b"0123456789abcdef"
    key = b""
    encrypt = b""
    if password is not None:
        user = (password.encode() + PADDING)[:32]
        owner = rc4(hashlib.md5((b"owner" + PADDING)[:32]).digest()[:5], user)
        key = hashlib.md5(user + owner + allow.to_bytes(4, "little", signed=True) + ident).digest()[:5]
        encrypt = b"<</Filter/Standard/V 1/R 2/O<%s>/U<%s>/P %d>>" % (owner.hex().encode(), rc4(key, PADDING).hex(
        ).encode(), allow)
    objects: list[bytes] = [b"<</Type/Catalog/Pages 2 0 R>>", b"", b"<</Type/Font/Subtype/Type1/BaseFont/Courier>>"]
    kids = []
    for lines in pages:
        drawn = contents if contents is not None else b"".join(
            b"BT /F1 10 Tf %.1f %.1f Td (%s) Tj ET\n" % (x, y, text.encode("latin-1").replace(b"(", b"\\("))
            for x, y, text in lines)
        kids.append(len(objects) + 1)
        objects.append(b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F1 3 0 R>>>>"
                       b"/Contents %d 0 R>>" % (len(objects) + 2))
        if key:
            number = len(objects) + 1
            drawn = rc4(hashlib.md5(key + number.to_bytes(3, "little") + b"\0\0").digest()[:10], drawn)
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(drawn), drawn))
    objects[1] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(kids), b" ".join(b"%d 0 R" % kid for kid in kids))
    if not key:
        objects.append(b"<</Title(A Mill)/Author(Ann)/CreationDate(D:20010203040506Z)>>")
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    extra = b"/Encrypt %s" % encrypt if key else b"/Info %d 0 R" % len(objects)
    out += b"trailer<</Size %d/Root 1 0 R/ID[<%s><%s>]%s>>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1, ident.hex().encode(), ident.hex().encode(), extra, table)
    return bytes(out)


def column(x: float, texts: list[str], top: float = 700) -> list[tuple[float, float, str]]:
    return [(x, top - 12 * number, text) for number, text in enumerate(texts)]


def read(path: Path | str, **options: object) -> tuple[list[Document], list[Reject]]:
    source = Pdf(path=str(path), **options)  # type: ignore[arg-type]
    items = [item for entry in source.inputs() for part in source.ranges(entry, 1000)
             for item in source.read(part, "pdf")]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


PROSE = ["The mill that stands below the village turns with the wa-",
         "ter of the river, and it has a well-known wheel of oak",
         "which the miller mends in spring. It is a well-", "known mill."]


def test_pages_become_paragraphs(tmp_path: Path) -> None:
    names = ("Ann", "Bob", "Cid", "Dan")
    pages = [[(72, 770, "The Journal of Mills"), *column(72, [f"{name} tells.", *PROSE], 712),
              *column(84, [f"A second paragraph begins for {name}."], 640), (300, 30, f"Page {number}")]
             for number, name in enumerate(names)]
    (tmp_path / "a.pdf").write_bytes(make(pages))
    documents, rejects = read(tmp_path)
    assert not rejects
    one = ("{0} tells.\n\nThe mill that stands below the village turns with the water of the river, and it has a "
           "well-known wheel of oak which the miller mends in spring. It is a well-known mill.\n\n"
           "A second paragraph begins for {0}.")
    assert documents[0].text == "\n\n".join(one.format(name) for name in names)
    assert documents[0].metadata == {"path": "a.pdf", "license": "unknown", "group": "pdf/a.pdf", "pages": 4,
                                     "title": "A Mill", "author": "Ann", "time": "2001-02-03"}
    kept = read(tmp_path, running_heads=True, max_pages=2)[0][0]
    assert kept.text.count("The Journal of Mills") == 2
    assert (kept.metadata["pages"], kept.metadata["pages_read"]) == (4, 2)


@pytest.mark.parametrize("by_rows", [False, True])
def test_two_columns(tmp_path: Path, by_rows: bool) -> None:
    left = column(50, [f"left {n} is the text of a column" for n in range(12)])
    right = column(330, [f"right {n} is the text of another" for n in range(12)])
    lines = [line for pair in zip(left, right, strict=True) for line in pair] if by_rows else [*right, *left]
    (tmp_path / "a.pdf").write_bytes(make([lines]))
    words = read(tmp_path)[0][0].text.split()
    assert [w for w in words if w in ("left", "right")] == ["left"] * 12 + ["right"] * 12
    assert [int(w) for w in words if w.isdigit()] == [*range(12), *range(12)]


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    good = make([column(72, PROSE)])
    for name, data in {
        "locked": make([column(72, PROSE)], password="secret"), "empty": b"", "noise": b"no pdf", "cut": good[:60],
        "picture": make([[]], contents=b"0 0 100 100 re f"),
        "forbidden": make([column(72, PROSE)], password="", allow=-20),
    }.items():
        (tmp_path / f"{name}.pdf").write_bytes(data)
    (tmp_path / "open.pdf").write_bytes(make([column(72, PROSE)], password=""))
    documents, rejects = read(tmp_path)
    assert [d.metadata["path"] for d in documents] == ["open.pdf"]
    assert documents[0].text.startswith("The mill that stands")
    assert {r.document.metadata["path"][:-4]: r.reason for r in rejects} == {
        "locked": "locked", "empty": "damaged_pdf", "noise": "damaged_pdf", "cut": "damaged_pdf", "picture": "no_text",
        "forbidden": "copying_forbidden"}
    assert read(tmp_path / "forbidden.pdf", ignore_permissions=True)[0][0].text == documents[0].text


def test_a_file_that_takes_too_long_or_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = b"BT /F1 10 Tf 72 700 Td " + b"(x) Tj " * 400_000 + b"ET"
    (tmp_path / "busy.pdf").write_bytes(make([[]], contents=busy))
    assert [r.reason for r in read(tmp_path, seconds=0.02)[1]] == ["time_limit"]
    (tmp_path / "good.pdf").write_bytes(make([column(72, PROSE)]))
    assert len(read(tmp_path / "good.pdf")[0]) == 1
    script = tmp_path / "crash.py"
    script.write_text("import os, sys\nsys.stdin.buffer.readline()\nos.abort()\n")
    monkeypatch.setattr(pdf, "_SCRIPT", script)
    pdf._reader().stop()
    assert [r.reason for r in read(tmp_path / "good.pdf")[1]] == ["damaged_pdf"]
    monkeypatch.undo()
    assert len(read(tmp_path / "good.pdf")[0]) == 1


def test_damaged_files_never_raise(tmp_path: Path) -> None:
    good = make([column(72, PROSE)] * 2)
    for number in range(40):
        at = number * len(good) // 40
        (tmp_path / f"{number:02d}.pdf").write_bytes(good[:at] + b"\xff<<\0" + good[at + 4 + number:])
    documents, rejects = read(tmp_path)
    assert len(documents) + len(rejects) == 40


def test_pdfs_in_an_archive_and_the_limit_of_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/one.pdf", make([column(72, PROSE)]))
        archive.writestr("x/readme.txt", "no")
    assert [d.id for d in read(tmp_path)[0]] == ["pdf/a.zip/x/one.pdf"]
    monkeypatch.setattr(pdf, "LARGEST_PDF", 100)
    assert [r.reason for r in read(tmp_path)[1]] == ["too_large"]


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pypdfium2"):
        read(tmp_path)


def at(text: str, y: float, x0: float = 50, x1: float = 0) -> Line:
    return Line(text, x0, y - 10, x1 or x0 + 5 * len(text), y)


def test_heads_and_feet_go_by_repetition() -> None:
    pages = [[at("A HEAD", 790), at(f"Text of its own {n * 'x'}", 700), at("Same words", 400), at("y", 390),
              at("z", 380), at(n * "w", 370), at(f"- {n} -", 20)] for n in range(1, 4)]
    kept = [[line.text for line in page] for page in without_running(pages)]
    assert kept[0][0] == "Text of its own x"
    assert "Same words" in kept[0]
    assert not any(line.startswith("-") or line == "A HEAD" for page in kept for line in page)
    assert without_running(pages[:2]) == [list(page) for page in pages[:2]]


def test_hyphens() -> None:
    assert join("an exam-", "ple of", set()) == "an example of"
    assert join("a well-", "known", {"well-known"}) == "a well-known"
    assert join("the F-", "16", set()) == "the F- 16"
    assert join("Jean-", "Paul", set()) == "Jean-Paul"
    assert join("soft\u00ad", "ware", set()) == "software"
    assert join("one -", "two", set()) == "one - two"


def test_order_and_paragraphs_without_boxes() -> None:
    lines = [Line(f"line {n}", 0, 0, 0, 0) for n in range(20)]
    assert in_reading_order(lines, 600) == lines
    assert running_text([]) == running_text([[]]) == ""
    assert running_text([[at("It ends and", 700)], [at("goes on.", 700)], [at("New page.", 700)]]) == (
        "It ends and goes on.\n\nNew page.")


def test_no_process_outlives_its_reader(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(make([column(72, PROSE)]))
    read(tmp_path)
    process = pdf._reader().process
    assert process is not None
    pdf._reader().stop()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
