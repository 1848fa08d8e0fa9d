import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.formats import packed
from gristmill.data.formats.packed import Bounded, Damaged, Member, members, tar_members
from gristmill.data.inputs import Input, list_inputs


def everything(path: Path, limit: int = 1 << 20, **span: int) -> list[Member]:
    return list(members(list_inputs(str(path))[0], lambda name: True, limit, **span))


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
    read = list(tar_members(Bounded(io.BytesIO(data), len(data)), lambda name: True))
    assert [m.data for m in read] == [content for _, content in files]
    first = {name: number for number, (name, _) in reversed(list(enumerate(files)))}
    assert all(read[number].name == name for name, number in first.items())
    assert len({m.name for m in read}) == len(files)
    assert [m.index for m in read] == list(range(len(files)))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 5000), st.binary(min_size=1, max_size=20))
def test_damage_is_told_and_never_raises_anything_else(noise: bytes, at: int, patch: bytes) -> None:
    good = tar_of([("a.txt", b"one" * 200), ("b.txt", b"two" * 200)])
    for data in (noise, good[:at], good[:at] + patch + good[at + len(patch):]):
        reason = ""
        try:
            list(tar_members(Bounded(io.BytesIO(data), len(data)), lambda name: True))
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
    assert [(m.name, m.data) for m in everything(tmp_path / f"a.{ending}")] == [("folder/x.txt", b"hello")]


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
    assert [(m.index, m.name, m.data) for m in everything(tmp_path / "a.tar")] == [(3, "../../etc/passwd", b"mine")]


def test_truncated_archives_keep_what_came_before(tmp_path: Path) -> None:
    data = tar_of([("a", b"1" * 2000), ("b", b"2" * 2000)])
    (tmp_path / "a.tar").write_bytes(data[:4000])
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(data)[:-30])
    (tmp_path / "c.zip").write_bytes(b"PK\3\4" + b"x" * 100)
    (tmp_path / "d.tar").write_bytes(b"")
    (tmp_path / "e.tar").write_bytes(b"no tar at all" * 100)
    first = everything(tmp_path / "a.tar")
    assert [(m.name, m.reason) for m in first] == [("a", ""), ("a.tar", "truncated_archive")]
    assert everything(tmp_path / "b.tar.gz")[-1].reason == "unreadable_file"
    assert [everything(tmp_path / f"{x}")[-1].reason for x in ("c.zip", "d.tar", "e.tar")] == [
        "damaged_archive", "empty_archive", "damaged_archive"]


def test_too_large_members_are_passed_by(tmp_path: Path) -> None:
    files = [("a", b"x" * 5000), ("b", b"small")]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    for name in ("a.tar", "b.zip"):
        assert [(m.index, m.reason, m.data) for m in everything(tmp_path / name, 1000)] == [
            (0, "too_large", None), (1, "", b"small")]
        assert [m.index for m in everything(tmp_path / name, 10_000, start=1)] == [1]
        assert [m.index for m in everything(tmp_path / name, 10_000, stop=1)] == [0]


def test_bombs_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "RATIO_FLOOR", 1 << 20)
    zeros = b"\0" * (8 << 20)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of([("a", zeros), ("b", b"end")])))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{number}", zeros)
    assert [m.reason for m in everything(tmp_path / "a.tar.gz")] == ["archive_bomb"]
    read = everything(tmp_path / "b.zip", 1 << 30)
    assert read[-1].data is None
    assert sum(len(m.data or b"") for m in read) <= 201 * (tmp_path / "b.zip").stat().st_size + len(zeros)
    monkeypatch.setattr(packed, "LARGEST_DIRECTORY", 100)
    assert [m.reason for m in everything(tmp_path / "b.zip")] == ["archive_bomb"]


def test_locked_and_rare_members_are_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("locked", b"abc")
        archive.writestr("rare", b"abc" * 100, compress_type=zipfile.ZIP_LZMA)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(mark) + at] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert [m.reason for m in everything(tmp_path / "a.zip")] == ["encrypted", "unknown_compression"]


def test_a_vanished_file_is_told() -> None:
    assert [m.reason for m in members(Input("/no/such/file.txt", "file.txt", 3), lambda name: True)] == [
        "unreadable_file"]
