"""Zstandard files with a window of more than 128 MB (`zstd --long=31`), as the dumps of Reddit are; Arrow refuses them.

They need the package `zstandard` (BSD-3-Clause).
"""

from __future__ import annotations

import io
from typing import IO, Any, cast

from gristmill.data.inputs import DAMAGE, Input, open_input

USUAL_WINDOW = 1 << 27
"""Bytes; what every reader of the format takes (RFC 8878 recommends 8 MB at least, the library allows 128 MB)."""


def is_long(item: Input) -> bool:
    """Does the first frame of this .zst file need a larger window?"""
    try:
        with open_input(item, raw=True) as stream:
            return window(stream.read(18)) > USUAL_WINDOW
    except DAMAGE:
        return False  # reading it will tell


def window(head: bytes) -> int:
    """Bytes of the window that a frame header asks for (RFC 8878, 3.1.1.1); 0 if it is none."""
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    single, dictionary, size = head[4] & 0x20, head[4] & 3, head[4] >> 6
    if not single:
        base = 1 << (10 + (head[5] >> 3))
        return base + (base >> 3) * (head[5] & 7)
    at = 5 + (0, 1, 2, 4)[dictionary]
    stated = int.from_bytes(head[at: at + (1, 2, 4, 8)[size]], "little")
    return stated + 256 if size == 1 else stated


def open_long(item: Input) -> IO[bytes]:
    """The decompressed bytes; damage shows as an OSError."""
    import zstandard

    below = open_input(item, raw=True)
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(below, read_across_frames=True,
                                                                               closefd=True)
    return cast(IO[bytes], io.BufferedReader(_Checked(reader, zstandard.ZstdError), 1 << 17))


class _Checked(io.RawIOBase):
    """The package's reader, its errors as OSError."""

    def __init__(self, stream: Any, error: type[Exception]) -> None:
        self.stream, self.error = stream, error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read(len(buffer))
        except self.error as error:
            raise OSError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
        super().close()
