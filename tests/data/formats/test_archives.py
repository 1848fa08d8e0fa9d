import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.formats import tar_stream, zip_archive
from gristmill.data.formats.archives import WholeFile, archive_ranges, whole_files
from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.tar_stream import Tar
from gristmill.data.inputs import Input, list_inputs


def everything(path: Path, limit: int = 1 << 20, size: int = 1 << 40) -> list[WholeFile]:
    item = list_inputs(str(path))[0]
    return [file for part in archive_ranges(item, size)
            for file in whole_files(item, lambda name: True, limit, start=part.start, stop=part.stop)]


def told(files: list[WholeFile]) -> list[tuple[str, bytes | str]]:
    """(name, content or the reason why there is none)."""
    return [(file.name, file.data.reason if isinstance(file.data, Damaged) else file.data) for file in files]


def tar_files(data: bytes) -> list[tuple[str, bytes | None]]:
    tar = Tar(io.BytesIO(data), len(data))
    return [(entry.name, tar.data(1 << 20)) for entry in tar]


def tar_of(files: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=format) as archive:
        for name, data in files:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return held.getvalue()


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\n/", exclude_categories=["Cs"]), min_size=1,
                max_size=180)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@settings(max_examples=40, deadline=None)
@given(files=st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=5))
def test_a_tar_is_what_tarfile_wrote(format: int, files: list[tuple[str, bytes]]) -> None:
    data = tar_of(files, format)
    assert tar_files(data) == files


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 5000), st.binary(min_size=1, max_size=20))
def test_damage_is_told_and_never_raises_anything_else(noise: bytes, at: int, patch: bytes) -> None:
    good = tar_of([("a.txt", b"one" * 200), ("b.txt", b"two" * 200)])
    for data in (noise, good[:at], good[:at] + patch + good[at + len(patch):]):
        reason = ""
        try:
            tar_files(data)
        except Damaged as problem:
            reason = problem.reason
        assert reason in ("", "damaged_archive", "truncated_archive", "empty_archive")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_tars_behind_every_compression(tmp_path: Path, ending: str) -> None:
    mode = {"tgz": "w:gz", "tar": "w"}.get(ending, f"w:{ending[4:]}")
    (tmp_path / "x").write_bytes(b"hello")
    with tarfile.open(tmp_path / f"a.{ending}", mode) as archive:  # type: ignore[call-overload]
        archive.add(tmp_path / "x", "folder/x.txt")
    (tmp_path / "x").unlink()
    assert told(everything(tmp_path / f"a.{ending}")) == [("folder/x.txt", b"hello")]


def test_links_devices_and_paths_lead_nowhere(tmp_path: Path) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, kind in (("link.txt", tarfile.SYMTYPE), ("hard.txt", tarfile.LNKTYPE), ("dev", tarfile.CHRTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "/etc/passwd"
            archive.addfile(about)
        about = tarfile.TarInfo("../../etc/passwd")
        about.size = 4
        archive.addfile(about, io.BytesIO(b"mine"))
    (tmp_path / "a.tar").write_bytes(held.getvalue())
    assert told(everything(tmp_path / "a.tar")) == [
        ("link.txt", "link"), ("hard.txt", "link"), ("dev", "not_a_file"), ("../../etc/passwd", "unsafe_member_path")]


def test_truncated_archives_keep_what_came_before(tmp_path: Path) -> None:
    data = tar_of([("a", b"1" * 2000), ("b", b"2" * 2000)])
    (tmp_path / "a.tar").write_bytes(data[:4000])
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(data)[:-30])
    (tmp_path / "c.zip").write_bytes(b"PK\3\4" + b"x" * 100)
    (tmp_path / "d.tar").write_bytes(b"")
    (tmp_path / "e.tar").write_bytes(b"no tar at all" * 100)
    assert told(everything(tmp_path / "a.tar")) == [("a", b"1" * 2000), ("a.tar", "truncated_archive")]
    assert told(everything(tmp_path / "b.tar.gz"))[-1] == ("b.tar.gz", "unreadable_file")
    assert [told(everything(tmp_path / f"{x}")) for x in ("c.zip", "d.tar", "e.tar")] == [
        [("c.zip", "damaged_archive")], [("d.tar", "empty_archive")], [("e.tar", "damaged_archive")]]


def test_a_tar_cut_at_any_byte_gives_what_was_whole_and_says_so_once(tmp_path: Path) -> None:
    files = [("a", b"1" * 700), ("long" * 40, b"2" * 1100), ("c", b"3")]
    data = tar_of(files)
    data = data[: len(data.rstrip(b"\0")) + 511 & -512] + bytes(1024)
    path = tmp_path / "a.tar"
    for cut in range(0, len(data) - 1023, 37):
        path.write_bytes(data[:cut])
        found = told(everything(path))
        assert found[:-1] == files[: len(found) - 1]
        assert found[-1][1] in ("truncated_archive", "empty_archive")
        for size in (cut // 2 + 1, cut // 5 + 1):
            assert told(everything(path, size=size)) == found


def test_too_large_members_are_passed_by(tmp_path: Path) -> None:
    files = [("a", b"x" * 5000), ("b", b"small")]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    for name in ("a.tar", "b.zip"):
        assert told(everything(tmp_path / name, 1000)) == [("a", "too_large"), ("b", b"small")]
        for size in (10, 100, 5000):
            assert told(everything(tmp_path / name, 10_000, size)) == files


def test_bombs_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_stream, "LEAST_UNPACKED", 1 << 20)
    zeros = b"\0" * (8 << 20)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of([("a", zeros), ("b", b"end")])))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{number}", zeros)
    assert told(everything(tmp_path / "a.tar.gz", 1 << 30)) == [("a.tar.gz", "archive_bomb")]
    read = everything(tmp_path / "b.zip", 1 << 30)
    assert read[-1].data.reason == "archive_bomb"  # type: ignore[union-attr]
    assert sum(len(f.data) for f in read if isinstance(f.data, bytes)) <= 201 * (tmp_path / "b.zip").stat().st_size
    monkeypatch.setattr(zip_archive, "LARGEST_DIRECTORY", 100)
    assert told(everything(tmp_path / "b.zip")) == [("b.zip", "archive_bomb")]


def test_locked_and_rare_members_are_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("locked", b"abc")
        archive.writestr("rare", b"abc" * 100, compress_type=zipfile.ZIP_LZMA)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(mark) + at] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert told(everything(tmp_path / "a.zip")) == [("locked", "encrypted"), ("rare", "unknown_compression")]


def test_a_vanished_file_is_told() -> None:
    for name in ("file.txt", "file.zip", "file.tar"):
        found = list(whole_files(Input(f"/no/such/{name}", name, 3), lambda name: True))
        assert told(found) == [(name, "unreadable_file")]
