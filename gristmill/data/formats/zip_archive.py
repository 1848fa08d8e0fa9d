"""Zip archives: opened if their table of contents is not too large, members unpacked within a limit."""

from __future__ import annotations

import io
import zipfile
from typing import IO

from gristmill.data.formats.damaged import Damaged
from gristmill.data.inputs import DAMAGE

LARGEST_DIRECTORY = 64 << 20
"""Bytes of a zip's table of contents: about half a million members, which are all in memory while it is read."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others of `zipfile` unpack a block whole, whatever it grows to."""
_PIECE = 1 << 16
_ERRORS = (*DAMAGE, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, IndexError, OverflowError)
"""What zipfile raises: encryption (RuntimeError), unknown methods, numbers that are none."""


def open_zip(stream: IO[bytes]) -> zipfile.ZipFile:
    """A zip archive. Raises Damaged."""
    try:
        if _directory_size(stream) > LARGEST_DIRECTORY:
            raise Damaged("archive_bomb", f"its table of contents is larger than {LARGEST_DIRECTORY >> 20} MiB")
        return zipfile.ZipFile(stream)
    except _ERRORS as error:
        raise Damaged("damaged_archive", f"{type(error).__name__}: {error}") from error


def copy_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: IO[bytes], limit: int) -> None:
    """Write the content of a member to a file, whatever size its header claims. Raises Damaged."""
    name = printable(entry.filename)
    if entry.flag_bits & 1:
        raise Damaged("encrypted", f"{name} is locked by a password")
    if entry.compress_type not in _METHODS:
        raise Damaged("unknown_compression", f"{name}: method {entry.compress_type}; pack it as deflate")
    size = 0
    try:
        with archive.open(entry) as file:
            while block := file.read(_PIECE):
                size += target.write(block)
                if size > limit:
                    raise Damaged("too_large", f"{name}: more than {limit} bytes are not read")
    except _ERRORS as error:
        raise Damaged("damaged_member", f"{name}: {type(error).__name__}: {error}") from error


def member_data(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The content of a member. Raises Damaged."""
    held = io.BytesIO()
    copy_member(archive, entry, held, limit)
    return held.getvalue()


def printable(name: str) -> str:
    """A name that is valid UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _directory_size(stream: IO[bytes]) -> int:
    """Bytes that a zip says its table of contents has."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - (1 << 16) - 22))
    tail = stream.read((1 << 16) + 22)
    stream.seek(0)
    at = tail.rfind(b"PK\5\6")
    said = int.from_bytes(tail[at + 12: at + 16], "little") if at >= 0 else 0
    locator = tail.rfind(b"PK\6\7", 0, at) if at >= 0 else -1
    if locator >= 0:  # beyond 4 GiB: a second, larger record
        stream.seek(int.from_bytes(tail[locator + 8: locator + 16], "little") % max(size, 1))
        record = stream.read(56)
        stream.seek(0)
        said = max(said, int.from_bytes(record[40:48], "little")) if record[:4] == b"PK\6\6" else said
    return said if said != 0xFFFFFFFF else 0
