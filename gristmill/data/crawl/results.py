"""What a finished crawl leaves beside its archives: an index of pages, what was left out and why, a summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.core.config import to_plain
from gristmill.core.errors import UserError
from gristmill.core.files import disk_errors, read_json, write_json
from gristmill.data.crawl.archive import Archive, warc_date
from gristmill.data.crawl.state import LEFT_OUT, READ, REDIRECTED, STORED, State
from gristmill.data.crawl.urls import key
from gristmill.data.documents import PARQUET

if TYPE_CHECKING:
    from gristmill.data.crawl.stage import Crawl

PAGES = pa.schema([
    ("url", pa.string()), ("kind", pa.string()), ("status", pa.int32()), ("time", pa.string()), ("stored", pa.string()),
    ("content_type", pa.string()), ("etag", pa.string()), ("modified", pa.string()), ("digest", pa.string()),
    ("payload", pa.string()), ("record_id", pa.string()), ("file", pa.string()), ("offset", pa.int64()),
    ("length", pa.int64()),
    ("bytes", pa.int64()), ("links", pa.int32()), ("depth", pa.int32()), ("via", pa.string()),
])
"""A page that was kept. kind: response, or unchanged (since `stored`, when its bytes came; `time`: when it was asked
for now). digest: of the body without chunks; payload: WARC-Payload-Digest of its record. file, offset, length: the gzip
member of its record. via: the page that led to it."""
REJECTS = pa.schema([
    ("url", pa.string()), ("reason", pa.string()), ("detail", pa.string()), ("status", pa.int32()),
    ("time", pa.string()), ("tries", pa.int32()), ("depth", pa.int32()), ("via", pa.string()),
])
"""An address that was found and not kept; status 0 where nothing was answered, time "" where nothing was asked."""
_BATCH = 10_000


class NothingKept(UserError):
    """The crawl is over, and no page of it can be used."""


@dataclass(frozen=True)
class Result:
    """summary: counts, the same for the same answers. telemetry: what depends on time."""

    summary: dict[str, Any]
    telemetry: dict[str, Any] = field(default_factory=dict)


def finished(folder: Path, identity: str) -> Result | None:
    """The result of a crawl that is complete in this folder; a UserError if it is another crawl's."""
    path = folder / "crawl.json"
    if not path.is_file():
        return None
    found = read_json(path)
    if found.get("identity") != identity:
        raise UserError("this folder holds a crawl with other settings", where=str(folder),
                        fix="name a new folder; with --earlier this one, unchanged pages are not transferred again")
    return Result(found["summary"])


def finish(config: Crawl, folder: Path, state: State, archive: Archive, identity: str, seconds: float) -> Result:
    """Complete the archive and write pages.parquet, rejects.parquet and crawl.json, which says that all is there."""
    with state.transaction():
        state.leave_out("page_limit", f"pages: {config.pages}")
    archive.close()
    with disk_errors(folder):
        _write(folder / "pages.parquet", PAGES, (_page(row) for row in state.settled(STORED)))
        _write(folder / "rejects.parquet", REJECTS, (_reject(row) for row in state.settled(LEFT_OUT)))
    summary = _summary(state)
    refused = ", ".join(f"{n} x {reason}" for reason, n in list(summary["left_out"].items())[:5])
    if not summary["pages"]:
        archive.remove()
        where, path = ", ".join(config.start[:3]), folder / "rejects.parquet"
        raise NothingKept(f"not one page could be kept ({refused or 'nothing was found'})", where=where,
                          fix=f"{path} says of every address why; the next run begins anew")
    write_json(folder / "crawl.json", {"identity": identity, "config": to_plain(config), "summary": summary})
    rate = {"seconds": seconds, "requests_per_second": summary["requests"] / max(seconds, 1e-9)}
    return Result(summary, rate)


def _summary(state: State) -> dict[str, Any]:
    counts = state.counts()
    tally = state.tally()
    left_out: dict[str, int] = {}
    for kind, reason, _, n in tally:
        if kind == LEFT_OUT:
            left_out[reason] = left_out.get(reason, 0) + n
    kept = [row["facts"].get("kind") for row in state.settled(STORED)]
    hosts = state.hosts()
    return {
        "found": sum(n for *_, n in tally),
        "asked_for": counts.get("fetched", 0),
        "pages": len(kept),
        "unchanged": kept.count("unchanged"),
        "redirects": sum(n for kind, _, _, n in tally if kind == REDIRECTED),
        "left_out": dict(sorted(left_out.items(), key=lambda item: (-item[1], item[0]))),
        "links": {name.removeprefix("links_"): n for name, n in counts.items() if name.startswith("links_")},
        "sitemaps": {"read": sum(not row["reason"] for row in state.settled(READ)),
                     "unreadable": sum(bool(row["reason"]) for row in state.settled(READ))},
        "robots_fetched": counts.get("robots_fetched", 0),
        "requests": counts.get("requests", 0),
        "retries": counts.get("retries", 0),
        "bytes": counts.get("bytes", 0),
        "hosts": len(hosts),
        "hosts_parked": sum(bool(host.parked) for host in hosts),
        "earlier_unreadable": counts.get("earlier_unreadable", 0),
    }


def _page(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = row["facts"]
    return {**{name: facts.get(name) for name in PAGES.names}, "url": row["url"], "status": row["status"],
            "time": warc_date(row["time"]), "stored": warc_date(facts["stored"]), "depth": row["depth"],
            "via": row["via"]}


def _reject(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: row[name] for name in REJECTS.names}, "time": warc_date(row["time"]) if row["time"] else ""}


def _write(path: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> None:
    """A Parquet file in batches, renamed into place."""
    temporary = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(temporary, schema, **PARQUET) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            if len(batch) >= _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    temporary.replace(path)


def load_earlier(state: State, folder: Path | None) -> None:
    """Take over what an earlier crawl knows of its pages, once."""
    if folder is None or state.note("earlier") is not None:
        return
    path = folder / "pages.parquet"
    if not path.is_file():
        raise UserError("no finished crawl lies here", where=str(folder),
                        fix="name the folder of a crawl: it holds pages.parquet and pages-*.warc.gz")
    wanted = ["url", "stored", "content_type", "etag", "modified", "digest", "payload", "record_id", "file", "offset",
              "length"]
    try:
        with state.transaction(), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
                rows = [{**row, "stored": _seconds(row["stored"])} for row in batch.to_pylist()]
                state.save_earlier((key(row["url"]), row) for row in rows if "/" not in row["file"])
            state.set_note("earlier", str(folder))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise UserError(f"the index of this crawl is damaged ({str(error).splitlines()[0]})", where=str(path),
                        fix="name another crawl as the earlier one, or none") from error


def _seconds(date: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(date).timestamp()
