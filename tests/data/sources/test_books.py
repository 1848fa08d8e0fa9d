import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats import archives, epub
from gristmill.data.formats.epub import html_text
from gristmill.data.sources.books import Books
from tests.data.formats.test_gutenberg import BOOK, ENDS, HEAD, STARTS
from tests.shared import DATA

CONTAINER = '<container><rootfiles><rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'


def read(path: Path | str, **options: object) -> tuple[list[Document], list[Reject]]:
    source = Books(path=str(path), **options)  # type: ignore[arg-type]
    items = [item for entry in source.inputs() for part in source.ranges(entry, 1000)
             for item in source.read(part, "books")]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


def package(items: str, spine: str, metadata: str = "<dc:title>A Book</dc:title>") -> str:
    return ('<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf"><metadata '
            f'xmlns:dc="http://purl.org/dc/elements/1.1/">{metadata}</metadata><manifest>{items}</manifest>'
            f"<spine>{spine}</spine></package>")


def epub_of(path: Path, pages: dict[str, str], *, spine: list[str] | None = None, metadata: str | None = None,
            extra: dict[str, str] | None = None) -> Path:
    items = "".join(f'<item id="i{n}" href="{name}" media-type="application/xhtml+xml"/>'
                    for n, name in enumerate(pages))
    order = spine if spine is not None else [f"i{n}" for n in range(len(pages))]
    refs = "".join(f'<itemref idref="{name}"/>' for name in order)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("OEBPS/content.opf", package(items, refs, metadata or "<dc:title>A Book</dc:title>"))
        for name, body in pages.items():
            text = f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>{body}</html>'
            archive.writestr(f"OEBPS/{name}", text if body else "")
        for name, body in (extra or {}).items():
            archive.writestr(name, body)
    return path


def test_a_gutenberg_text_without_what_is_around_it(tmp_path: Path) -> None:
    text = f"{HEAD}\n{STARTS[0]}\n\nProduced by Jane Doe\n\n{BOOK}\n\n{ENDS[0]}\n\nlicence\n".replace("night", "nïght")
    (tmp_path / "2701-8.txt").write_bytes(text.replace("\n", "\r\n").encode("cp1252"))
    (documents, rejects) = read(tmp_path)
    assert not rejects
    assert documents[0].text == BOOK.replace("night", "nïght")
    assert (documents[0].id, documents[0].language, documents[0].domain) == ("books/2701-8.txt", "en", "books")
    assert documents[0].metadata == {
        "path": "2701-8.txt", "license": "public domain in the USA", "title": "Moby Dick; Or, The Whale",
        "author": "Herman Melville", "time": "2008-12-25", "ebook": 2701, "stated_language": "en",
        "gutenberg_marks": "both", "group": "gutenberg-2701", "url": "https://www.gutenberg.org/ebooks/2701",
        "encoding": "cp1252",
    }
    assert read(tmp_path, gutenberg=False)[0][0].text.startswith("The Project Gutenberg eBook")


def test_books_in_a_zip_have_ids_of_their_own(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("same.txt", "one book")
        archive.writestr("cover.jpg", b"\xff\xd8")
        archive.writestr("same.txt", "another book")
        archive.writestr("empty.txt", "")
        archive.writestr("noise.txt", bytes(range(256)))
    documents, rejects = read(tmp_path)
    assert [(d.id, d.text) for d in documents] == [("books/a.zip/same.txt", "one book"),
                                                      ("books/a.zip/same~2.txt", "another book")]
    assert [(r.document.id, r.reason) for r in rejects] == [("books/a.zip/empty.txt", "no_text"),
                                                            ("books/a.zip/noise.txt", "unreadable_bytes")]


def test_an_epub_in_the_order_of_its_spine(tmp_path: Path) -> None:
    metadata = ("<dc:title>The Title</dc:title><dc:creator>A. Uthor</dc:creator><dc:creator>B. Other</dc:creator>"
                "<dc:language>en-GB</dc:language><dc:rights>CC BY 4.0</dc:rights><dc:date>1999-05-04</dc:date>")
    epub_of(tmp_path / "b.epub", {
        "two.xhtml": "<body><h1>Two</h1><p>Second &amp; last.</p></body>",
        "sub/one%20x.xhtml": "", "one.xhtml": "<body><h1>One</h1><p>First <i>part</i><a id='x'/>.</p><br/></body>",
    }, spine=["i2", "i0", "gone"], metadata=metadata)
    documents, rejects = read(tmp_path)
    assert not rejects
    assert documents[0].text == "One\n\nFirst part.\n\nTwo\n\nSecond & last."
    assert documents[0].language == "en"
    assert documents[0].metadata == {
        "path": "b.epub", "title": "The Title", "author": "A. Uthor; B. Other", "stated_language": "en-GB",
        "license": "CC BY 4.0", "time": "1999-05-04", "group": "books/b.epub", "missing_chapters": 1,
    }
    by_chapter, _ = read(tmp_path, documents="chapter")
    assert [(d.id, d.metadata["heading"], d.metadata["group"]) for d in by_chapter] == [
        ("books/b.epub#1", "One", "books/b.epub"), ("books/b.epub#2", "Two", "books/b.epub")]


def test_gutenberg_marks_across_the_chapters_of_an_epub(tmp_path: Path) -> None:
    lines = lambda text: "".join(f"<p>{line}</p>" for line in text.split("\n") if line)  # noqa: E731
    epub_of(tmp_path / "b.epub", {
        "a.xhtml": f"<body>{lines(HEAD)}<p>{STARTS[0]}</p><h1>One</h1><p>First.</p></body>",
        "b.xhtml": f"<body><h1>Two</h1><p>Second.</p><p>{ENDS[0]}</p><p>Licence.</p></body>",
    })
    documents, _ = read(tmp_path)
    assert documents[0].text == "One\n\nFirst.\n\nTwo\n\nSecond."
    assert documents[0].metadata["group"] == "gutenberg-2701"


BAD = '<encryption><EncryptedData><EncryptionMethod Algorithm="{}"/></EncryptedData></encryption>'


def test_protected_and_broken_epubs_are_told(tmp_path: Path) -> None:
    page = {"a.xhtml": "<body><p>Text.</p></body>"}
    key = "META-INF/encryption.xml"
    epub_of(tmp_path / "drm.epub", page, extra={key: BAD.format("http://www.w3.org/2001/04/xmlenc#aes128-cbc")})
    epub_of(tmp_path / "fonts.epub", page, extra={key: BAD.format("http://www.idpf.org/2008/embedding")})
    epub_of(tmp_path / "spine.epub", page, spine=["no", "such"])
    epub_of(tmp_path / "blank.epub", {"a.xhtml": "<body><img src='x.png'/></body>"})
    epub_of(tmp_path / "path.epub", {"../../../../etc/passwd": "", "a.xhtml": "<body><p>Text.</p></body>"})
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><package>&b;</package>'
    for name, opf in (("laughs", laughs), ("half", "<package><metadata>"), ("deep", "<a>" * 100_000)):
        with zipfile.ZipFile(tmp_path / f"{name}.epub", "w") as archive:
            archive.writestr("x.opf", opf)
    (tmp_path / "empty.epub").write_bytes(b"")
    (tmp_path / "cut.epub").write_bytes((tmp_path / "fonts.epub").read_bytes()[:-40])
    documents, rejects = read(tmp_path)
    assert {d.metadata["path"]: d.text for d in documents} == {
        "fonts.epub": "Text.", "spine.epub": "Text.", "path.epub": "Text."}
    assert {r.document.metadata["path"]: r.reason for r in rejects} == {
        "drm.epub": "encrypted", "blank.epub": "no_text", "laughs.epub": "entity_declaration",
        "half.epub": "broken_xml", "deep.epub": "too_deep", "empty.epub": "damaged_epub", "cut.epub": "damaged_epub"}


def test_a_page_that_unpacks_to_gigabytes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epub, "LARGEST_CHAPTER", 1 << 20)
    monkeypatch.setattr(epub, "LARGEST_BOOK", 1 << 20)
    epub_of(tmp_path / "one.epub", {"a.xhtml": f"<body>{'x' * (2 << 20)}</body>"})
    epub_of(tmp_path / "many.epub", {f"{n}.xhtml": f"<body>{'x' * 900_000}</body>" for n in range(3)})
    _, rejects = read(tmp_path)
    assert [r.reason for r in rejects] == ["archive_bomb", "too_large"]


def test_a_page_nested_without_end_is_read() -> None:
    assert html_text("<div>" * 100_000 + "deep" + "</div>" * 100_000) == "deep"


def test_a_line_of_200_mb_is_told_in_bounded_memory(tmp_path: Path) -> None:
    with (tmp_path / "long.txt").open("wb") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    _, rejects = read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r.reason for r in rejects] == ["too_large"]
    assert peak < 2.5 * archives.LARGEST_WHOLE


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 2000))
def test_no_damage_raises(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    folder = tmp_path_factory.mktemp("damage")
    good = epub_of(folder / "a.epub", {"a.xhtml": "<body><p>Text.</p></body>"}).read_bytes()
    (folder / "a.epub").write_bytes(good[:at] + noise + good[at + len(noise):])
    (folder / "b.txt").write_bytes(noise)
    documents, rejects = read(folder)
    assert len(documents) + len(rejects) == 2


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="to mend it"):
        read(tmp_path / "none.epub")
    with pytest.raises(ValueError, match="path"):
        Books(path=" ")


@pytest.mark.slow
def test_sixty_real_novels() -> None:
    archive = DATA / "text/novels_60.tar.xz"
    if not archive.exists():
        pytest.skip("the shared data are not here")
    documents, rejects = read(archive, documents="chapter")
    assert not rejects
    books: dict[str, list[Document]] = {}
    for document in documents:
        assert "\r" not in document.text and "\ufeff" not in document.text  # noqa: PT018
        books.setdefault(document.metadata["member"], []).append(document)
    assert len(books) == 60
    assert len({d.id for d in documents}) == len(documents)
    assert len(books["Hardy_Tess_1891.txt"]) == 60  # 59 chapters and the title page
    assert books["Kipling_Kim_1901.txt"][1].text.startswith("Chapter I\nO ye who tread the Narrow Way")
    whole, _ = read(archive, join_lines=True)
    kim = next(d for d in whole if d.metadata["member"] == "Kipling_Kim_1901.txt")
    assert "astride the gun Zam Zammah on her brick platform opposite the old Ajaib-Gher" in kim.text
