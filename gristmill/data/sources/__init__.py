"""Where text comes from: one file a kind, each a config class that streams documents with their provenance.

What a source does is said by `Readable` in `data/inputs.py`: it lists its inputs, cuts them into ranges, and reads a
range. How the formats are read stands in `data/formats/`. A new kind is one file here and its class in `Source`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from gristmill.core.config import require
from gristmill.data.sources.books import Books
from gristmill.data.sources.code import Code
from gristmill.data.sources.feeds import Feeds
from gristmill.data.sources.files import Files
from gristmill.data.sources.hugging_face import HuggingFace
from gristmill.data.sources.jats import Jats
from gristmill.data.sources.latex import Latex
from gristmill.data.sources.mail import Mail
from gristmill.data.sources.pdf import Pdf
from gristmill.data.sources.python_functions import PythonFunctions
from gristmill.data.sources.python_stdlib import PythonStdlib
from gristmill.data.sources.reddit import Reddit
from gristmill.data.sources.stackexchange import StackExchange
from gristmill.data.sources.warc import Warc
from gristmill.data.sources.wikipedia import Wikipedia

Source = Annotated[
    PythonStdlib | PythonFunctions | Files | Code | HuggingFace | Warc | Wikipedia | StackExchange | Feeds | Books | Pdf
    | Latex | Jats | Mail | Reddit,
    Field(discriminator="kind"),
]
"""Any source; `kind` says which."""


@cache
def _any_source() -> TypeAdapter[Source]:
    return TypeAdapter(Source)


def source_from_plain(value: dict[str, Any]) -> Source:
    """The source that these plain values describe."""
    return _any_source().validate_python(value)


def located(sources: Sequence[Source], inputs: Mapping[str, Any]) -> list[Source]:
    """The sources with the folders of artifacts in place of references to them. inputs: reference -> artifact."""
    return [source.at(str(inputs[source.pages].path)) if isinstance(source, Warc) and source.pages else source
            for source in sources]


def source_names(sources: Sequence[Source]) -> list[str]:
    """The name of each source: as given, or its kind (with a number from the second of a kind on)."""
    names: list[str] = []
    for source in sources:
        same = sum(other.kind == source.kind and not other.name for other in sources[: len(names)])
        name = source.name or (source.kind if same == 0 else f"{source.kind}{same + 1}")
        require(name not in names, "sources", f"two sources are called {name!r}: give one of them another `name`")
        names.append(name)
    return names


__all__ = [
    "Books", "Code", "Feeds", "Files", "HuggingFace", "Jats", "Latex", "Mail", "Pdf", "PythonFunctions",
    "PythonStdlib", "Reddit", "Source", "StackExchange", "Warc", "Wikipedia", "located", "source_from_plain",
    "source_names",
]
