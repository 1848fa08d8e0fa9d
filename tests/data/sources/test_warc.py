"""Web archives: against warcio and fastwarc, every cut into ranges, and every kind of damage."""

import base64
import gzip
import hashlib
import io
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gristmill.data.documents import Document, Reject
from gristmill.data.formats import warc_members
from gristmill.data.formats.dates import utc_time
from gristmill.data.formats.http_message import Response, Undecodable, body_text, content_type, parse_response, unpacked
from gristmill.data.formats.warc_members import Members, Window
from gristmill.data.formats.warc_records import records
from gristmill.data.inputs import Input, Range
from gristmill.data.sources.warc import Warc, digest_problem, page_title
from tests.shared import DATA

REAL = DATA / "web/warc"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real archives are not on this machine")
KINDS = {"response", "resource", "conversion"}


def record(
    text: str | bytes,
    *,
    kind: str = "conversion",
    url: str = "http://example.org/a",
    headers: str = "",
    length: int | None = None,
    media: str = "text/plain",
) -> bytes:
    body = text.encode() if isinstance(text, str) else text
    fields = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
        f"Content-Type: {media}\r\n{headers}Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return fields.encode() + body + b"\r\n\r\n"


def page(html: str | bytes, head: str = "Content-Type: text/html", status: str = "200 OK", **options: Any) -> bytes:
    body = html.encode() if isinstance(html, str) else html
    return record(
        f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + body, kind="response", media="application/http", **options
    )


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


PACK = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstd}


def source(data: bytes, ending: str, folder: Path, **options: Any) -> tuple[Warc, Input]:
    path = folder / f"a.warc{ending}"
    path.write_bytes(data)
    reader = Warc(path=str(path), **options)
    return reader, reader.inputs()[0]


def read(data: bytes, ending: str, folder: Path, **options: Any) -> list[Document | Reject]:
    reader, item = source(data, ending, folder, **options)
    return list(reader.read(Range(item), "w"))


def reasons(found: list[Document | Reject]) -> list[str]:
    return [one.reason if isinstance(one, Reject) else one.text.strip() for one in found]


def raw(data: bytes, start: int = 0, stop: int | None = None, longest: int = 1 << 20) -> list[Any]:
    found = records(Window(io.BytesIO(data)), start, stop, kinds=KINDS, longest=longest)
    return [(one.offset, one.inner, one.kind, one.block, one.reason, one.problem) for one in found]


@real
@pytest.mark.parametrize("name", ["dolma_sample-0000.warc.gz", "iana.warc.gz", "whirlwind.warc.wet.gz"])
def test_records_are_those_of_warcio_and_fastwarc(name):
    pytest.importorskip("warcio")
    from fastwarc import ArchiveIterator as Fast
    from warcio.archiveiterator import ArchiveIterator

    data = (REAL / name).read_bytes()
    iterator = ArchiveIterator(io.BytesIO(data), no_record_parse=True)
    theirs = [(one.rec_type, one.raw_stream.read(), iterator.get_record_offset()) for one in iterator]
    ours = list(records(Window(io.BytesIO(data)), 0, None, kinds={kind for kind, _, _ in theirs}, longest=1 << 30))
    assert [(one.kind, one.block, one.offset) for one in ours] == theirs
    assert len(list(Fast(io.BytesIO(data)))) == len(ours)


@real
def test_payloads_are_those_that_warcio_decodes():
    pytest.importorskip("warcio")
    from warcio.archiveiterator import ArchiveIterator

    compared = 0
    for path in sorted(REAL.glob("*.warc.gz")):
        data = path.read_bytes()
        theirs = [
            one.content_stream().read() for one in ArchiveIterator(io.BytesIO(data)) if one.rec_type == "response"
        ]
        ours = [
            unpacked(parse_response(one.block), 1 << 30)[0]
            for one in records(Window(io.BytesIO(data)), 0, None, kinds={"response"}, longest=1 << 30)
            if one.block
        ]
        assert ours == theirs
        compared += len(ours)
    assert compared > 80


@real
def test_real_archives_become_documents_with_provenance():
    reader = Warc(path=str(REAL), verify=True)
    items = reader.inputs()
    assert [item.name for item in items] == [
        "dolma_sample-0000.warc.gz",
        "dolma_sample-0001.warc.gz",
        "iana.warc.gz",
        "whirlwind.warc.gz",
        "whirlwind.warc.wet.gz",
    ]
    found = {item.name: list(reader.read(Range(item), "w")) for item in items}
    (page,) = found["whirlwind.warc.gz"]
    (text,) = found["whirlwind.warc.wet.gz"]
    assert isinstance(page, Document)
    assert isinstance(text, Document)
    assert page.id == "w/whirlwind.warc.gz@1023"
    assert page.domain == "an.wikipedia.org"
    assert page.metadata["url"] == text.metadata["url"] == "https://an.wikipedia.org/wiki/Escopete"
    assert page.metadata["time"] == "2024-05-18T01:58:10Z"
    assert page.metadata["title"] == "Escopete - Biquipedia, a enciclopedia libre"
    assert page.metadata["record_id"] == "urn:uuid:2aabeff2-67f5-4608-8466-e87c6296e2b6"
    assert page.metadata["status"] == 200
    assert text.metadata["languages"] == "spa"
    assert len(page.text) < len(text.text), "the main text has no menu"
    iana = [one.reason for one in found["iana.warc.gz"] if isinstance(one, Reject)]
    assert iana.count("revisit") == 123
    assert iana.count("content_type") == 28
    ids = [(one.document if isinstance(one, Reject) else one).id for all_ in found.values() for one in all_]
    assert len(set(ids)) == len(ids)


@real
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 214006), max_size=6).map(sorted))
def test_any_cut_of_a_real_archive_gives_the_same_records(cuts):
    data = (REAL / "dolma_sample-0000.warc.gz").read_bytes()
    edges = [0, *cuts]
    whole = raw(data)
    assert [one for a, b in zip(edges, [*edges[1:], None], strict=True) for one in raw(data, a, b)] == whole


# Small archives of every kind, with every kind of damage, cut anywhere.
TEXTS = st.lists(st.text("ab\n", min_size=0, max_size=30), min_size=1, max_size=12)


@settings(max_examples=120, deadline=None)
@given(texts=TEXTS, ending=st.sampled_from(list(PACK)), together=st.booleans(), data=st.data())
def test_any_cut_of_any_archive_gives_the_same_records(texts, ending, together, data):
    pieces = [record(text) for text in texts]
    packed = PACK[ending](b"".join(pieces)) if together else b"".join(PACK[ending](piece) for piece in pieces)
    damage = data.draw(st.sampled_from(["none", "cut off", "bytes", "hole"]))
    at = data.draw(st.integers(0, len(packed) - 1))
    if damage == "cut off":
        packed = packed[: at + 1]
    elif damage == "bytes":
        packed = packed[:at] + bytes(b ^ 0x55 for b in packed[at : at + 4]) + packed[at + 4 :]
    elif damage == "hole":
        packed = packed[:at] + packed[at + 9 :]
    whole = raw(packed)
    if damage == "none":
        assert [one[3] for one in whole] == [text.encode() for text in texts]
    places = [(one[0], one[1]) for one in whole]
    assert len(set(places)) == len(places)
    edges = sorted({0, *data.draw(st.lists(st.integers(0, len(packed)), max_size=4))})
    assert [one for a, b in zip(edges, [*edges[1:], None], strict=True) for one in raw(packed, a, b)] == whole


def stored(data: bytes, ending: str) -> bytes:
    """A member that holds its content as it is, as packers leave what does not shrink."""
    if ending == ".gz":
        return gzip.compress(data, 0)
    blocks = [data[at : at + (1 << 17)] for at in range(0, len(data), 1 << 17)]
    headers = [
        (len(block) << 3 | (number == len(blocks) - 1)).to_bytes(3, "little") for number, block in enumerate(blocks)
    ]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(map(bytes.__add__, headers, blocks))


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("inner", [20, 1500])
def test_an_archive_inside_of_an_archive_is_one_record(ending, inner):
    """The members of an archived .warc.gz lie in the file as they are: a signature alone would find them."""
    archived = b"".join(PACK[ending](record(hashlib.sha512(bytes([n % 256, n // 256])).digest())) for n in range(inner))
    packed = b"".join(
        stored(piece, ending) for piece in [record("first"), record(archived, media="application/gzip"), record("last")]
    )
    assert archived[:200] in packed, "the test is about members that are stored as they are"
    whole = raw(packed)
    assert [one[3] for one in whole] == [b"first", archived, b"last"]
    for at in range(1, len(packed), max(1, len(packed) // 20)):
        assert raw(packed, 0, at) + raw(packed, at) == whole


def test_ranges_cut_what_is_compressed_record_by_record_only(tmp_path):
    many = [record("x" * 50 + str(n)) for n in range(300)]
    reader, item = source(b"".join(map(gzip.compress, many)), ".gz", tmp_path)
    parts = reader.ranges(item, item.size // 5)
    assert len(parts) == 5
    texts = [one.text for part in parts for one in reader.read(part, "w") if isinstance(one, Document)]
    assert texts == ["x" * 50 + str(n) for n in range(300)]
    reader, item = source(gzip.compress(b"".join(many)), ".gz", tmp_path)
    assert len(reader.ranges(item, 100)) == 1
    ids = [one.id for one in reader.read(Range(item), "w") if isinstance(one, Document)]
    assert len(set(ids)) == 300
    assert ids[:2] == ["w/a.warc.gz@0", f"w/a.warc.gz@0+{len(many[0])}"]


def test_members_that_are_cut_without_regard_to_records_are_read_through(tmp_path):
    data = b"".join(record(f"text {n} " * 40) for n in range(50))
    packed = b"".join(gzip.compress(data[at : at + 997]) for at in range(0, len(data), 997))
    found = read(packed, ".gz", tmp_path)
    assert reasons(found) == [(f"text {n} " * 40).strip() for n in range(50)]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damage_costs_one_record(tmp_path, ending):
    pieces = [PACK[ending](record(f"text number {n}")) for n in range(5)]
    broken = pieces[2][:-9] + b"\xff" * 9
    found = read(b"".join([*pieces[:2], broken, *pieces[3:]]), ending, tmp_path)
    assert reasons(found) == ["text number 0", "text number 1", "damaged_record", "text number 3", "text number 4"]
    assert found[2].document.id == f"w/a.warc{ending}@{len(pieces[0]) + len(pieces[1])}"
    found = read(b"".join(pieces)[:-20], ending, tmp_path)
    assert reasons(found)[-2:] == ["text number 3", "truncated_record"]


@pytest.mark.parametrize("ending", list(PACK))
def test_a_wrong_length_costs_one_record(tmp_path, ending):
    pack = PACK[ending]
    short = read(
        b"".join(map(pack, [record("one"), record("a longer text", length=3), record("three")])), ending, tmp_path
    )
    assert reasons(short) == ["one", "broken_record", "three"]
    none = record("two").replace(b"Content-Length", b"Content-Longth")
    assert reasons(read(b"".join(map(pack, [record("one"), none, record("three")])), ending, tmp_path)) == [
        "one",
        "broken_record",
        "three",
    ]
    if ending:
        long = read(b"".join(map(pack, [record("one"), record("two", length=500), record("three")])), ending, tmp_path)
        assert reasons(long) == ["one", "truncated_record", "three"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_bomb_is_left_early_and_the_next_record_is_read(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(warc_members, "BOMB_BYTES", 4 << 20)
    size = 60 << 20
    if ending == ".gz":
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        head = record(b"", length=size)[:-4]
        bomb = packer.compress(head) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(60)) + packer.flush()
    else:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(record(b"", length=size)[:-4])
            for _ in range(60):
                stream.write(bytes(1 << 20))
        bomb = sink.getvalue().to_pybytes()
    data = PACK[ending](record("before")) + bomb + PACK[ending](record("after"))
    tracemalloc.start()
    found = read(data, ending, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reasons(found) == ["before", "zip_bomb", "after"]
    assert peak < 16 << 20


def test_a_page_that_unpacks_to_too_much_is_one_reject(tmp_path):
    packed = gzip.compress(bytes(40 << 20))
    data = b"".join(
        map(
            gzip.compress,
            [
                page(packed, "Content-Type: text/html\r\nContent-Encoding: gzip"),
                page("x" * (2 << 20)),
                page("<p>a short page with some text in it</p>"),
            ],
        )
    )
    tracemalloc.start()
    found = read(data, ".gz", tmp_path, longest_mb=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons(found)[:2] == ["too_long", "too_long"]
    assert "longest_mb" in found[1].detail
    assert isinstance(found[2], Document)
    assert peak < 12 << 20


BODY = "<html><title>Ü &amp; x</title><body><p>Die Größe der Bäume über dem Fluss ist gewaltig.</p></body></html>"


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("br", "brotli"),
        ("zstd", zstd),
        ("x-gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        ("gzip", lambda data: data),
        ("br", lambda data: data),
        ("identity", lambda data: data),
        ("none", lambda data: data),
        ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    ],
)
def test_content_encodings(encoding, pack):
    if pack == "brotli":
        pack = pytest.importorskip("brotli").compress
    headers = {"content-encoding": encoding}
    assert unpacked(Response(200, headers, pack(BODY.encode())), 1 << 20) == (BODY.encode(), False)


def test_bodies_in_chunks_and_broken_ones():
    chunks = b"5\r\nhello\r\n6; x=y\r\n world\r\n0\r\n\r\n"
    headers = {"transfer-encoding": "chunked"}
    assert unpacked(Response(200, headers, chunks), 100) == (b"hello world", False)
    assert unpacked(Response(200, headers, chunks[:14]), 100)[1], "its end is missing"
    assert unpacked(Response(200, headers, b"hello"), 100) == (b"hello", False), "stored without its chunks"
    packed = gzip.compress(BODY.encode() * 50)
    body, missing = unpacked(Response(200, {"content-encoding": "gzip"}, packed[:-30]), 1 << 20)
    assert missing
    assert BODY.encode() in body
    with pytest.raises(Undecodable, match="br"):
        unpacked(Response(200, {"content-encoding": "br"}, bytes(range(0, 256, 3))), 1 << 20)


@settings(max_examples=150, deadline=None)
@given(
    body=st.binary(max_size=200),
    encoding=st.sampled_from(["gzip", "deflate", "br", "zstd", "gzip, br", "x"]),
    chunked=st.booleans(),
)
@example(body=b"\x1f\x8b", encoding="gzip", chunked=False)
def test_no_body_breaks_the_reader(body, encoding, chunked):
    headers = {"content-encoding": encoding, "transfer-encoding": "chunked" if chunked else ""}
    try:
        found, _ = unpacked(Response(200, headers, body), 1 << 16)
    except Undecodable as problem:
        known = problem.reason in ("damaged_encoding", "too_long")
    else:
        known = isinstance(found, bytes)
    assert known


@pytest.mark.parametrize(
    ("declared", "real_encoding"),
    [
        ("utf-8", "utf-8"),
        ("iso-8859-1", "cp1252"),
        ("ISO-8859-1", "utf-8"),
        ("utf-8", "cp1252"),
        ("", "cp1252"),
        ("windows-1251", "utf-8"),
        ("nonsense", "utf-8"),
        ("base64", "utf-8"),
        ("utf-16le", "utf-16-le"),
        ("", "utf-16"),
    ],
)
def test_wrong_and_right_charsets(declared, real_encoding):
    text = "Die Größe der Bäume über dem Fluss – “gewaltig”. " * 5
    assert body_text(text.encode(real_encoding), declared.lower(), html=False)[0] == text


def test_content_types():
    assert content_type('Text/HTML; charset="UTF-8"') == ("text/html", "utf-8")
    assert content_type("text/html;charset=x; a=b") == ("text/html", "x")
    assert content_type("") == ("", "")
    assert content_type(";;; charset") == ("", "")


def test_what_becomes_a_document_and_what_is_counted(tmp_path):
    text = "This page has a paragraph that is long enough to be the main text of it, with commas, too. " * 3
    html = f"<html><title>A  &lt;B&gt;</title><body><article><p>{text}</p></article></body></html>"
    pieces = [
        page(html),
        page(html, "Content-Type: image/png"),
        page(html, "X: y"),
        page("plain", "X: y"),
        page(html, status="404 Not Found"),
        record("", kind="revisit"),
        record("", kind="request"),
        record("", kind="continuation"),
        record("", kind="strange"),
        page(""),
        page(b"\0\1\2" * 99, "Content-Type: text/plain"),
        record("note", kind="resource", url="metadata://gnu.org/x"),
        record(text, kind="resource", url="<http://b.org/>"),
    ]
    found = read(b"".join(map(gzip.compress, pieces)), ".gz", tmp_path, license="CC0")
    assert reasons(found) == [
        text.strip(),
        "content_type",
        text.strip(),
        "content_type",
        "http_status",
        "revisit",
        "continuation",
        "record_type",
        "no_text",
        "unreadable_bytes",
        "not_a_page",
        text.strip(),
    ]
    assert found[0].metadata["title"] == "A <B>"
    assert found[0].metadata["license"] == "CC0"
    assert found[-1].metadata["url"] == "http://b.org/"
    assert found[-1].domain == "b.org"
    any_status = read(gzip.compress(pieces[4]), ".gz", tmp_path, statuses="any")
    assert any_status[0].metadata["status"] == 404
    assert isinstance(any_status[0], Document)


@pytest.mark.parametrize("form", ["hex", "base32"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_digests(tmp_path, algorithm, form):
    digest = hashlib.new(algorithm, b"content").digest()
    stated = digest.hex() if form == "hex" else base64.b32encode(digest).decode()
    right = record("content", headers=f"WARC-Block-Digest: {algorithm}:{stated}\r\n")
    wrong = record("contend", headers=f"WARC-Block-Digest: {algorithm}:{stated}\r\n")
    assert reasons(read(right + wrong, "", tmp_path, verify=True)) == ["content", "wrong_digest"]
    assert reasons(read(right + wrong, "", tmp_path)) == ["content", "contend"]
    assert digest_problem(b"HTTP/1.1 200 OK\r\n\r\ncontent", {"warc-payload-digest": f"{algorithm}:{stated}"}) == ""
    assert digest_problem(b"anything", {"warc-block-digest": "crc:1"}) == ""


def test_deep_html_empty_files_and_files_of_other_kinds(tmp_path):
    deep = "<div>" * 100_000 + "the text in the middle of it all" + "</div>" * 100_000
    found = read(gzip.compress(page(deep)) + gzip.compress(record("after")), ".gz", tmp_path)
    assert reasons(found)[1] == "after"
    assert reasons(read(b"", ".gz", tmp_path)) == ["empty_file"]
    assert reasons(read(b"no archive at all", "", tmp_path)) == ["broken_record"]
    assert reasons(read(gzip.compress(b"no archive at all"), ".gz", tmp_path)) == ["broken_record"]
    reader, item = source(record("x"), "", tmp_path)
    Path(item.path).unlink()
    assert reasons(list(reader.read(Range(item), "w"))) == ["unreadable_file"]
    assert reader.ranges(item, 1) == [Range(item)]


def test_titles_and_times():
    assert page_title("<html><TITLE lang=x>\n a &amp;\n b </TITLE>") == "a & b"
    assert page_title("<title>" * 10_000) == ""
    assert utc_time("2024-05-17T23:31:22.123456789+02:00") == "2024-05-17T21:31:22Z"
    assert utc_time("Sat, 07 Sep 2002 00:00:01 GMT") == "2002-09-07T00:00:01Z"
    assert [utc_time(x) for x in ("2024", "2024-05", "2024-13", "x", "", None)] == [
        "2024-01-01T00:00:00Z",
        "2024-05-01T00:00:00Z",
        "",
        "",
        "",
        "",
    ]


def test_members_know_a_real_boundary_from_a_false_one():
    pieces = [gzip.compress(record(hashlib.sha512(bytes([n])).digest() * 40)) for n in range(5)]
    members = Members(Window(io.BytesIO(b"".join(pieces))))
    assert members.proven(len(pieces[0]), set())
    failed: set[int] = set()
    assert not members.proven(len(pieces[0]) + 1, failed)
    assert failed == {len(pieces[0]) + 1}
