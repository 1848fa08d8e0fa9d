"""Source code: git repositories at one revision, or plain folders; what nobody wrote there is left out, and counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats import code_rules, git, licences
from gristmill.data.formats.code_rules import Attributes
from gristmill.data.formats.secrets import scrub
from gristmill.data.formats.tables import in_range
from gristmill.data.formats.text import Unreadable, decode
from gristmill.data.inputs import Input, Range, cut, is_file, local_input, problem_of
from gristmill.data.programming import KINDS, known_name, language_of

PERMISSIVE = frozenset({"MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "ISC",
                        "0BSD",
                        "Unlicense", "CC0-1.0", "Zlib", "BSL-1.0", "PSF-2.0", "NCSA", "UPL-1.0", "PostgreSQL", "WTFPL",
                        "BlueOak-1.0.0", "BSD-2-Clause-Patent", "ECL-2.0", "AFL-3.0", "MulanPSL-2.0", "Vim", "X11",
                        "Python-2.0", "HPND", "BSD-Source-Code", "Artistic-2.0", "MS-PL"})
_VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr", "CVS"}
_LFS = b"version https://git-lfs.github.com/spec/"
_ABOUT_FILES, _ABOUT_BYTES = 256, 1 << 20
"""Licence and .gitattributes files of one repository that are read, and bytes of each."""


@config
class Code:
    """Git repositories (bare or not) and folders of source code; one document a file."""

    kind: Literal["code"] = "code"
    path: str
    """A repository, or a folder that is searched for repositories; files outside of any are read as they are."""
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    revision: str = "HEAD"
    """Branch, tag or commit that is read of every repository; the work tree is not looked at."""
    git: bool = True
    """Read repositories through git; false: as plain folders."""
    projects: bool = False
    """Plain files: each folder directly below `path` is a project (a `group`) of its own, not `path` as a whole."""
    languages: list[str] = field(default_factory=list)
    """Take only these languages (python, cpp, ...); empty takes all that are known."""
    types: list[Literal["code", "markup", "prose", "data"]] = field(default_factory=lambda: ["code", "markup", "prose"])
    """Which types of files: programs, markup (HTML, CSS, LaTeX), prose (Markdown, rst), short data (JSON, YAML)."""
    generated: bool = False
    """Take generated, minified and data-like files too."""
    vendored: bool = False
    """Take copies of other people's code too (vendor/, node_modules/ ...)."""
    secrets: Literal["scrub", "keep"] = "scrub"
    """scrub: keys and passwords are replaced by `<secret:kind>` and counted in the metadata."""
    license: str = "unknown"
    """Where neither the file nor a LICENSE file above it says anything that is known."""
    licenses: list[str] = field(default_factory=list)
    """Take only files under these SPDX licences; `permissive` stands for the usual permissive ones; empty takes all."""
    longest_kb: int = 1024
    """Longer files are left out: hardly one of them was written by hand."""
    stars: dict[str, int] = field(default_factory=dict)
    """Stars of repositories by name, for the metadata."""

    def __post_init__(self) -> None:
        require(bool(self.path.strip()), "path", "give a repository or a folder")
        require(bool(self.revision) and not self.revision.startswith("-"), "revision", "name a branch, tag or commit")
        unknown = [language for language in self.languages if language not in KINDS]
        require(not unknown, "languages", f"{unknown[:1]} is unknown; known are {', '.join(sorted(KINDS))}")
        require(bool(self.types), "types", "name at least one type")
        require(1 <= self.longest_kb <= 64 << 10, "longest_kb", "must be from 1 to 65536")

    def inputs(self) -> list[Input]:
        """Every repository as one input, and every file outside of one; raises UserError if there is nothing."""
        base = Path(self.path).expanduser()
        if not base.is_dir():
            raise UserError("this folder does not exist", where=self.path, fix="check `path` of the source")
        if self.git and git.is_repository(base):
            return [self._repository(base, base.resolve().name)]
        found: list[Input] = []
        closed: list[Path] = []  # reading one says so
        for here, folders, names in os.walk(base, onerror=lambda error: closed.append(Path(error.filename))):
            folders[:] = sorted(name for name in folders if name not in _VERSION_CONTROL)
            for name in list(folders):
                path = Path(here, name)
                if self.git and not path.is_symlink() and git.is_repository(path):
                    folders.remove(name)
                    found.append(self._repository(path, path.relative_to(base).as_posix()))
            found += [local_input(path, base) for name in names
                      if (path := Path(here, name)).is_symlink() or is_file(path)]
        found += [local_input(path, base) for path in closed if path != base]
        if not found:
            raise UserError("no file and no repository in this folder", where=self.path, fix="put source code there")
        return sorted(found, key=lambda item: item.name)

    def _repository(self, path: Path, name: str) -> Input:
        name = os.fsencode(name).decode("utf-8", "backslashreplace").removesuffix(".git").rstrip("/") or "repository"
        try:
            commit, _ = git.commit(str(path), self.revision)
            size = sum(max(entry.size, 1) for entry in git.entries(str(path), commit))
        except git.GitError:  # reading it says why
            return Input(str(path), name, 0)
        return Input(str(path), name, size, commit)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """A repository by the sizes of its files in order; a plain file is read whole."""
        return [Range(item)] if not Path(item.path).is_dir() else [
            Range(item, part.start, part.stop) for part in cut(Input("", "", item.size), size)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The files that begin in the range, in git's order, with repository, revision and licence."""
        if Path(part.input.path).is_dir():
            try:
                os.listdir(part.input.path)
                yield from self._read_repository(part, source)
            except OSError as error:
                where = Document(f"{source}/{part.input.name}", "", source, metadata={"path": part.input.name})
                yield Reject(where, *problem_of(error))
            except git.GitError as error:
                where = Document(f"{source}/{part.input.name}", "", source, metadata={"path": part.input.name})
                yield Reject(where, "unreadable_repository", str(error))
            return
        yield self._read_plain(part.input, source)

    def _read_repository(self, part: Range, source: str) -> Iterator[Document | Reject]:
        item = part.input
        commit, when = git.commit(item.path, item.mark or self.revision)
        listed = git.entries(item.path, commit)
        about = _About(item.path, listed)
        place = {"repository": item.name, "group": item.name, "revision": commit, "time": when}
        if url := git.origin(item.path):
            place["url"] = url
        wanted, at = [], 0
        for entry in listed:
            if in_range(at, item.size, part.start, part.stop):
                wanted.append(entry)
            at += max(entry.size, 1)
        files = [_File(entry.path, entry.size, entry.mode) for entry in wanted]
        problems = [self._refused(file, about.attributes) for file in files]
        contents = git.blobs(item.path, [entry.blob for entry, problem in zip(wanted, problems, strict=True)
                                         if problem is None])
        for file, problem in zip(files, problems, strict=True):
            document = Document(f"{source}/{item.name}/{file.path}", "", source, metadata={"path": file.path, **place})
            if problem is not None:
                yield Reject(document, *problem)
                continue
            data = next(contents)
            if data is None:
                yield Reject(document, "missing_blob", "this clone does not hold the file's content")
            else:
                yield self._document(document, data, about.licence, about.attributes)

    def _read_plain(self, item: Input, source: str) -> Document | Reject:
        base = Path(self.path).expanduser().resolve()
        first = item.name.partition("/")[0] if self.projects and "/" in item.name else ""
        project = f"{base.name}/{first}" if first else base.name
        document = Document(f"{source}/{item.name}", "", source,
                            metadata={"path": item.name, "repository": project, "group": project})
        path = Path(item.path)
        try:
            size = path.lstat().st_size
            file = _File(item.name, size, "120000" if path.is_symlink() else "100644")
            folders = _above(path.parent, Path(self.path).expanduser(), item.name)
            attributes = Attributes((folder, text) for folder, place in folders
                                    if (text := _folder_about(*place)[1]) is not None)
            if problem := self._refused(file, attributes):
                return Reject(document, *problem)
            data = path.read_bytes()
        except OSError as error:
            return Reject(document, "unreadable_file", f"{type(error).__name__}: {error}")
        found = [licence for _, place in folders if (licence := _folder_about(*place)[0])]
        return self._document(document, data, lambda _: found[0] if found else None, attributes)

    def _refused(self, file: _File, attributes: Attributes) -> tuple[str, str] | None:
        """(reason, detail) why a file is left out before it is read."""
        if file.mode == "160000":
            return "submodule", "another repository: read it as one"
        if file.mode == "120000":
            return "link", "a symbolic link: what it points to is read where it lies"
        said = attributes.settings(file.path)
        problem = code_rules.by_name(file.path)
        for setting, taken in (("generated", self.generated), ("vendored", self.vendored)):
            if said.get(setting) and not taken:
                return setting, ".gitattributes says so"
            if problem and problem[0] == setting and (taken or said.get(setting) is False):
                problem = None
        if problem and not (self.generated and problem[0] == "minified"):
            return problem
        if not known_name(file.path):
            return "unknown_language", f"no known language has files like {file.path.rpartition('/')[2]}"
        if file.size > self.longest_kb << 10:
            return "too_long", f"{file.size >> 10} kB, more than longest_kb {self.longest_kb}"
        return None

    def _document(self, document: Document, data: bytes, nearest: Callable[[str], str | None],
                  attributes: Attributes) -> Document | Reject:
        path = str(document.metadata["path"])
        if data.startswith(_LFS):
            return Reject(document, "lfs_pointer", "only a pointer: the content lies on a server")
        try:
            text, encoding = decode(data)
        except Unreadable as error:
            return Reject(document, "binary", str(error))
        if not text.strip():
            return Reject(document, "empty", "no text")
        language = language_of(path, text)
        document.text = text[:2000]  # what a reject shows
        if language is None:
            return Reject(document, "unknown_language", "neither its name nor its first line tells")
        document.domain = KINDS[language]
        if document.domain not in self.types or (self.languages and language not in self.languages):
            return Reject(document, "not_wanted", f"{language} ({document.domain})")
        document.language = "und" if document.domain == "prose" else language
        problem = code_rules.by_content(text, document.domain)
        if problem and not self.generated and attributes.settings(path).get("generated") is not False:
            return Reject(document, *problem)
        stated = licences.spdx_line(text)
        document.metadata["license"] = licence = stated or nearest(path) or self.license
        if self.licenses and not _allowed(licence, self.licenses):
            return Reject(document, "licence", f"{licence} is not among `licenses`")
        if encoding != "utf-8":
            document.metadata["encoding"] = encoding
        if document.metadata["repository"] in self.stars:
            document.metadata["stars"] = self.stars[str(document.metadata["repository"])]
        document.text = text
        if self.secrets == "scrub":
            document.text, found = scrub(text)
            if found:
                document.metadata["secrets"] = dict(sorted(found.items()))
        return document


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    mode: str


class _About:
    """What the licence and .gitattributes files of a revision say."""

    def __init__(self, folder: str, listed: list[git.Entry]) -> None:
        wanted = [entry for entry in listed if entry.mode.startswith("100") and entry.size <= _ABOUT_BYTES and (
            licences.NAMES.match(_base(entry.path)) or _base(entry.path) == ".gitattributes")]
        wanted.sort(key=lambda entry: (entry.path.count("/"), entry.path))
        wanted = wanted[:_ABOUT_FILES]
        texts: dict[str, list[str]] = {}
        attributes = []
        for entry, data in zip(wanted, git.blobs(folder, [entry.blob for entry in wanted]), strict=True):
            text = (data or b"").decode("utf-8", "replace")
            where = entry.path[: len(entry.path) - len(_base(entry.path))]
            if _base(entry.path) == ".gitattributes":
                attributes.append((where, text))
            else:
                texts.setdefault(where, []).append(text)
        self.attributes = Attributes(attributes)
        self.licences = {where: licence for where, found in texts.items() if (licence := _either(found))}

    def licence(self, path: str) -> str | None:
        """That of the nearest folder above the file that has one."""
        while path:
            path = path[: path.rstrip("/").rfind("/") + 1]
            if path in self.licences:
                return self.licences[path]
        return None


def _either(texts: list[str]) -> str | None:
    """Several licence files in one folder leave the choice."""
    return " OR ".join(sorted({licence for text in texts if (licence := licences.licence_of(text))})) or None


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _above(folder: Path, base: Path, name: str) -> list[tuple[str, tuple[str, int]]]:
    """(path below base with its slash, (folder, time of its change)) from a file's folder up to the base."""
    found = []
    for depth in range(name.count("/"), -1, -1):
        below = "/".join(name.split("/")[:depth])
        found.append((f"{below}/" if below else "", (str(folder), folder.stat().st_mtime_ns)))
        folder = folder.parent
    return found


@lru_cache(maxsize=4096)
def _folder_about(folder: str, _changed: int) -> tuple[str | None, str | None]:
    """The licence and the .gitattributes of a plain folder itself."""
    texts, attributes = [], None
    for name in sorted(os.listdir(folder)):
        path = Path(folder, name)
        if (licences.NAMES.match(name) or name == ".gitattributes") and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                text = file.read(_ABOUT_BYTES).decode("utf-8", "replace")
            if name == ".gitattributes":
                attributes = text
            else:
                texts.append(text)
    return _either(texts), attributes


def _allowed(expression: str, taken: list[str]) -> bool:
    """May this be taken: one of the alternatives whose every part is named?"""
    names = {*taken, *(PERMISSIVE if "permissive" in taken else ())}
    plain = expression.replace("(", "").replace(")", "").removesuffix("+")
    return any(all(part.split(" WITH ")[0].strip() in names for part in option.split(" AND "))
               for option in plain.split(" OR "))
