"""Inputs behind fsspec URLs (s3://, gs://, hf://, https://, memory://): listed, and read with a few attempts."""

from __future__ import annotations

import glob
import io
import itertools
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from gristmill.core.errors import UserError

T = TypeVar("T")
WAITS = (0.5, 2.0, 8.0)
"""Seconds before another attempt, when a server or connection fails; after the last the input is unreadable."""
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+(::|://)")


class Changed(OSError):
    """It is not the file any more that was listed."""


_FINAL = (Changed, FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ImportError)
"""What another attempt does not mend."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """name: below the place that was asked for. mark: changes when the content does, as far as the store tells."""

    url: str
    name: str
    size: int
    mark: str


def is_url(path: str) -> bool:
    """Is this an fsspec URL rather than a local path?"""
    return _URL.match(path) is not None


def is_web(url: str) -> bool:
    """Is it a plain web server, which lists nothing and may not send parts?"""
    return url.startswith(("http://", "https://"))


def list_remote(path: str, suits: Callable[[str], bool]) -> list[RemoteFile]:
    """The files under a URL: itself, those of a glob, or those of a folder whose name suits. Raises UserError."""
    import fsspec

    try:
        files, place = fsspec.core.url_to_fs(path)
        web = is_web(path)
        if glob.has_magic(path.split("?")[0] if web else path):
            base = "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), place.split("/")))
            about = {name: entry for name, entry in files.glob(place, detail=True).items()
                     if entry["type"] == "file" and ("/." in place or "/." not in _below(name, base))}
        elif path.endswith("/") if web else files.isdir(place):  # asking a web server would fetch the whole file
            base = place.rstrip("/")
            about = {name: entry for name, entry in files.find(place, detail=True).items()
                     if suits(name) and "/." not in _below(name, base)}
        else:
            about, base = {place: files.info(place)}, place.rpartition("/")[0]
    except Exception as error:  # every protocol has types of its own for a broken connection or missing rights
        fix = "check the address and the rights; s3://, gs:// and others need their fsspec package"
        raise UserError(f"this place cannot be read ({type(error).__name__}: {error})", where=path, fix=fix) from error
    return [
        RemoteFile(files.unstrip_protocol(name), _below(name, base).lstrip("/").split("?")[0],
                   int(entry.get("size") or 0), str(entry.get("ETag") or entry.get("mtime") or
                                                    entry.get("LastModified") or entry.get("created") or ""))
        for name, entry in about.items()
    ]


def _below(name: str, base: str) -> str:
    """The part of a path below a folder, with the slash before it."""
    return name[len(base):] if name.startswith(base) else f"/{name}"


class Remote(io.RawIOBase):
    """A file behind a URL that can be sought in. What fails is tried again from where it stood; whatever the
    protocol's library raises at last comes out as an OSError.

    A web server that cannot send parts sends everything once, to a temporary file.
    """

    def __init__(self, url: str, size: int = 0) -> None:
        self.url, self.size, self.at = url, size, 0
        self.stream: Any = None
        self._try(self._opened)

    def _opened(self) -> Any:
        import fsspec

        if self.stream is None:
            self.stream = fsspec.open(self.url, "rb").open()
            if is_web(self.url) and not _in_parts(self.stream):
                self.stream.close()
                self.stream = _downloaded(self.url)
            found = getattr(self.stream, "size", None)
            if self.size and found is not None and found != self.size:
                raise Changed(f"it had {self.size:,} bytes when it was listed and has {found:,} now")
            self.stream.seek(self.at)
        return self.stream

    def _try(self, action: Callable[[], T]) -> T:
        for wait in (*WAITS, None):
            try:
                return action()
            except MemoryError:
                raise
            except Exception as error:  # every protocol has types of its own for a broken connection
                self._drop()
                if wait is None or isinstance(error, _FINAL):
                    if isinstance(error, OSError):
                        raise
                    raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(wait)
        raise AssertionError

    def _drop(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        def sought() -> int:
            return int(self._opened().seek(offset, whence))

        self.at = self._try(sought) if whence == io.SEEK_END else max(0, offset + (self.at if whence else 0))
        if whence != io.SEEK_END and self.stream is not None:
            self.stream.seek(self.at)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        data = self._try(lambda: self._opened().read(len(buffer)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()


def _in_parts(stream: Any) -> bool:
    """Does the server send parts of a file? It says so in the answer to a request for one byte at the end."""
    size = getattr(stream, "size", None)
    if not size:
        return False
    try:
        stream.seek(size - 1)
        stream.read(1)
        stream.seek(0)
    except Exception:  # fsspec: a ValueError; its HTTP library: types of its own
        return False
    return True


def _downloaded(url: str) -> IO[bytes]:
    import fsspec

    target = tempfile.TemporaryFile()  # noqa: SIM115 (closed by who reads it)
    try:
        with fsspec.open(url, "rb", block_size=0) as stream:
            shutil.copyfileobj(stream, target, 1 << 20)
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return target
