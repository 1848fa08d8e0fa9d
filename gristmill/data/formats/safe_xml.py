"""XML from strangers as trees: no entity is expanded, nothing outside is loaded, depth and size are bounded."""

from __future__ import annotations

import html.entities
from collections.abc import Iterator
from typing import IO
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from gristmill.data.formats.damaged import Damaged
from gristmill.data.inputs import DAMAGE

DEEPEST = 500
"""Elements inside elements; articles and package files stay below 50."""
LARGEST_ELEMENT = 64 << 20
"""Bytes of XML that one record may have: they become a tree in memory of about ten times that."""
_BLOCK = 1 << 16


def parse_xml(data: bytes) -> Element:
    """The root of a document; names as `{namespace}name`. Raises Damaged."""
    root = next(iter(_trees([data], None)), None)
    if root is None:
        raise Damaged("broken_xml", "it holds no element")
    return root


def records(stream: IO[bytes], tag: str) -> Iterator[Element]:
    """The elements called `tag` (not those inside another such), one at a time in memory. Raises Damaged where the
    XML is broken: the records before that place have been given."""
    return _trees(iter(lambda: stream.read(_BLOCK), b""), tag)


def local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]


def _trees(blocks: Iterator[bytes] | list[bytes], tag: str | None) -> Iterator[Element]:
    builder = _Builder(tag)
    size = 0
    try:
        for block in blocks:
            size = size + len(block) if builder.depth_inside else len(block)
            if size > LARGEST_ELEMENT + _BLOCK:
                raise Damaged("too_large", f"a record has more than {LARGEST_ELEMENT >> 20} MiB of XML")
            builder.parser.Parse(block, False)
            if builder.done:
                size = 0
                yield from builder.done
                builder.done.clear()
        builder.parser.Parse(b"", True)
        yield from builder.done
    except expat.ExpatError as error:
        yield from builder.done
        raise Damaged("broken_xml", str(error)) from error
    except DAMAGE as error:
        yield from builder.done
        raise Damaged("unreadable_file", f"{type(error).__name__}: {error}") from error


class _Builder:
    """Expat's events as trees, one for each element called `tag` (None: the root)."""

    def __init__(self, tag: str | None) -> None:
        self.tag, self.depth, self.depth_inside = tag, 0, 0
        self.done: list[Element] = []
        self.tree = TreeBuilder()
        parser = self.parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.text
        parser.EntityDeclHandler = self.declared
        parser.SkippedEntityHandler = self.skipped
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Damaged("too_deep", f"elements are nested more than {DEEPEST} deep")
        if self.depth_inside or self.tag is None or local(name) == self.tag:
            self.depth_inside += 1
            self.tree.start(_full(name), {_full(key): value for key, value in attributes.items()})

    def end(self, name: str) -> None:
        self.depth -= 1
        if self.depth_inside:
            self.depth_inside -= 1
            self.tree.end(_full(name))
            if not self.depth_inside:
                self.done.append(self.tree.close())
                self.tree = TreeBuilder()

    def text(self, data: str) -> None:
        if self.depth_inside:
            self.tree.data(data)

    def declared(self, name: str, parameter: bool, value: str | None, *place: str | None) -> None:
        if value is not None:
            raise Damaged("entity_declaration", f"it declares the entity {name!r}; entities are never expanded")

    def skipped(self, name: str, parameter: bool) -> None:
        """An entity of a DTD that is not loaded: those of HTML are known."""
        if not parameter:
            self.text(html.entities.html5.get(f"{name};", ""))


def _full(name: str) -> str:
    return f"{{{name}" if "}" in name else name
