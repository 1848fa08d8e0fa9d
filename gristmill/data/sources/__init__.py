"""Where text comes from: one file a kind, each a config class that streams documents with their provenance.

What a source does is said by `Readable` in `inputs.py`: it lists its inputs, cuts them into ranges, and reads a range.
A new kind is one file here and its class in `Source`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from gristmill.core.config import require
from gristmill.data.sources.files import Files
from gristmill.data.sources.python_functions import PythonFunctions
from gristmill.data.sources.python_stdlib import PythonStdlib

Source = Annotated[PythonStdlib | PythonFunctions | Files, Field(discriminator="kind")]
"""Any source; `kind` says which."""


@cache
def _any_source() -> TypeAdapter[Source]:
    return TypeAdapter(Source)


def source_from_plain(value: dict[str, Any]) -> Source:
    """The source that these plain values describe."""
    return _any_source().validate_python(value)


def source_names(sources: Sequence[Source]) -> list[str]:
    """The name of each source: as given, or its kind (with a number from the second of a kind on)."""
    names: list[str] = []
    for source in sources:
        same = sum(other.kind == source.kind and not other.name for other in sources[: len(names)])
        name = source.name or (source.kind if same == 0 else f"{source.kind}{same + 1}")
        require(name not in names, "sources", f"two sources are called {name!r}: give one of them another `name`")
        names.append(name)
    return names


__all__ = ["Files", "PythonFunctions", "PythonStdlib", "Source", "source_from_plain", "source_names"]
