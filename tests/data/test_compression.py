"""Compressed inputs: the same bytes as the standard readers, all that comes before damage, any cut the same lines."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import random
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.core.hashing import digest_folder
from gristmill.data import access_points, compression, inputs, stage, units
from gristmill.data.access_points import AccessPoint
from gristmill.data.compression import Bomb, Corrupt, unpack
from gristmill.data.documents import Document, Reject
from gristmill.data.inputs import cut_lines, list_inputs, open_input
from gristmill.data.sources import Files, Reddit
from tests.data.reading import read_all
from tests.data.test_stage import data, run, text


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


def bgzip(data: bytes, block: int = 1000) -> bytes:
    """As `bgzip` writes it: members with their own size in the header, an empty one at the end."""
    out = b""
    for at in [*range(0, len(data), block), len(data)]:
        piece = data[at: at + block]
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(piece) + packer.flush()
        out += b"\x1f\x8b\x08\x04" + bytes(6) + b"\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25) + body
        out += struct.pack("<II", zlib.crc32(piece), len(piece))
    return out


def seekable_zstd(data: bytes, block: int = 1000) -> bytes:
    """Frames and the seek table of the seekable format."""
    pieces = [data[at: at + block] for at in range(0, len(data), block)]
    frames = [zstd(piece) for piece in pieces]
    table = b"".join(struct.pack("<II", len(frame), len(piece)) for frame, piece in zip(frames, pieces, strict=True))
    table += struct.pack("<IB", len(frames), 0) + b"\xb1\xea\x92\x8f"
    return b"".join(frames) + b"\x5e\x2a\x4d\x18" + struct.pack("<I", len(table)) + table


PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
                                             ".zst": zstd}


def read(data: bytes, suffix: str, size: int = 1 << 16) -> tuple[bytes, type[Exception] | None]:
    """What could be read, and what was raised then."""
    found = b""
    with unpack(io.BytesIO(data), suffix, len(data)) as stream:
        try:
            while piece := stream.read1(size):  # type: ignore[attr-defined]
                found += piece
        except Exception as error:
            return found, type(error)
    return found, None


@pytest.mark.parametrize("suffix", PACK)
@given(pieces=st.lists(st.binary(max_size=300), min_size=1, max_size=4), size=st.integers(1, 500))
def test_one_piece_or_many_are_read_whole(suffix: str, pieces: list[bytes], size: int) -> None:
    data = b"".join(map(PACK[suffix], pieces))
    assert read(data, suffix, size) == (b"".join(pieces), None)
    if suffix != ".zst":
        assert read(data + bytes(512), suffix, size) == (b"".join(pieces), None), "padding is no damage"
    assert read(data + b"this is not packed", suffix, size) == (b"".join(pieces), Corrupt)


@pytest.mark.parametrize("suffix", PACK)
def test_cut_at_any_byte_everything_before_is_given(suffix: str) -> None:
    chosen = random.Random(3)
    text = b"".join(b"%d %s\n" % (n, chosen.randbytes(3).hex().encode()) for n in range(90))
    packed, last = PACK[suffix](text[:600]) + PACK[suffix](text[600:]), 0
    border = len(PACK[suffix](text[:600]))
    for cut in range(1, len(packed)):
        found, error = read(packed[:cut], suffix, 64)
        assert text.startswith(found)
        assert error is (None if cut == border else Corrupt), cut
        assert len(found) >= last
        assert len(found) >= (600 if cut >= border else 0)
        last = len(found)
    if suffix == ".gz":
        whole = zlib.decompressobj(31)
        first = len(whole.decompress(packed[: border - 9]))
        assert len(read(packed[: border - 9], suffix)[0]) == first


@pytest.mark.parametrize("suffix", PACK)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_raises_nothing_but_corrupt(suffix: str, at: int, bit: int) -> None:
    text = bytes(random.Random(5).choices(b"abc \n", k=3000))
    packed = bytearray(PACK[suffix](text))
    packed[at % len(packed)] ^= 1 << bit
    found, error = read(bytes(packed), suffix)
    assert error in (None, Corrupt, OSError)  # OSError: a header that asks for a window of gigabytes
    assert error is not None or found == text or suffix in (".gz", ".zst")


def test_what_comes_from_below_is_no_damage_of_the_data() -> None:
    class Failing(io.BytesIO):
        def read(self, *arguments: int) -> bytes:  # type: ignore[override]
            if self.tell() > 100_000:
                raise ConnectionError("the line is cut")
            return super().read(*arguments)

    noise = random.Random(1).randbytes(300_000)
    for suffix, pack in PACK.items():
        with unpack(Failing(pack(noise)), suffix, 0) as stream, pytest.raises(ConnectionError, match="the line is cut"):
            stream.read()


def test_bombs_end_at_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "LEAST_UNPACKED", 10 << 20)
    zeros = bytes(32 << 20)
    for suffix, pack in PACK.items():
        tracemalloc.start()
        data = pack(zeros) if suffix != ".xz" else lzma.compress(zeros, preset=0)
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        with unpack(io.BytesIO(data), suffix, len(data)) as stream:
            size = 0
            with pytest.raises(Bomb, match="unpack it yourself"):  # noqa: PT012
                while piece := stream.read(1 << 20):
                    size += len(piece)
        assert tracemalloc.get_traced_memory()[1] - held < 8 << 20
        tracemalloc.stop()
        limit = max(10 << 20, 200 * len(data))
        assert limit - (1 << 20) <= size <= limit


def test_xz_that_needs_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MOST_XZ_MEMORY", 1 << 20)
    assert read(lzma.compress(b"text" * 100, preset=9), ".xz") == (b"", Corrupt)


def jsonl(count: int, seed: int = 0) -> bytes:
    chosen = random.Random(seed)
    return b"".join(json.dumps({"text": chosen.randbytes(chosen.randrange(400)).hex()}).encode() + b"\n"
                    for _ in range(count))


def streams(data: bytes, *, many: bool = False) -> dict[str, bytes]:
    """The ways in which JSONL is packed: name -> file. many: only those of many parts that can be gone to."""
    found = {} if many else {f"one.jsonl{suffix}": pack(data) for suffix, pack in PACK.items()}
    if not many:
        half = data.index(b"\n", len(data) // 2) - 5
        found |= {f"two.jsonl{suffix}": pack(data[:half]) + pack(data[half:]) for suffix, pack in PACK.items()}
    found["bgzip.jsonl.gz"] = bgzip(data, 5000)
    found["seekable.jsonl.zst"] = seekable_zstd(data, 5000)
    found["frames.jsonl.zst"] = b"".join(zstd(data[at: at + 5000]) for at in range(0, len(data), 5000))
    if shutil.which("xz"):
        found["blocks.jsonl.xz"] = subprocess.run(["xz", "--block-size=5000", "-c"], input=data, check=True,
                                                  capture_output=True).stdout
    return found


@pytest.mark.parametrize("size", [500, 3000, 20_000])
def test_any_cut_of_a_compressed_file_gives_the_same_documents(tmp_path: Path, size: int) -> None:
    data = jsonl(300)
    expected = [(f"@{at}", json.loads(line)["text"]) for at, line in lines_of(data)]
    for name, packed in streams(data).items():
        (tmp_path / name).write_bytes(packed)
        for source in (Files(path=str(tmp_path / name)), Reddit(path=str(tmp_path / name), fields={"text": "text"})):
            item = source.inputs()[0]
            parts = source.ranges(item, size)
            many = name.startswith(("bgzip", "seekable", "frames", "blocks"))
            pieces = -(-len(data) // 5000) if many else 2 if name in ("two.jsonl.xz", "two.jsonl.zst") else 1
            most = inputs.MOST_PASSES[compression.ending(name)] * pieces
            assert len(parts) == max(1, min(round(len(packed) / size), most)), name
            texts = [(found.document if isinstance(found, Reject) else found)
                     for part in parts for found in source.read(part, "s")]
            assert [(d.id[len(f"s/{name}"):], d.text) for d in texts] == expected, name


def lines_of(data: bytes) -> list[tuple[int, bytes]]:
    offsets = itertools.accumulate(map(len, data.splitlines(keepends=True)), initial=0)
    return list(zip(offsets, data.splitlines(), strict=False))


def test_ranges_are_even_although_only_the_beginning_was_looked_at(tmp_path: Path) -> None:
    data = jsonl(3000)
    for suffix, pack in PACK.items():
        (tmp_path / f"x.jsonl{suffix}").write_bytes(pack(data))
        item = list_inputs(str(tmp_path / f"x.jsonl{suffix}"))[0]
        parts = cut_lines(item, item.size // 2)
        assert len(parts) == 2
        assert parts[1].start == pytest.approx(len(data) / 2, rel=0.1)


@pytest.mark.parametrize("suffix", PACK)
def test_damage_is_said_once_whatever_the_cut(tmp_path: Path, suffix: str) -> None:
    data = jsonl(400)
    packed = PACK[suffix](data)
    path = tmp_path / f"x.jsonl{suffix}"
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(packed[: int(len(packed) * share)])
        source = Files(path=str(path))
        whole = read_all(source)
        assert [type(found) for found in whole].count(Reject) == 1 + any(
            isinstance(f, Reject) and f.reason == "broken_record" for f in whole)
        for size in (1000, 10_000):
            parted = read_all(source, size=size)
            assert [f for f in parted if isinstance(f, Document)] == [f for f in whole if isinstance(f, Document)]
            assert len(parted) == len(whole)


def test_places_to_begin_at_are_gone_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of the last part unpacks little more than that part."""
    data = jsonl(8000)
    for name, packed in streams(data, many=True).items():
        (tmp_path / name).write_bytes(packed)
        item = list_inputs(str(tmp_path / name))[0]
        unpacked = 0
        original = compression.Unpacked._some

        def counted(self: compression.Unpacked, size: int, original: Callable[..., bytes] = original) -> bytes:
            nonlocal unpacked
            piece = original(self, size)
            unpacked += len(piece)
            return piece

        with monkeypatch.context() as patch, open_input(item) as stream:
            patch.setattr(compression.Unpacked, "_some", counted)
            stream.seek(len(data) - 100_000)
            assert stream.read() == data[-100_000:], name
        assert unpacked < 120_000, name


@given(st.binary(max_size=400), st.integers(0, 400))
def test_indexes_of_strangers_are_read_without_harm(noise: bytes, at: int) -> None:
    data = jsonl(20)
    good = [lzma.compress(data), seekable_zstd(data, 300), bgzip(data, 300), zstd(data) + zstd(data)]
    for packed, suffix in zip(good, (".xz", ".zst", ".gz", ".zst"), strict=True):
        for broken in (packed[:at], packed[:-at or None] + noise, noise + packed):
            points = list(itertools.islice(access_points.access_points(io.BytesIO(broken), suffix), 10_000))
            assert all(isinstance(point, AccessPoint) for point in points)


def test_going_back_is_refused_with_a_reason(tmp_path: Path) -> None:
    with unpack(io.BytesIO(gzip.compress(bytes(1 << 20))), ".gz", 0) as stream:
        assert stream.read(500_000)
        with pytest.raises(OSError, match="unpack it first"):
            stream.seek(0)
        with pytest.raises(OSError, match="unpack it first"):
            stream.seek(0, io.SEEK_END)


def test_windows_of_gigabytes_are_read_everywhere(tmp_path: Path) -> None:
    """As `zstd --long=31` makes them; those above 128 MiB are not for Arrow."""
    pytest.importorskip("zstandard")
    for window, name in ((17, "a"), (21, "b")):
        line = json.dumps({"text": name}).encode() + b"\n"
        frame = b"\x28\xb5\x2f\xfd" + bytes([0, window << 3]) + struct.pack("<I", len(line) << 3 | 1)[:3] + line
        assert compression.window(frame) == 1 << (10 + window)
        (tmp_path / f"{name}.jsonl.zst").write_bytes(frame * 3)
    (tmp_path / "c.jsonl.zst").write_bytes(frame * 2 + frame[:-3])
    found = read_all(Files(path=str(tmp_path)))
    assert [one.text for one in found if isinstance(one, Document)] == ["a"] * 3 + ["b"] * 5
    assert [one.reason for one in found if isinstance(one, Reject)] == ["unreadable_file"]


def test_a_compressed_file_is_many_units_and_a_killed_run_goes_on_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 8000)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"".join(
        json.dumps({"text": text(seed)}).encode() + b"\n" for seed in range(120)), mtime=0))
    config = data(tmp_path / "x.jsonl.gz")
    found = units.Listing(config.sources).units()
    assert len(found) > 8
    run(tmp_path / "whole", config)
    finished: list[str] = []
    original = stage.run_tasks

    def killed(job: str, tasks: list[Any], runtime: Any, on_done: Any) -> None:
        original(job, tasks[:5], runtime, on_done)
        finished.extend(task["target"] for task in tasks[:5])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "run_tasks", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again", config)
    written = {target: Path(f"{target}.json").stat().st_mtime_ns for target in finished}
    read_again: list[str] = []

    def noted(job: str, tasks: list[Any], runtime: Any, on_done: Any) -> None:
        read_again.extend(task["target"] for task in tasks)
        original(job, tasks, runtime, on_done)

    monkeypatch.setattr(stage, "run_tasks", noted)
    run(tmp_path / "again", config, worker_count=2)
    assert len(written) == 5
    assert not set(written) & set(read_again)
    assert digest_folder(tmp_path / "again") == digest_folder(tmp_path / "whole")
