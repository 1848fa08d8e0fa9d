"""What lies in a crawl's folder, by readers that are not ours."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
from fastwarc.warc import ArchiveIterator


def records(folder: Path) -> list[tuple[str, str, bytes]]:
    """(type, address, block) of every record, each with a digest that is right."""
    found = []
    for path in sorted(folder.glob("pages-*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, parse_http=False):
                assert record.verify_block_digest(), (path, dict(record.headers))
                found.append((record.headers["WARC-Type"], record.headers.get("WARC-Target-URI", ""),
                              record.reader.read()))
    return found


def stored(folder: Path) -> list[str]:
    """The paths of all responses, in order."""
    return [path(url) for kind, url, _ in records(folder) if kind == "response"]


def path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def pages(folder: Path) -> dict[str, dict]:
    """path -> line of pages.parquet."""
    return {path(row["url"]): row for row in pq.read_table(folder / "pages.parquet").to_pylist()}


def rejects(folder: Path) -> dict[str, tuple[str, str]]:
    """path (the whole address, of another site) -> (reason, detail)."""
    rows = pq.read_table(folder / "rejects.parquet").to_pylist()
    return {path(row["url"]) if "127.0.0.1" in row["url"] else row["url"]: (row["reason"], row["detail"])
            for row in rows}


def summary(folder: Path) -> dict:
    return json.loads((folder / "crawl.json").read_text())["summary"]
