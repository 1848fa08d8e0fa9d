"""Cost of the data stage against the size of its input: CPU time, memory, disk, and what 10 TB would take.

    python benchmarks/data_size.py --texts FOLDER [--sizes 100 300 1000 2000] [--workers 2] [--json] [--save]

FOLDER holds .txt files (here 45 MB, 60 novels). A corpus of the wanted size (MB) is made of them as JSON lines:
documents of about 3 kB, each from sentences of one book in a drawn order, one in ten a copy of an earlier document with
a few words changed, one in fifty an exact copy. The whole stage runs on it in a process of its own: normal form,
language, Gopher rules, address, exact and near duplicates (verified), split, written. Seconds are CPU time of the
process and its workers; memory is anonymous memory, sampled five times a second.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "data_size.json"
DOCUMENT = 3000
"""Bytes of a document."""
MACHINE_CORES, TERABYTES = 64, 10
"""Of the estimate."""


def documents(texts: Path, size: int, seed: int = 1) -> Iterator[str]:
    """Texts of about `size` bytes altogether."""
    chosen = random.Random(seed)
    books = [re.split(r"(?<=[.!?])\s+", path.read_text("utf-8-sig", "replace"))
             for path in sorted(texts.glob("*.txt"))]
    books = [[" ".join(sentence.split()) for sentence in book] for book in books if len(book) > 500]
    recent: list[str] = []
    made = 0
    while made < size:
        kind = chosen.random()
        if recent and kind < 0.02:
            text = chosen.choice(recent)
        elif recent and kind < 0.12:
            words = chosen.choice(recent).split(" ")
            for _ in range(4):
                words[chosen.randrange(len(words))] = f"changed{chosen.randrange(10**6)}"
            text = " ".join(words)
        else:
            book, parts, held = chosen.choice(books), [], 0
            while held < DOCUMENT:
                parts.append(chosen.choice(book))
                held += len(parts[-1]) + 1
            lines = [" ".join(parts[at:at + 5]) for at in range(0, len(parts), 5)]
            text = "\n\n".join(lines)
            recent = [*recent[-199:], text]
        made += len(text.encode())
        yield text


def write(texts: Path, target: Path, size: int) -> None:
    """JSON lines in files of at most 250 MB: one big file is cut into ranges, several are read side by side."""
    files, held = 0, 0
    file = (target / "00.jsonl").open("w", encoding="utf-8")
    for number, text in enumerate(documents(texts, size)):
        held += file.write(json.dumps({"text": text, "id": str(number)}, ensure_ascii=False) + "\n")
        if held > 250e6:
            file.close()
            files, held = files + 1, 0
            file = (target / f"{files:02d}.jsonl").open("w", encoding="utf-8")
    file.close()


def one(source: Path, work: Path, workers: int) -> None:
    """The stage, in this process."""
    from gristmill.core.stage import Runtime, StageContext
    from gristmill.data.sources.files import Files
    from gristmill.data.stage import Data

    work.mkdir(parents=True)
    stage = Data(sources=[Files(path=str(source))])
    metrics = stage.run(StageContext(name="size/corpus@1", seed=1, work=work, cache=work / "cache",
                                     runtime=Runtime(workers=workers)))
    print(json.dumps({"documents": metrics["documents"], "bytes": metrics["bytes"], "rejected": metrics["rejected"]}))


class Watch(threading.Thread):
    """Peaks of anonymous memory of a process and of those below it, in bytes."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.running = process, True
        self.main = self.worker = self.together = 0

    def run(self) -> None:
        while self.running:
            sizes = {pid: anonymous(pid) for pid in family(self.process)}
            self.main = max(self.main, sizes.get(self.process, 0))
            self.worker = max([self.worker, *(size for pid, size in sizes.items() if pid != self.process)])
            self.together = max(self.together, sum(sizes.values()))
            time.sleep(0.2)


def anonymous(process: int) -> int:
    """Bytes of memory that no file backs."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def family(process: int) -> list[int]:
    """A process and all below it."""
    found, waiting = [], [process]
    while waiting:
        found.append(waiting.pop())
        try:
            children = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text().split()
        except OSError:
            continue
        waiting += map(int, children)
    return found


def measure(texts: Path, megabytes: int, workers: int, folder: Path) -> dict[str, Any]:
    """One size."""
    import os

    source, work = folder / "source", folder / "work"
    source.mkdir(parents=True)
    write(texts, source, megabytes * 1_000_000)
    stored = sum(path.stat().st_size for path in source.iterdir())
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, __file__, "--one", str(source), str(work), "--workers", str(workers)],
                             stdout=subprocess.PIPE, text=True)
    watch = Watch(child.pid)
    watch.start()
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    watch.running = False
    if status:
        raise SystemExit(f"the stage failed on {megabytes} MB (status {status})")
    wall = time.monotonic() - began
    phases = json.loads((work / "telemetry" / "data.json").read_text())
    disk = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    cpu = used.ru_utime + used.ru_stime
    return {
        "megabytes": megabytes, "stored_bytes": stored, "workers": workers, "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1), "cpu_seconds_per_gb": round(cpu / stored * 1e9, 1),
        "main_mb": round(watch.main / 1e6, 1), "worker_mb": round(watch.worker / 1e6, 1),
        "together_mb": round(watch.together / 1e6, 1), "disk_mb": round(disk / 1e6, 1),
        "phases": {phase["phase"]: round(phase["seconds"], 2) for phase in phases["phases"]},
        "read_steps": {name: round(seconds, 1) for name, seconds in phases["read_steps"].items()},
        **json.loads(said.strip().splitlines()[-1]),
    }


def estimate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What TERABYTES would take, from the largest size and the growth of memory between the two largest."""
    last, before = rows[-1], rows[-2]
    seconds = last["cpu_seconds_per_gb"] * TERABYTES * 1000
    more = (last["stored_bytes"] - before["stored_bytes"]) / DOCUMENT
    each = (last["main_mb"] - before["main_mb"]) * 1e6 / max(1, more)
    return {
        "terabytes": TERABYTES, "cores_a_machine": MACHINE_CORES, "core_days": round(seconds / 86400, 1),
        "days_on_machines": {str(n): round(seconds / 86400 / MACHINE_CORES / n, 2) for n in (1, 4, 16, 64)},
        "bytes_of_memory_a_document": round(each, 1),
        "disk_tb": round(TERABYTES * last["disk_mb"] * 1e6 / last["stored_bytes"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="a folder of .txt files")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000, 2000], help="MB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one, options.workers)
        return
    if not options.texts:
        parser.error("--texts: name a folder of .txt files")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            rows.append(measure(options.texts, size, options.workers, Path(folder, str(size))))
            row = rows[-1]
            print(json.dumps(row) if options.json else
                  f"{size:>6} MB: {row['cpu_seconds']:>8.1f} s of CPU ({row['cpu_seconds_per_gb']:.0f} s/GB), main "
                  f"{row['main_mb']:.0f} MB, worker {row['worker_mb']:.0f} MB, disk {row['disk_mb']:.0f} MB",
                  flush=True)
    result = {"rows": rows, **({"estimate": estimate(rows)} if len(rows) > 1 else {})}
    if options.save:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                                cwd=RESULTS.parent).stdout.strip()
        RESULTS.write_text(json.dumps({"date": datetime.date.today().isoformat(), "commit": commit, **result},
                                      indent=2) + "\n")


if __name__ == "__main__":
    main()
