"""Parallel text that every machine has: what a function of the standard library does, in English and in Python.

No translation in the sense of a dictionary, but two texts with one meaning in two languages, as CodeBERT is trained on
(Feng et al. 2020, arXiv:2002.08155).
"""

from __future__ import annotations

import inspect
import platform
from collections.abc import Iterator
from typing import Literal

from gristmill.core.config import config, require
from gristmill.data.documents import Document, Reject
from gristmill.data.inputs import Input, Range
from gristmill.data.python_code import PythonFunction, functions
from gristmill.data.sources.python_stdlib import LICENSE, PythonStdlib, domain, group, module_text


@config
class PythonFunctions:
    """Documented functions of the standard library, each as two documents with one `pair`: its documentation (language
    en) and its code without it (language python)."""

    kind: Literal["python_functions"] = "python_functions"
    name: str = ""
    """How the source is called in ids and reports; the kind, if empty."""
    longest: int = 1200
    """Functions with more characters of code or documentation are left out."""

    def __post_init__(self) -> None:
        require(self.longest >= 40, "longest", "must be at least 40 characters")

    def inputs(self) -> list[Input]:
        """Every module; the library's tests document little and are left out."""
        return PythonStdlib(tests=False).inputs()

    def ranges(self, item: Input, size: int) -> list[Range]:
        """A module is read whole."""
        return [Range(item)]

    def read(self, part: Range, source: str) -> Iterator[Document | Reject]:
        """The two documents of every documented function that is short enough."""
        name = part.input.name
        text = module_text(part, Document(f"{source}/{name}", "", source, metadata={"path": name}))
        if isinstance(text, Reject):
            yield text
            return
        for function in functions(text):
            code = f"{function.signature}\n{function.body.rstrip()}\n"
            if not _suits(function, code, self.longest):
                continue
            pair = f"{name}:{function.qualified_name}:{function.line}"
            metadata = {"path": name, "group": group(name), "pair": pair, "license": LICENSE,
                        "python": platform.python_version()}
            for language, content in (("en", inspect.cleandoc(function.docstring)), ("python", code)):
                yield Document(f"{source}/{pair}#{language}", content, source, domain(name), language,
                               dict(metadata))


def _suits(function: PythonFunction, code: str, longest: int) -> bool:
    """Is there something to say on both sides, and not too much?"""
    return bool(function.body.strip()) and len(function.docstring) >= 20 and max(len(function.docstring),
                                                                                len(code)) <= longest
