"""A polite crawler: addresses in, web archives (WARC) out, with everything that was left out and why.

In: a `Crawl` (start addresses, bounds, manners). Out: a folder with pages-*.warc.gz, pages.parquet, rejects.parquet,
crawl.json; the source `warc` reads it. Kill it at any moment and start it again: it goes on where it was.
robots.txt (RFC 9309) is always obeyed, private addresses are refused after their names are resolved.
`crawler.py` is the loop, `state.py` what it knows, `archive.py` what it keeps. May call: core, the rest of data.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gristmill.data.crawl.crawler import crawl
    from gristmill.data.crawl.stage import Crawl

_WHERE = {"Crawl": "stage", "crawl": "crawler"}


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"gristmill.data.crawl.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Crawl", "crawl"]
