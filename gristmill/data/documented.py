"""Documented functions of a Python corpus, in an order that only their documents' ids and a seed decide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gristmill.core.seeds import fraction
from gristmill.data.documents import iterate_documents
from gristmill.data.python_code import PythonFunction, functions


def documented_functions(
    corpus: Path, split: str, seed: int, per_document: int | None = None
) -> Iterator[tuple[str, PythonFunction]]:
    """(key, function) for functions with documentation and a body; at most `per_document` of each document.

    Documents are parsed as they are asked for, so that whoever needs a few hundred functions reads a few documents.
    """
    documents = [
        (fraction(seed, document["id"]), document["id"], document["text"])
        for document in iterate_documents(corpus, split)
        if document["language"] == "python" and ('"""' in document["text"] or "'''" in document["text"])
    ]
    for _, name, text in sorted(documents):
        keyed = ((f"{name}:{f.qualified_name}:{f.line}", f) for f in functions(text) if f.summary and f.body.strip())
        ranked = sorted(keyed, key=lambda item: fraction(seed, item[0]))
        yield from ranked[:per_document]
