"""What a source reads: inputs that are listed before anything is read, and ranges of them that are read apart.

An input is a file, local or behind any fsspec URL (s3://, gs://, hf://, https://, memory://), compressed or not. Its
name goes into the ids of documents, so it does not depend on the machine. Which ranges an input is cut into never
changes what is read, only who reads it.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import itertools
import lzma
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, TypeVar, cast

import pyarrow as pa
import xxhash

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject

T = TypeVar("T")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
LONGEST_LINE = 64 << 20
"""Bytes of the longest line or record that is read; a longer one is passed by and counted."""
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""What reading a damaged or vanished input raises: a Reject with the reason, and the run goes on."""
_BUFFER = 1 << 17
_TOKENS = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+(::|://)")


@dataclass(frozen=True, slots=True)
class Input:
    """A file that a source will read.

    path: where it is. name: what it is called in ids and metadata, relative to the folder that was asked for.
    size: its bytes as they are stored. mark: changes whenever the content may have changed.
    """

    path: str
    name: str
    size: int
    mark: str = ""

    @property
    def suffix(self) -> str:
        """The lower-case extension that says what it is; that of a compression around it is looked through."""
        name = PurePosixPath(self.name.lower())
        return PurePosixPath(name.stem).suffix if name.suffix in COMPRESSED else name.suffix

    @property
    def compressed(self) -> bool:
        """Can it only be read from its beginning?"""
        return self.name.lower().endswith(COMPRESSED)


@dataclass(frozen=True, slots=True)
class Range:
    """The part of an input that begins in [start, stop): bytes for most, row groups or members for some; stop None is
    the end. A record belongs to the range in which it begins."""

    input: Input
    start: int = 0
    stop: int | None = None


class Readable(Protocol):
    """What every source is: a config class that lists, cuts and reads."""

    kind: Any
    name: str

    def inputs(self) -> list[Input]:
        """Everything that will be read, sorted by name; a UserError if there is nothing."""

    def ranges(self, item: Input, size: int) -> list[Range]:
        """The input cut into parts of about `size` bytes; one whole part if its kind cannot be cut."""

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The documents that begin in this part, in order; what cannot be read comes out as a Reject. A pure function
        of the part's bytes and the config: no clock, no order of calls, no network but the input itself."""


def is_url(path: str) -> bool:
    """Is this an fsspec URL rather than a local path?"""
    return _URL.match(path) is not None


def list_inputs(path: str, suffixes: Collection[str] | None = None) -> list[Input]:
    """The inputs under a file, folder or glob (local or URL), sorted by name. A folder gives the files below it with
    one of the suffixes (None: all), hidden ones and links to folders left out. A UserError if there are none.

    Names are relative to the folder, to the part of a glob before its first wildcard, or to a single file's folder:
    adding a file never renames another.
    """
    found = _remote(path, suffixes) if is_url(path) else _local(path, suffixes)
    return sorted(found, key=lambda item: item.name)


def _local(path: str, suffixes: Collection[str] | None) -> list[Input]:
    place = Path(path).expanduser()
    if place.is_dir():
        paths = [p for p in _walk(place) if suffixes is None or _suits(p.name, suffixes)]
        problem = "no readable file in this folder"
        known = f" ({', '.join(sorted(suffixes))}; also {', '.join(COMPRESSED)})" if suffixes else ""
        fix, base = f"put files there{known}", place
    elif place.is_file():
        return [local_input(place, place.parent)]
    elif glob.has_magic(path):
        base, pattern = _glob(place)
        paths = [p for p in _walk(base, hidden=True) if pattern.fullmatch(_relative(p, base))]
        problem, fix = "no file matches this pattern", "check the pattern; `**/` means any depth of folders"
    else:
        paths, base, problem = [], place, "this path does not exist"
        fix = "check `path` of the source; a relative one starts at the folder that you run in"
    if not paths:
        raise UserError(problem, where=path, fix=fix)
    return [local_input(p, base) for p in paths]


def _walk(folder: Path, *, hidden: bool = False) -> Iterator[Path]:
    """Files below a folder; links to folders are not followed, so a loop of them ends nothing."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        yield from (p for name in names if (hidden or not name.startswith(".")) and (p := Path(here, name)).is_file())


def _glob(place: Path) -> tuple[Path, re.Pattern[str]]:
    """The folder before the first wildcard, and what the rest of the path has to match.

    Not `glob.glob`: it follows links to folders, and two of them that lead upwards keep it busy for ever.
    """
    parts = place.parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    pattern = ""
    for number, part in enumerate(parts[first:], start=first + 1):
        last = number == len(parts)
        if part == "**":
            pattern += r"(?:[^./][^/]*/)*" + (r"[^./][^/]*" if last else "")
        else:
            visible = "" if part.startswith(".") else r"(?!\.)"
            pattern += visible + "".join(_wildcard(token) for token in _TOKENS.findall(part)) + ("" if last else "/")
    return Path(*parts[:first]), re.compile(pattern, re.DOTALL)


def _wildcard(token: str) -> str:
    """One character or wildcard of a pattern as a regular expression."""
    if token in ("*", "?"):
        return "[^/]*" if token == "*" else "[^/]"
    if len(token) > 1:  # [abc], [!abc]
        inside = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
        return f"[^/{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(token)


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix()


def local_input(path: Path, base: Path) -> Input:
    name = os.fsencode(_relative(path, base)).decode("utf-8", "backslashreplace")
    try:
        state = path.stat()
    except OSError:  # it vanished since it was listed: reading it gives the Reject
        return Input(str(path), name, 0)
    return Input(str(path), name, state.st_size, str(state.st_mtime_ns))


def _suits(name: str, suffixes: Collection[str]) -> bool:
    return Input("", name, 0).suffix in suffixes


def _remote(path: str, suffixes: Collection[str] | None) -> list[Input]:
    import fsspec

    try:
        files, place = fsspec.core.url_to_fs(path)
        about: dict[str, Any] = {}
        web = path.startswith(("http://", "https://"))
        if glob.has_magic(path.split("?")[0] if web else path):
            base = "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), place.split("/")))
            about = {name: entry for name, entry in files.glob(place, detail=True).items()
                     if entry["type"] == "file" and ("/." in place or "/." not in _below(name, base))}
        elif path.endswith("/") if web else files.isdir(place):  # asking a web server would fetch the whole file
            about = {name: entry for name, entry in files.find(place, detail=True).items()
                     if (suffixes is None or _suits(name, suffixes)) and "/." not in _below(name, place.rstrip("/"))}
            base = place.rstrip("/")
        else:
            about, base = {place: files.info(place)}, place.rpartition("/")[0]
    except (OSError, ValueError, ImportError) as error:
        fix = "check the address and the rights; s3://, gs:// and others need their fsspec package"
        raise UserError(f"this place cannot be read ({error})", where=path, fix=fix) from error
    if not about:
        raise UserError("nothing to read here", where=path, fix="check the address; `**/` means any depth of folders")
    return [
        Input(files.unstrip_protocol(name), _below(name, base).lstrip("/").split("?")[0], int(entry.get("size") or 0),
              str(entry.get("ETag") or entry.get("mtime") or entry.get("LastModified") or entry.get("created") or ""))
        for name, entry in about.items()
    ]


def _below(name: str, base: str) -> str:
    """The part of a path below a folder, with the slash before it."""
    return name[len(base):] if name.startswith(base) else f"/{name}"


def open_input(item: Input, *, raw: bool = False, stored: IO[bytes] | None = None) -> IO[bytes]:
    """The input as a stream of bytes, decompressed (`raw`: as it is stored). Damage shows while reading: `DAMAGE`.
    `stored`: its bytes, where they are not at its path (a member of an archive).

    An uncompressed one can be sought in, also where a web server cannot: what it sends is then copied to a file first.
    """
    stream: Any = stored
    if stored is not None:
        pass
    elif is_url(item.path):
        stream = io.BufferedReader(_Remote(item.path), _BUFFER)
    else:
        stream = Path(item.path).open("rb")  # noqa: SIM115 (the caller closes it)
    ending = PurePosixPath(item.name.lower()).suffix
    if raw or ending not in COMPRESSED:
        return cast(IO[bytes], stream)
    unpacked: Any
    if ending == ".gz":
        unpacked = gzip.GzipFile(fileobj=stream)
    elif ending == ".bz2":
        unpacked = bz2.BZ2File(stream)
    elif ending == ".xz":
        unpacked = lzma.LZMAFile(stream)  # noqa: SIM115 (as above)
    else:
        unpacked = pa.CompressedInputStream(pa.PythonFile(stream), "zstd")
    return cast(IO[bytes], io.BufferedReader(_Unpacked(unpacked, stream), _BUFFER))


class _Unpacked(io.RawIOBase):
    """A decompressing stream that closes the one below it too."""

    def __init__(self, stream: Any, below: Any) -> None:
        self.stream, self.below = stream, below
        self.some = getattr(stream, "read1", stream.read)  # read would lose what comes before damage

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.stream.close()
            self.below.close()
        super().close()


class _Remote(io.RawIOBase):
    """A file behind a URL; whatever its protocol's library raises comes out as an OSError."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.stream: Any = None
        self.stream = self._try(lambda: fsspec.open(url, "rb").open())
        if url.startswith(("http://", "https://")) and not self._in_parts():
            self.stream.close()
            self.stream = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
            self._try(lambda: _download(url, self.stream))

    def _in_parts(self) -> bool:
        """Does the server send parts of a file? It says so in the answer to a request for one byte at the end."""
        size = getattr(self.stream, "size", None)
        if not size:
            return False
        try:
            self.stream.seek(size - 1)
            self.stream.read(1)
            self.stream.seek(0)
        except Exception:  # fsspec: a ValueError; its HTTP library: types of its own
            return False
        return True

    def _try(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (OSError, MemoryError):
            self.close()
            raise
        except Exception as error:  # every protocol has types of its own for a broken connection
            self.close()
            raise OSError(f"{type(error).__name__}: {error}") from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._try(lambda: self.stream.seek(offset, whence)))

    def tell(self) -> int:
        return int(self.stream.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._try(lambda: self.stream.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and self.stream is not None:
            self.stream.close()
        super().close()


def _download(url: str, target: IO[bytes]) -> None:
    import fsspec

    with fsspec.open(url, "rb", block_size=0) as stream:
        shutil.copyfileobj(stream, target, 1 << 20)
    target.seek(0)


def cut(item: Input, size: int) -> list[Range]:
    """Equal byte ranges of about `size`; one if the input is compressed."""
    number = 1 if item.compressed else max(1, round(item.size / size))
    edges = [item.size * i // number for i in range(number)]
    return [Range(item, start, stop) for start, stop in zip(edges, [*edges[1:], None], strict=True)]


def lines(stream: IO[bytes], start: int = 0, stop: int | None = None,
          longest: int = LONGEST_LINE) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line without its end) of each line that begins in [start, stop), whatever the cut: one that begins
    before `start` is another range's. A line longer than `longest` comes as None, without being held in memory."""
    offset = start
    if start:
        stream.seek(start - 1)
        while piece := stream.readline(1 << 20):  # the end of the line that began before
            offset += len(piece)
            if piece.endswith(b"\n"):
                break
        offset -= 1
    while stop is None or offset < stop:
        line = stream.readline(longest + 1)
        if not line:
            return
        size, whole = len(line), line.endswith(b"\n")
        if not whole and size > longest:
            while piece := stream.readline(1 << 20):
                size += len(piece)
                if piece.endswith(b"\n"):
                    break
            yield offset, None
        else:
            yield offset, line[:-1] if whole else line
        offset += size


def fingerprint(item: Input) -> str:
    """Digest of the content of a local input; of place, size and mark of a remote one, which is not fetched for it.

    That of a folder that is one input (a repository) is its mark.
    """
    if is_url(item.path):
        return f"{item.path} {item.size} {item.mark}"
    if Path(item.path).is_dir():
        return f"{item.size} {item.mark}"
    state = xxhash.xxh3_128()
    with Path(item.path).open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()
