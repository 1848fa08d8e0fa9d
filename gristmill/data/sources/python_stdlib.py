"""Python's own standard library: about 30 MB of real code and documentation that every machine already has."""

from __future__ import annotations

import ast
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from gristmill.core.config import config
from gristmill.core.errors import MachineError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.text import Unreadable, decode
from gristmill.data.inputs import Input, Range, local_input

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "ensurepip"}
_BAD_ON_PURPOSE = ("lib2to3/tests/data", "test/tokenizedata", "test/encoded_modules")
"""Fixtures that are broken Python on purpose; no model should learn from them."""
_LOCAL = ("_sysconfigdata", "sitecustomize")
"""Modules that describe the machine that Python was built on or runs on."""
LICENSE = "PSF-2.0"


@config
class PythonStdlib:
    """The standard library of the Python that runs this stage: every .py file, and pydoc's topics as plain text."""

    kind: Literal["python_stdlib"] = "python_stdlib"
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    tests: bool = True
    """Take the library's own test suite too (about 19 of 31 MB, where the system installs it)."""

    def inputs(self) -> list[Input]:
        """Every module, sorted by its path in the library."""
        root = stdlib_folder()
        found = []
        for folder, subfolders, names in os.walk(root):
            relative = Path(folder).relative_to(root).as_posix()
            subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS)
            if relative.startswith(_BAD_ON_PURPOSE) or (not self.tests and is_test(f"{relative}/x.py")):
                continue
            paths = [Path(folder, name) for name in names if name.endswith(".py") and not name.startswith(_LOCAL)]
            found += [path for path in paths if path.is_file()]
        if not found:
            raise MachineError("this Python has no standard library sources", where=str(root),
                               fix="use a Python whose library is installed as .py files, not as a zip")
        return sorted((local_input(path, root) for path in found), key=lambda item: item.name)

    def ranges(self, item: Input, size: int) -> list[Range]:
        """A module is read whole."""
        return [Range(item)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """One document a module, and one a topic of `pydoc_data/topics.py`."""
        name = part.input.name
        provenance = {"license": LICENSE, "python": platform.python_version()}
        document = Document(
            f"{source}/{name}", "", source, domain=domain(name), language="python",
            metadata={"path": name, "group": group(name), **provenance},
        )
        text = module_text(part, document)
        if isinstance(text, Reject):
            yield text
        elif name == "pydoc_data/topics.py":
            yield from _topics(text, source, provenance)
        else:
            document.text = text
            yield document


def module_text(part: Range, document: Document) -> str | Reject:
    """The text of a module, or why there is none."""
    data = Path(part.input.path).read_bytes()
    try:
        return decode(data)[0]
    except Unreadable as problem:
        document.text = data[:2000].decode("utf-8", "backslashreplace")
        return Reject(document, "unreadable_bytes", str(problem))


def stdlib_folder() -> Path:
    """Where the running interpreter keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def is_test(name: str) -> bool:
    """Is this path (relative to the library) part of a test suite?"""
    folders = name.split("/")[:-1]
    return any(folder in ("test", "tests", "idle_test") for folder in folders)


def domain(name: str) -> str:
    """`test`, or the top-level package or module that a path belongs to."""
    return "test" if is_test(name) else name.split("/")[0].removesuffix(".py")


def group(name: str) -> str:
    """The package or module that a file belongs to, a test being of the package that it tests.

    `json/decoder.py`, `test/test_json/test_scan.py` -> `json`; `_pydecimal.py`, `test/test_decimal.py` -> `decimal`.
    Splits keep a group together, so that no model is examined on a package whose other half it was trained on.
    """
    parts = name.removesuffix(".py").split("/")
    first = parts[1] if parts[0] == "test" and len(parts) > 1 else parts[0]
    return _TEST.sub("", first) or first


_TEST = re.compile(r"^_*(test_?|py(?=decimal|io|datetime|long|abc))?_*|(tester|_tests?)$")


def _topics(text: str, source: str, provenance: dict[str, str]) -> Iterator[Document]:
    """The reference texts that `help()` shows, one document each."""
    topics: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
    for topic, content in sorted(topics.items()):
        yield Document(
            f"{source}/pydoc_data/topics.py#{topic}", content, source, domain="pydoc_data", language="en",
            metadata={"path": "pydoc_data/topics.py", "topic": topic, "group": "pydoc_data", **provenance},
        )
