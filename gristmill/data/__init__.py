"""Text: from raw sources to a clean, deduplicated, split corpus with its provenance.

In: sources (Python's standard library, the user's files). Out: a corpus artifact: documents by split, rejects with
reasons, funnel, data card. Documents flow in batches: collect -> normalise and measure (signals) -> decide ->
deduplicate -> split. Also `functions` of Python source text, for those who make examples from code.
May call: core.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gristmill.data.documents import SCHEMA, Document, iterate_documents, read_documents
    from gristmill.data.python_code import PythonFunction, functions
    from gristmill.data.stage import Data

_WHERE = {
    "SCHEMA": "documents", "Document": "documents", "iterate_documents": "documents", "read_documents": "documents",
    "PythonFunction": "python_code", "functions": "python_code", "Data": "stage",
}


def __getattr__(name: str) -> Any:
    """Import on first use: pyarrow and pydantic are only paid for by those who need them."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"gristmill.data.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["SCHEMA", "Data", "Document", "PythonFunction", "functions", "iterate_documents", "read_documents"]
