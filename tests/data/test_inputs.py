import bz2
import gc
import glob
import gzip
import http.server
import io
import itertools
import json
import lzma
import os
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data import remote
from gristmill.data.inputs import DAMAGE, Input, Range, cut, fingerprint, lines, list_inputs, open_input


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """A web server over tmp_path; `parts` says whether it can send parts of files, `log` what it was asked for."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        parts = True
        log: list[str] = []

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            self.log.append(str(asked))
            path = tmp_path / self.path.split("?")[0].lstrip("/")
            if not asked or not self.parts or not path.is_file():
                return super().do_GET()
            data = path.read_bytes()
            first, last = asked.removeprefix("bytes=").split("-")
            piece = data[int(first): int(last or len(data)) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(piece) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(piece)))
            self.end_headers()
            self.wfile.write(piece)
            return None

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    serving.handler = Handler  # type: ignore[attr-defined]
    serving.url = f"http://127.0.0.1:{serving.server_address[1]}"  # type: ignore[attr-defined]
    yield serving
    serving.shutdown()
    serving.server_close()


def names(path: Path | str, suffixes: set[str] | None = None) -> list[str]:
    return [item.name for item in list_inputs(str(path), suffixes)]


def test_a_folder_is_listed_sorted_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt.gz", "sub/c.TXT", ".hidden/d.txt", "sub/.e.txt", "f.jpg", "g.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert names(tmp_path, {".txt"}) == ["a.txt.gz", "b.txt", "sub/c.TXT"]
    assert names(tmp_path) == ["a.txt.gz", "b.txt", "f.jpg", "g.gz", "sub/c.TXT"]
    assert list_inputs(str(tmp_path / "b.txt"))[0] == Input(
        str(tmp_path / "b.txt"), "b.txt", 5, str((tmp_path / "b.txt").stat().st_mtime_ns))
    for missing in ("no", "*.none", "sub/*.none"):
        with pytest.raises(UserError, match="to mend it"):
            list_inputs(str(tmp_path / missing), {".txt"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"(?s)no readable file.*\.txt"):
        list_inputs(str(tmp_path / "empty"), {".txt"})


def test_links_to_folders_above_end_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "x.txt").write_text("x")
    for name in ("up", "again", "more"):  # three loops: glob.glob would need 3 ** 40 steps
        (folder / name).symlink_to(tmp_path, target_is_directory=True)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "gone.txt").symlink_to(tmp_path / "nothing.txt")
    (folder / "link.txt").symlink_to(folder / "x.txt")
    assert names(tmp_path) == ["a/b/link.txt", "a/b/x.txt"]
    assert names(tmp_path / "**" / "*.txt") == ["a/b/link.txt", "a/b/x.txt"]


@pytest.mark.parametrize("pattern", ["*", "**", "**/*.txt", "*/*.md", "s?b/*", "[ab]*", "[!a]*", "**/b.*", "*/", "a*t",
                                     ".*/*", "x*/**/[a-c]*.txt", "**/.h*", "nothing*"])
def test_globs_are_those_of_the_standard_library(tmp_path: Path, pattern: str) -> None:
    for name in ("a.txt", "b.md", "sub/a.txt", "sub/b.md", "x1/y/z/c.txt", "x1/a.txt", ".h/a.txt", "sub/.hid", "a\nt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    expected = sorted(p for p in glob.glob(str(tmp_path / pattern), recursive=True) if os.path.isfile(p))
    try:
        found = sorted(item.path for item in list_inputs(str(tmp_path / pattern)))
    except UserError:
        found = []
    assert found == expected


def test_names_under_a_glob_do_not_depend_on_what_else_matches(tmp_path: Path) -> None:
    (tmp_path / "texts" / "one").mkdir(parents=True)
    (tmp_path / "texts" / "one" / "a.md").write_text("a")
    assert names(tmp_path / "texts" / "**" / "*.md") == ["one/a.md"]
    (tmp_path / "texts" / "b.md").write_text("b")
    assert names(tmp_path / "texts" / "**" / "*.md") == ["b.md", "one/a.md"]


def test_names_that_are_no_text_and_files_with_wildcards_in_their_names(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.txt")).write_text("x")
    (tmp_path / "[a].txt").write_text("y")
    assert names(tmp_path) == ["[a].txt", "bad\\xff.txt"]
    assert names(tmp_path / "[a].txt") == ["[a].txt"]
    assert [open_input(item).read() for item in list_inputs(str(tmp_path))] == [b"y", b"x"]


def test_memory_urls_are_listed_as_folders_are() -> None:
    files = fsspec.filesystem("memory")
    for name in ("only/deep/a.txt", "only/deep/b.jsonl.gz", "only/.hidden/c.txt", "only/d.jpg"):
        files.pipe(f"/listing/{name}", b"text")
    try:
        assert names("memory://listing", {".txt", ".jsonl"}) == ["only/deep/a.txt", "only/deep/b.jsonl.gz"]
        assert names("memory://listing/only/deep/a.txt") == ["a.txt"]
        assert names("memory://listing/only/**/*.txt") == ["deep/a.txt"]
        item = list_inputs("memory://listing/only/deep/a.txt")[0]
        assert (item.size, item.path) == (4, "memory:///listing/only/deep/a.txt")
        assert open_input(item).read() == b"text"
        assert "a.txt" in fingerprint(item)
        for missing in ("memory://listing/none", "memory://listing/*.none", "nosuchprotocol://x"):
            with pytest.raises(UserError):
                list_inputs(missing)
    finally:
        files.rm("/listing", recursive=True)


@pytest.mark.parametrize("parts", [True, False])
def test_a_web_server_with_and_without_parts(tmp_path: Path, server: Any, parts: bool) -> None:
    server.handler.parts = parts
    data = b"".join(b"line %d\n" % number for number in range(20_000))
    (tmp_path / "x.jsonl").write_bytes(data)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(data))
    item = list_inputs(f"{server.url}/x.jsonl?token=1")[0]
    assert (item.name, item.size) == ("x.jsonl", len(data))
    assert server.handler.log == []  # a HEAD is enough to list it
    found = [line for part in cut(item, 50_000) for line in ranged(part)]
    assert found == list(lines(io.BytesIO(data)))
    packed = list_inputs(f"{server.url}/x.jsonl.gz")[0]
    assert open_input(packed).read() == data
    assert names(f"{server.url}/", {".jsonl"}) == ["x.jsonl", "x.jsonl.gz"]
    with pytest.raises(UserError, match="cannot be read"):
        list_inputs(f"{server.url}/none.jsonl")
    (tmp_path / "x.jsonl").unlink()
    with pytest.raises(DAMAGE):
        open_input(item).read()


def ranged(part: Range) -> list[tuple[int, bytes | None]]:
    with open_input(part.input) as stream:
        return list(lines(stream, part.start, part.stop))


def test_a_connection_that_breaks_is_damage(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.01,))

    class Broken(server.handler):  # type: ignore[misc, name-defined]
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
            self.wfile.flush()
            self.connection.close()

    (tmp_path / "x.txt").write_bytes(b"x" * 100_000)
    item = list_inputs(f"{server.url}/x.txt")[0]
    server.RequestHandlerClass = Broken
    with pytest.raises(DAMAGE):
        open_input(item).read()


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_inputs_of_several_members_and_truncated_ones(tmp_path: Path, ending: str) -> None:
    data = os.urandom(50_000) + b"text\n" * 50_000
    pack = PACK.get(ending, zstd)
    path = tmp_path / f"x.txt{ending}"
    path.write_bytes(pack(data) + pack(b"second"))
    item = list_inputs(str(path))[0]
    assert item.suffix == ".txt"
    assert cut(item, 10) == [Range(item, 0, None)]
    with open_input(item) as stream:
        assert stream.read() == data + b"second"
    assert open_input(item, raw=True).read() == path.read_bytes()
    for broken in (pack(data)[:-20], pack(data)[:30_000], b"this is not compressed at all" * 10):
        path.write_bytes(broken)
        with pytest.raises(DAMAGE), open_input(item) as stream:
            stream.read()


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_a_closed_input_leaves_no_file_open(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.txt{ending}"
    path.write_bytes({"": bytes, ".zst": zstd, **PACK}[ending](b"text"))
    gc.collect()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        held = []
        for _ in range(5):
            stream = open_input(list_inputs(str(path))[0])
            held.append(stream)
            assert stream.read() == b"text"
            stream.close()
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
    assert all(stream.closed for stream in held)


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"bc\n", b"\r\n", b"\xe2\x80\xa8", b"long" * 5]), max_size=30),
       st.lists(st.integers(0, 200), max_size=6))
def test_any_cut_gives_the_same_lines(pieces: list[bytes], edges: list[int]) -> None:
    data = b"".join(pieces)
    whole = list(lines(io.BytesIO(data), longest=10))
    expected, offset = [], 0
    for line in data.split(b"\n") if data else []:
        expected.append((offset, line if len(line) <= 10 else None))
        offset += len(line) + 1
    if expected and expected[-1][0] == len(data):
        expected.pop()
    assert whole == expected
    marks = sorted({0, *(edge for edge in edges if edge < len(data))})
    stops = [*marks[1:], None]
    parts = [list(lines(io.BytesIO(data), start, stop, longest=10)) for start, stop in zip(marks, stops, strict=True)]
    assert list(itertools.chain(*parts)) == whole


@given(st.integers(0, 10_000), st.integers(1, 3000))
def test_cuts_cover_an_input_once(size: int, part: int) -> None:
    ranges = cut(Input("x", "x.txt", size), part)
    assert [r.start for r in ranges] == sorted({r.start for r in ranges})
    assert [r.stop for r in ranges] == [*(r.start for r in ranges[1:]), None]
    assert ranges[0].start == 0
    assert size == 0 or len(ranges) == max(1, round(size / part))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_line_of_200_mb_is_passed_by_in_little_memory(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.jsonl{ending}"
    with (gzip.open(path, "wb", 1) if ending else path.open("wb")) as file:
        file.write(b'{"text": "first"}\n')
        for _ in range(200):
            file.write(b"x" * (1 << 20))
        file.write(b'\n{"text": "last"}')
    item = list_inputs(str(path))[0]
    tracemalloc.start()
    with open_input(item) as stream:
        found = [(offset, line and json.loads(line)["text"]) for offset, line in lines(stream, longest=1 << 20)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(0, "first"), (18, None), (18 + (200 << 20) + 1, "last")]
    assert peak < 12 << 20


def test_fingerprints_are_of_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
    first, second = list_inputs(str(tmp_path))
    assert fingerprint(first) == fingerprint(second)
    (tmp_path / "b").write_text("other")
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(Input(str(tmp_path), "repository", 7, "commit")) == "7 commit"
