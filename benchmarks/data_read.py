"""Reading: our sources beside warcio, FastWARC, datatrove and `datasets`, on the same files, one core, taking turns.

    python benchmarks/data_read.py --datatrove PYTHON [--megabytes 40] [--rounds 5] [--json] [--out FILE]

PYTHON: of an environment with datatrove 0.10.1 (`pip install "datatrove[io]==0.10.1"`); left out without it. Files are
made of the novels (pieces of 3 kB with id and url) and of the 144 web pages of the shared test data (as a crawler
writes them: request, response, metadata). Each side is a process of its own; CPU time, taken inside; every side has to
come to the same number of records and characters. WARC: records with their blocks, nothing extracted. `ours, zlib` is
ours without the package zlib-ng.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import importlib.metadata
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = ("x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.warc", "x.warc.gz")
Counts = tuple[int, int]
Read = Callable[[Path], Counts]


def ours(path: Path) -> Counts:
    from gristmill.data.inputs import Range

    if ".warc" in path.name:
        from gristmill.data.formats.warc_members import Window
        from gristmill.data.formats.warc_records import records

        kinds = {"request", "response", "metadata", "warcinfo"}
        with path.open("rb") as stream:
            return _count(len(one.block or b"") for one in records(Window(stream), 0, None, kinds=kinds,
                                                                   longest=1 << 26))
    from gristmill.data.sources import Files

    source = Files(path=str(path))
    return _count(len(one.text) for one in source.read(Range(source.inputs()[0]), "x"))  # type: ignore[union-attr]


def warcio(path: Path) -> Counts:
    from warcio.archiveiterator import ArchiveIterator

    with path.open("rb") as stream:  # what it takes off as HTTP headers is counted back
        return _count(len(one.raw_stream.read()) + (len(one.http_headers.to_bytes()) if one.http_headers else 0)
                      for one in ArchiveIterator(stream))


def fastwarc(path: Path) -> Counts:
    from fastwarc.warc import ArchiveIterator

    with path.open("rb") as stream:
        return _count(len(one.reader.read()) for one in ArchiveIterator(stream, parse_http=False))


def datatrove(path: Path) -> Counts:
    from datatrove.pipeline.readers import JsonlReader, ParquetReader
    from loguru import logger

    logger.remove()
    kind = ParquetReader if path.suffix == ".parquet" else JsonlReader
    return _count(len(one.text) for one in kind(str(path.parent), glob_pattern=path.name).run())


def datasets(path: Path) -> Counts:
    import datasets as library

    kind = "parquet" if path.suffix == ".parquet" else "json"
    return _count(len(one["text"]) for one in library.load_dataset(kind, data_files=str(path), split="train",
                                                                   streaming=True))


def _count(sizes: Iterable[int]) -> Counts:
    number = total = 0
    for size in sizes:
        number += 1
        total += size
    return number, total


SIDES: dict[str, Read] = {"ours": ours, "ours, zlib": ours, "warcio": warcio, "fastwarc": fastwarc,
                          "datatrove": datatrove, "datasets": datasets}


def reads(side: str, name: str) -> bool:
    """Does this side take part here?"""
    if side == "ours, zlib":
        return name.endswith(".gz")
    return side == "ours" or (side in ("warcio", "fastwarc")) == (".warc" in name)


def serve(side: str) -> None:
    """Answer lines that name a file with a line of JSON, until there are no more."""
    sys.path.insert(0, str(ROOT))
    if side == "ours, zlib":
        sys.modules["zlib_ng"] = None  # type: ignore[assignment]
    for line in sys.stdin:
        began = time.process_time()
        counts = SIDES[side](Path(line.strip()))
        print(json.dumps([time.process_time() - began, *counts]), flush=True)


class Side:
    def __init__(self, side: str, python: str) -> None:
        self.process = subprocess.Popen(
            [python, __file__, "--serve", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})

    def ask(self, path: Path) -> list[Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def make(folder: Path, megabytes: int) -> None:
    """The files of `FILES`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sys.path.insert(0, str(ROOT))
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    from tests.shared import DATA

    texts: list[str] = []
    with tarfile.open(DATA / "text" / "novels_60.tar.xz") as archive:
        for member in archive:
            if stream := archive.extractfile(member):
                text = stream.read().decode("utf-8", "replace")
                texts += [text[at: at + 3000] for at in range(0, len(text), 3000)]
    chance = random.Random(0)
    chance.shuffle(texts)
    texts = texts[: megabytes * 1_000_000 // 3000]
    records = [{"text": text, "id": str(n), "url": f"https://example.org/{n}"} for n, text in enumerate(texts)]
    data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    (folder / "x.jsonl").write_bytes(data)
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(data, 6))
    (folder / "x.jsonl.zst").write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
    pq.write_table(pa.Table.from_pylist(records), folder / "x.parquet", row_group_size=2000)
    with tarfile.open(DATA / "web" / "html_pages_144.tar.xz") as archive:
        pages = [stream.read() for member in archive if (stream := archive.extractfile(member))]
    for name in ("x.warc", "x.warc.gz"):
        with (folder / name).open("wb") as file:
            writer = WARCWriter(file, gzip=name.endswith(".gz"))
            size = 0
            while size < megabytes * 1_000_000:
                page, url = chance.choice(pages), f"https://example.org/{size}"
                size += len(page)
                ask = StatusAndHeaders("GET / HTTP/1.1", [("Host", "example.org")], is_http_request=True)
                answer = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
                for kind, body, headers in (("request", b"", ask), ("response", page, answer),
                                            ("metadata", b"fetchTimeMs: 12\r\n", None)):
                    writer.write_record(writer.create_warc_record(url, kind, payload=io.BytesIO(body),
                                                                  http_headers=headers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datatrove", help="Python of an environment with datatrove 0.10.1")
    parser.add_argument("--megabytes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the results to this file")
    parser.add_argument("--serve", choices=tuple(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    pythons = {side: sys.executable for side in SIDES if side != "datatrove"}
    versions = {side: importlib.metadata.version(side) for side in ("warcio", "fastwarc", "datasets")}
    if options.datatrove:
        pythons["datatrove"] = options.datatrove
        versions["datatrove"] = subprocess.run(
            [options.datatrove, "-c", "import importlib.metadata as m; print(m.version('datatrove'))"],
            check=True, capture_output=True, text=True).stdout.strip()
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.megabytes)
        sizes = {name: (Path(folder) / name).stat().st_size for name in FILES}
        sides = {side: Side(side, python) for side, python in pythons.items()}
        counts: dict[str, Counts] = {}
        for turn in range(options.rounds + 1):  # the first warms up
            for name in FILES:
                for side in (side for side in sides if reads(side, name)):
                    spent, *found = sides[side].ask(Path(folder) / name)
                    same = counts.setdefault(name, tuple(found))  # type: ignore[arg-type]
                    assert found[0] == same[0], f"{side} reads other records of {name}: {found}, not {same}"
                    assert abs(found[1] - same[1]) < 0.01 * same[1], f"{side}: {found}, not {same}"
                    if turn:
                        seconds.setdefault((name, side), []).append(spent)
        for side in sides.values():
            side.close()
    results = []
    for name, side in seconds:
        if side == "ours":
            continue
        first = "ours"
        ratios = [theirs / mine for mine, theirs in zip(seconds[name, first], seconds[name, side], strict=True)]
        mine, theirs = (counts[name][1] / 1e6 / statistics.median(seconds[name, one]) for one in (first, side))
        results.append({
            "name": name, "peer": side, "peer_version": versions.get(side, ""), "unit": "MB/s of text or blocks",
            "ours": round(mine, 1), "theirs": round(theirs, 1), "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)], "runs": options.rounds,
        })
    for one in results:
        print(json.dumps(one) if options.json else
              f"{one['name']:12} ours {one['ours']:7.1f} MB/s, {one['peer']:10} {one['theirs']:7.1f}, ratio "
              f"{one['ratio']:5.2f} ({one['ratio_range'][0]}-{one['ratio_range'][1]})")
    if options.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                                check=False).stdout.strip()
        options.out.write_text(json.dumps({
            "date": datetime.date.today().isoformat(), "commit": commit, "cores": os.cpu_count(), "stored_bytes": sizes,
            "records": {name: count[0] for name, count in counts.items()}, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
