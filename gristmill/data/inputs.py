"""What a source reads: inputs that are listed before anything is read, and ranges of them that are read apart.

An input is a file, local or behind any fsspec URL (s3://, gs://, hf://, https://, memory://), compressed or not. Its
name goes into the ids of documents, so it does not depend on the machine. Which ranges an input is cut into never
changes what is read, only who reads it.
"""

from __future__ import annotations

import contextlib
import glob
import io
import itertools
import lzma
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

import pyarrow as pa
import xxhash

from gristmill.core.errors import UserError
from gristmill.data import compression
from gristmill.data.access_points import access_points
from gristmill.data.compression import COMPRESSED, DEFLATE_ERRORS
from gristmill.data.documents import Document, Reject
from gristmill.data.remote import Remote, is_url, list_remote

LONGEST_LINE = 64 << 20
"""Bytes of the longest line or record that is read; a longer one is passed by and counted."""
DAMAGE = (OSError, EOFError, *DEFLATE_ERRORS, lzma.LZMAError, pa.ArrowException)
"""What reading a damaged or vanished input raises: a Reject with the reason (`problem_of`), and the run goes on."""
MOST_PASSES = {".gz": 16, ".zst": 32, ".xz": 4, ".bz2": 2}
"""Ranges of a piece of a compressed input. Reading N of them unpacks it N/2 times more: measured, of the time that the
data stage takes for its text (3 MB/s a core), 4 % for 16 of gzip and 3 % for 17 of zstd, 7 % for xz, 8 % for bzip2."""
_BUFFER = 1 << 17
_TOKENS = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)


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
    """The part of an input that begins in [start, stop): bytes as they are stored for most, unpacked ones of compressed
    lines (`cut_lines`); stop None is the end. A record belongs to the range in which it begins."""

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


def list_inputs(path: str, suffixes: Collection[str] | None = None) -> list[Input]:
    """The inputs under a file, folder or glob (local or URL), sorted by name. A folder gives the files below it with
    one of the suffixes (None: all), hidden ones and links to folders left out. A UserError if there are none.

    Names are relative to the folder, to the part of a glob before its first wildcard, or to a single file's folder:
    adding a file never renames another.
    """
    if is_url(path):
        found = [Input(one.url, one.name, one.size, one.mark) for one in list_remote(
            path, lambda name: suffixes is None or _suits(name, suffixes))]
        if not found:
            fix = "check the address; `**/` means any depth of folders"
            raise UserError("nothing to read here", where=path, fix=fix)
    else:
        found = _local(path, suffixes)
        _check_windows(found)
    return sorted(found, key=lambda item: item.name)


def _check_windows(found: list[Input]) -> None:
    """Refuse what the package that is missing would be needed for."""
    packed = [item for item in found if compression.ending(item.name) == ".zst"]
    if not packed or compression.has_zstandard():
        return
    for item in packed:
        with contextlib.suppress(OSError), Path(item.path).open("rb") as file:
            if compression.window(file.read(18)) > compression.USUAL_WINDOW:
                raise UserError("this file is compressed with a window of more than 128 MiB", where=item.path,
                                fix="pip install zstandard (reading it takes as much memory as the window, up to 2 GB)")


def _local(path: str, suffixes: Collection[str] | None) -> list[Input]:
    place = Path(path).expanduser()
    if place.is_dir():
        closed: list[Path] = []
        paths = [p for p in _walk(place, closed) if suffixes is None or _suits(p.name, suffixes)]
        if place in closed:
            raise UserError("this folder may not be listed", where=path, fix="check who may read it")
        paths += closed  # reading one says so
        problem = "no readable file in this folder"
        known = f" ({', '.join(sorted(suffixes))}; also {', '.join(COMPRESSED)})" if suffixes else ""
        fix, base = f"put files there{known}", place
    elif place.is_file():
        return [local_input(place, place.parent)]
    elif glob.has_magic(path):
        base, pattern = _glob(place)
        paths = [p for p in _walk(base, [], hidden=True) if pattern.fullmatch(_relative(p, base))]
        problem, fix = "no file matches this pattern", "check the pattern; `**/` means any depth of folders"
    else:
        paths, base, problem = [], place, "this path does not exist"
        fix = "check `path` of the source; a relative one starts at the folder that you run in"
    if not paths:
        raise UserError(problem, where=path, fix=fix)
    return [local_input(p, base) for p in paths]


def _walk(folder: Path, closed: list[Path], *, hidden: bool = False) -> Iterator[Path]:
    """Regular files below a folder. Links to folders are not followed, so a loop of them ends nothing; pipes, sockets
    and devices are never opened. closed: gets the folders that may not be listed."""
    for here, folders, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        yield from (p for name in names if (hidden or not name.startswith(".")) and is_file(p := Path(here, name)))


def is_file(path: Path) -> bool:
    """Is it a regular file, or one of which that cannot be said?"""
    try:
        return path.is_file()
    except OSError:  # reading it gives the Reject
        return True


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


def open_input(item: Input, *, raw: bool = False, stored: IO[bytes] | None = None) -> IO[bytes]:
    """The input as a stream of bytes, decompressed (`raw`: as it is stored). Damage shows while reading: `DAMAGE`.
    `stored`: its bytes, where they are not at its path (a member of an archive).

    An uncompressed one can be sought in, also where a web server cannot: what it sends is then copied to a file first.
    A compressed one can be sought in forward.
    """
    stream = _stored(item) if stored is None else stored
    suffix = compression.ending(item.name)
    if raw or not suffix:
        return stream
    try:
        return compression.unpack(stream, suffix, item.size)
    except BaseException:
        stream.close()
        raise


def _stored(item: Input) -> IO[bytes]:
    if is_url(item.path):
        return cast(IO[bytes], io.BufferedReader(Remote(item.path, item.size), _BUFFER))
    path = Path(item.path)
    if path.is_dir():
        raise PermissionError(f"the folder {item.name} may not be listed")
    return path.open("rb", _BUFFER)


def problem_of(error: BaseException) -> tuple[str, str]:
    """The reason and detail of what was raised by reading an input (one of `DAMAGE`)."""
    if isinstance(error, compression.Bomb):
        return "zip_bomb", str(error)
    if isinstance(error, compression.Corrupt):
        return "unreadable_file", str(error)
    return "unreadable_file", f"{type(error).__name__}: {error}"


def cut(item: Input, size: int) -> list[Range]:
    """Equal byte ranges of about `size`; one if the input is compressed."""
    return _even(item, item.size, 1 if item.compressed else round(item.size / size))


def cut_lines(item: Input, size: int) -> list[Range]:
    """The same for an input that is read by `lines`, with ranges of unpacked bytes if it is compressed.

    Whoever reads a range unpacks what lies before it and drops it: `MOST_PASSES` says how many may do that for a piece.
    Where the file says where its pieces begin (`access_points`), the last of them is gone to. How long the text is, is
    estimated from the beginning: nothing but that is read here.
    """
    number = round(item.size / size)
    if not item.compressed or number <= 1:
        return cut(item, size)
    suffix = compression.ending(item.name)
    try:
        with open_input(item, raw=True) as stored:
            most = MOST_PASSES[suffix]
            most *= 1 + sum(1 for _ in itertools.islice(access_points(stored, suffix), number // most))
        with open_input(item, raw=True) as stored:
            ratio = compression.sampled_ratio(stored, suffix)
    except DAMAGE:  # said by reading it
        return [Range(item)]
    return _even(item, int(item.size * ratio), min(number, most))


def _even(item: Input, length: int, number: int) -> list[Range]:
    number = max(1, number)
    edges = [length * i // number for i in range(number)]
    return [Range(item, start, stop) for start, stop in zip(edges, [*edges[1:], None], strict=True)]


def lines(stream: IO[bytes], start: int = 0, stop: int | None = None,
          longest: int = LONGEST_LINE) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line without its end) of each line that begins in [start, stop), whatever the cut: one that begins
    before `start` is another range's, and so is damage before the first line that begins in this one. A line longer
    than `longest` comes as None, without being held in memory."""
    offset = start
    if start:
        unpacked = compression.is_unpacked(stream)
        try:
            stream.seek(start - 1)
            while piece := stream.readline(1 << 20):  # the end of the line that began before
                offset += len(piece)
                if piece.endswith(b"\n"):
                    break
        except compression.Corrupt:
            return
        if offset == start and not unpacked:
            raise OSError(f"it ends before byte {start:,}: it was longer when it was listed")
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

    That of a folder that is one input (a repository) is its mark; one that cannot be read is what it was listed as.
    """
    if is_url(item.path):
        return f"{item.path} {item.size} {item.mark}"
    if Path(item.path).is_dir():
        return f"{item.size} {item.mark}"
    state = xxhash.xxh3_128()
    try:
        with Path(item.path).open("rb") as file:
            while block := file.read(1 << 20):
                state.update(block)
    except OSError as error:  # reading it gives the Reject
        return f"{type(error).__name__} {item.size} {item.mark}"
    return state.hexdigest()
