"""Compressed inputs as streams: .gz, .zst, .bz2 and .xz, of one piece or many, within limits of size and memory.

What comes before damage is given to the last byte, then `Corrupt` is raised. A stream goes forward only; to pass by
costs unpacking, except where the file says where its blocks begin (`access_points`).
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa

from gristmill.data.access_points import access_points

deflate: Any = zlib
with contextlib.suppress(ImportError):  # 1.7 times the speed; the same bytes and the same errors at the same places
    from zlib_ng import zlib_ng as deflate

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
LEAST_UNPACKED, MOST_RATIO = 1 << 30, 200
"""An input is unpacked up to 1 GiB, or 200 times its stored size if that is more: text shrinks to a fifth, logs and
tables to a fiftieth; zeros to a thousandth (deflate), a ten-thousandth (xz, zstd) or less (bzip2)."""
USUAL_WINDOW, MOST_WINDOW = 1 << 27, 1 << 31
"""Bytes that a zstd frame may need to look back: up to 128 MiB by Arrow, up to 2 GiB (`zstd --long=31`, as the dumps of
Reddit are) by the package `zstandard`. So much memory is taken, if a frame asks for it."""
MOST_XZ_MEMORY = 256 << 20
"""Bytes that an xz file may need; `xz -9` needs 65 MiB."""
DEFLATE_ERRORS: tuple[type[Exception], ...] = (zlib.error, deflate.error)
_STORED = 1 << 16
_STEP = 1 << 20
_SAMPLE = {".gz": 1 << 17, ".zst": 1 << 18, ".xz": 1 << 17, ".bz2": 1 << 20}
"""Stored bytes; bzip2 gives nothing before the end of a block of 900 kB."""
_BUFFER = 1 << 17


class Corrupt(OSError):
    """The compressed bytes themselves are damaged or cut short."""


class Bomb(Corrupt):
    """It grows beyond all measure."""


def ending(name: str) -> str:
    """The extension of a compression, or nothing."""
    suffix = PurePosixPath(name.lower()).suffix
    return suffix if suffix in COMPRESSED else ""


def unpack(stored: IO[bytes], suffix: str, size: int) -> IO[bytes]:
    """A stream of the unpacked bytes; closing it closes `stored`. size: stored bytes, for the limit (0: unknown)."""
    return cast(IO[bytes], io.BufferedReader(Unpacked(stored, suffix, size), _BUFFER))


def sampled_ratio(stored: IO[bytes], suffix: str) -> float:
    """How many times as long the beginning is unpacked, by which the rest is judged. Raises Corrupt."""
    head = stored.read(_SAMPLE[suffix])
    with Unpacked(io.BytesIO(head), suffix, len(head)) as stream:
        stream.decoder.careful = False
        try:
            while stream._some(_STORED):
                pass
        except Corrupt:  # at the latest where the sample ends
            if not stream.at:
                raise
        return stream.at / len(head)


def is_unpacked(stream: IO[bytes]) -> bool:
    """Is this what `unpack` gave?"""
    return isinstance(getattr(stream, "raw", None), Unpacked)


class Unpacked(io.RawIOBase):
    """A decompressing stream that can be sought in forward. Raises Corrupt."""

    def __init__(self, stored: IO[bytes], suffix: str, size: int) -> None:
        self.stored, self.suffix, self.size, self.at = stored, suffix, size, 0
        self.decoder: _Decoder = _decoder(stored, suffix)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        offset += self.at if whence == io.SEEK_CUR else 0
        if whence == io.SEEK_END or offset < self.at:
            raise io.UnsupportedOperation("a compressed file is read from its beginning to its end: unpack it first")
        if offset - self.at > 2 * _STEP:
            self._jump(offset)
        while self.at < offset and self._some(min(offset - self.at, _STEP)):
            pass
        return self.at

    def readinto(self, buffer: Any) -> int:
        data = self._some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _some(self, size: int) -> bytes:
        try:
            data = self.decoder.read(size)
        except (*DEFLATE_ERRORS, lzma.LZMAError, EOFError, ValueError, pa.ArrowException) as error:
            raise Corrupt(f"after {self.at:,} unpacked bytes: {error}") from error
        stored = max(self.size, self.decoder.taken)
        most = max(LEAST_UNPACKED, MOST_RATIO * stored)
        if self.at + len(data) > most:
            data = data[: most - self.at]
            if not data:
                raise Bomb(f"{stored:,} bytes unpack to more than {most:,}: unpack it yourself if you trust it")
        self.at += len(data)
        return data

    def _jump(self, offset: int) -> None:
        """Go to the last place before `offset` from which unpacking can begin."""
        here, best = self.stored.tell(), None
        for point in access_points(self.stored, self.suffix):
            if point.unpacked > offset:
                break
            best = point
        if best is None or best.unpacked <= self.at:
            self.stored.seek(here)
            return
        self.stored.seek(best.stored)
        self.decoder.close()
        self.decoder, self.at = _decoder(self.stored, self.suffix, best.prefix), best.unpacked
        self.decoder.left = None if best.end is None else best.end - best.stored

    def close(self) -> None:
        if not self.closed:
            self.decoder.close()
            self.stored.close()
        super().close()


class _Decoder:
    """taken: stored bytes that were read. left: how many more may be, if something else follows them. careful: give
    every byte before damage, whatever it costs."""

    taken = 0
    left: int | None = None
    careful = True

    def read(self, size: int) -> bytes:
        """Up to `size` unpacked bytes; none at the end."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave it."""


class _Pieces(_Decoder):
    """gzip, bzip2 and xz: members or streams one after another, zeros between and after them."""

    def __init__(self, stored: IO[bytes], start: Callable[[], Any], prefix: bytes) -> None:
        self.stored, self.start, self.held = stored, start, prefix
        self.decoder: Any = None
        self.first = True

    def read(self, size: int) -> bytes:
        while True:
            over = False
            if not self.held and getattr(self.decoder, "needs_input", True):
                self.held = self.stored.read(_STORED if self.left is None else min(_STORED, self.left))
                self.taken += len(self.held)
                self.left = None if self.left is None else self.left - len(self.held)
                over = not self.held
            if self.decoder is None:
                self.held = self.held if self.first else self.held.lstrip(b"\0")
                if over:
                    return b""
                if not self.held:
                    continue
                self.decoder, self.first = self.start(), False
            try:
                data = self.decoder.decompress(self.held, size)
            except OSError as error:  # bzip2's
                raise EOFError(str(error)) from error
            self.held = getattr(self.decoder, "unconsumed_tail", b"")
            if self.decoder.eof:
                self.held, self.decoder = self.decoder.unused_data, None
            if data:
                return bytes(data)
            if over and self.left == 0:
                return b""
            if over:
                raise EOFError(f"the file ends inside its compressed data, at byte {self.taken:,}")


class _Arrow(_Decoder):
    """zstd with a usual window, by Arrow.

    A read of Arrow's that meets damage gives nothing of what came before it: then the same is read again, byte by byte.
    """

    def __init__(self, stored: IO[bytes]) -> None:
        self.stored, self.start, self.given = stored, stored.tell(), 0
        self.damage: str | None = None
        self.over = False
        self._open()

    def _open(self) -> None:
        self.below = _Counted(self.stored)
        self.stream = pa.CompressedInputStream(pa.PythonFile(self.below, "r"), "zstd")

    def read(self, size: int) -> bytes:
        if self.damage is not None:
            return self._carefully(size)
        try:
            data: bytes = self.stream.read(size)
        except OSError as error:
            if self.below.error is not None:  # the disk's or network's, not the data's
                raise self.below.error from None
            if not self.careful:
                raise EOFError(str(error)) from error
            self.damage = str(error)
            self.stored.seek(self.start)
            self._open()
            left = self.given
            while left and (passed := self.stream.read(min(left, _STEP))):
                left -= len(passed)
            return self._carefully(size)
        self.given += len(data)
        self.taken = self.below.taken
        return data

    def _carefully(self, size: int) -> bytes:
        data = bytearray()
        try:
            while not self.over and len(data) < size and (one := self.stream.read(1)):
                data += one
        except OSError:
            self.over = True  # Arrow would give the last bytes again and again
        if not data:
            raise EOFError(self.damage)
        return bytes(data)

    def close(self) -> None:
        self.stream.close()


class _Counted:
    """A stream for Arrow: counts, keeps what was raised below, and stays open."""

    closed = False

    def __init__(self, stored: IO[bytes]) -> None:
        self.stored, self.taken = stored, 0
        self.error: OSError | None = None

    def read(self, size: int) -> bytes:
        try:
            data = self.stored.read(size)
        except OSError as error:
            self.error = error
            raise
        self.taken += len(data)
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        pass


class _Framed(_Counted):
    """Follows the frames and blocks of zstd (RFC 8878, 3.1.1), since `zstandard` does not say that one is cut short."""

    def __init__(self, stored: IO[bytes]) -> None:
        super().__init__(stored)
        self.head, self.skip, self.checksum, self.in_frame = b"", 0, 0, False

    @property
    def between(self) -> bool:
        """Is what was read so far a number of whole frames?"""
        return not (self.head or self.skip or self.in_frame)

    def read(self, size: int) -> bytes:
        data = super().read(size)
        at = 0
        while at < len(data):
            step = min(self.skip, len(data) - at)
            self.skip -= step
            at += step
            if not self.skip and at < len(data):
                self.head += data[at: at + 1]
                at += 1
                self._follow()
        return data

    def _follow(self) -> None:
        head = self.head
        if self.in_frame:
            if len(head) < 3:
                return
            value = int.from_bytes(head, "little")
            self.skip = 1 if value >> 1 & 3 == 1 else value >> 3
            if value & 1:
                self.skip, self.in_frame = self.skip + self.checksum, False
        elif head[1:4] == b"\x2a\x4d\x18":  # to be skipped
            if len(head) < 8:
                return
            self.skip = int.from_bytes(head[4:8], "little")
        else:
            if len(head) < 5:
                return
            single, flag = head[4] >> 5 & 1, head[4] >> 6
            if len(head) < 6 - single + (0, 1, 2, 4)[head[4] & 3] + (single, 2, 4, 8)[flag]:
                return
            self.checksum, self.in_frame = 4 * (head[4] >> 2 & 1), True
        self.head = b""


class _Long(_Decoder):
    """zstd with a window of up to 2 GiB, by the package `zstandard` (BSD-3-Clause)."""

    def __init__(self, stored: IO[bytes]) -> None:
        import zstandard

        self.below = _Framed(stored)
        self.error = zstandard.ZstdError
        self.stream = zstandard.ZstdDecompressor(max_window_size=MOST_WINDOW).stream_reader(
            cast(Any, self.below), read_across_frames=True, closefd=False)

    def read(self, size: int) -> bytes:
        try:
            data = bytes(self.stream.read(size))
        except self.error as error:
            raise EOFError(str(error)) from error
        self.taken = self.below.taken
        if not data and not self.below.between:
            raise EOFError(f"the file ends inside its compressed data, at byte {self.taken:,}")
        return data

    def close(self) -> None:
        self.stream.close()


def _decoder(stored: IO[bytes], suffix: str, prefix: bytes = b"") -> _Decoder:
    """What unpacks from where the stream stands. prefix: bytes that have to come before those."""
    if suffix == ".gz":
        return _Pieces(stored, lambda: deflate.decompressobj(31), prefix)
    if suffix == ".bz2":
        return _Pieces(stored, bz2.BZ2Decompressor, prefix)
    if suffix == ".xz":
        return _Pieces(stored, lambda: lzma.LZMADecompressor(memlimit=MOST_XZ_MEMORY), prefix)
    head = _peek(stored, 18)
    if window(head) <= USUAL_WINDOW:
        return _Arrow(stored)
    if not has_zstandard():
        raise OSError(f"it is compressed with a window of {window(head) >> 20} MiB: pip install zstandard")
    return _Long(stored)


def has_zstandard() -> bool:
    """Can frames with a window above 128 MiB be read?"""
    import importlib.util

    return importlib.util.find_spec("zstandard") is not None


def _peek(stored: IO[bytes], size: int) -> bytes:
    here = stored.tell()
    head = stored.read(size)
    stored.seek(here)
    return head


def window(head: bytes) -> int:
    """Bytes of the window that a zstd frame header asks for (RFC 8878, 3.1.1.1); 0 if it is none."""
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    single, dictionary, size = head[4] & 0x20, head[4] & 3, head[4] >> 6
    if not single:
        base = 1 << (10 + (head[5] >> 3))
        return base + (base >> 3) * (head[5] & 7)
    at = 5 + (0, 1, 2, 4)[dictionary]
    stated = int.from_bytes(head[at: at + (1, 2, 4, 8)[size]], "little")
    return stated + 256 if size == 1 else stated
