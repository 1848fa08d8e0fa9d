"""Sources read whole, as the data stage reads them."""

from __future__ import annotations

from gristmill.data.documents import Document, Reject
from gristmill.data.inputs import Readable

ONE = 1 << 40
"""A range of this size is a whole input."""


def read_all(source: Readable, name: str = "", size: int = ONE) -> list[Document | Reject]:
    """Everything that a source gives, its inputs cut into ranges of about `size` bytes."""
    return [found for item in source.inputs() for part in source.ranges(item, size)
            for found in source.read(part, name or source.kind)]


def documents(source: Readable, name: str = "") -> list[Document]:
    """The documents alone."""
    return [found for found in read_all(source, name) if isinstance(found, Document)]
