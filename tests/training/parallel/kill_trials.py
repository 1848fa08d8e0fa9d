"""Kill one process of a training on several, start it again on another number, and compare with a run that nobody
disturbed: `python -m tests.training.parallel.kill_trials FOLDER KILLS SEED` prints what was found as JSON.

torchrun's own launcher starts the processes (`elastic_launch`), from a server that has imported everything before.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tests.training.parallel import killed

STEPS = 30
KILLS_A_RUN = 3
SIZES = (2, 2, 4, 2, 1, 2, 4, 1)
"""How many processes start, one after another; those of 2 are what the proof is about."""


def launch(folder: Path, size: int) -> bool:
    """Whether all `size` processes came to the end."""
    settings = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=size, rdzv_backend="c10d",
                            rdzv_endpoint="localhost:0", run_id=str(time.time_ns()), start_method="forkserver",
                            max_restarts=0, monitor_interval=0.05)
    try:
        elastic_launch(settings, killed.train)(str(folder), STEPS)
    except ChildFailedError:
        return False
    return True


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: a kill may have cut the last one."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line]


class Killer(threading.Thread):
    """kill -9 of process `rank`, a random while after the run has come to `step`."""

    def __init__(self, folder: Path, chance: random.Random, size: int, began: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.rank = folder, chance.randrange(size)
        self.step = began + chance.randint(1, STEPS // KILLS_A_RUN)
        self.delay = chance.uniform(0, 3 * killed.STEP_SECONDS)
        self.old = set(self.processes())
        self.over = threading.Event()
        self.hit: dict[str, Any] | None = None

    def processes(self) -> list[Path]:
        return list((self.folder / "processes").glob("*.json"))

    def run(self) -> None:
        while not self.over.wait(0.005):
            steps = [record["step"] for record in lines(self.folder / "trace.jsonl")]
            new = [path for path in self.processes() if path not in self.old]
            if not steps or max(steps) < self.step or not new:
                continue
            time.sleep(self.delay)
            for path in new:
                about = json.loads(path.read_text() or "{}")
                if about.get("rank") == self.rank:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(path.stem), signal.SIGKILL)
                        self.hit = {"rank": self.rank, "of": about["size"], "step": self.step}
                    return


def read_rows(folder: Path) -> tuple[list[list[int]], bool]:
    """Rows in the order in which they were read for good: of each try, up to where the next one goes on. And whether
    the processes of each try read, together, whole updates in order."""
    tries: dict[tuple[int, int], list[Path]] = {}
    for path in (folder / "rows").iterdir():
        started, size, _ = path.stem.split("-")
        tries.setdefault((int(started), int(size)), []).append(path)
    order: list[list[int]] = []
    fine = True
    for (_, size), paths in sorted(tries.items()):
        read = [lines(path) for path in sorted(paths, key=lambda path: int(path.stem.split("-")[2]))]
        if size > 1:  # processes compare the rows of the first update, and then read them for it
            fine &= all(part[:1] == part[1:2] for part in read if len(part) > 1)
            read = [part[1:] for part in read]
        steps = min(map(len, read)) if len(read) == size else 0
        updates = [[row for part in read for row in part[step]] for step in range(steps)]
        if not updates:
            continue
        first, rest = divmod(updates[0][0], killed.BATCH)
        fine &= rest == 0 and first <= len(order)
        order[first:] = updates
    return order, fine


def trials(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """At least so many kills, spread over runs of `STEPS` updates."""
    chance = random.Random(seed)
    undisturbed = folder / "undisturbed"
    launch(undisturbed, 1)
    expected = lines(undisturbed / "trace.jsonl")
    assert [record["step"] for record in expected] == list(range(1, STEPS + 1))
    rows, _ = read_rows(undisturbed)
    sizes, found, runs = iter(SIZES * (2 * kills)), [], []
    while sum(map(len, found)) < kills:
        run = folder / f"run-{len(runs)}"
        hits: list[dict[str, Any]] = []
        starts = []
        while True:
            size = next(sizes)
            trace = lines(run / "trace.jsonl")
            killer = Killer(run, chance, size, trace[-1]["step"] if trace else 0)
            if len(hits) < KILLS_A_RUN and sum(map(len, found)) + len(hits) < kills:
                killer.start()
            ended = launch(run, size)
            starts.append(size)
            killer.over.set()
            if killer.is_alive():
                killer.join()
            if killer.hit is not None and not ended:
                hits.append(killer.hit)
            elif ended:
                break
            else:
                raise AssertionError(f"a run on {size} processes failed, and nobody killed it")
        trace = lines(run / "trace.jsonl")
        order, fine = read_rows(run)
        runs.append({
            "started_on": starts, "kills": hits, "same_steps": [r["step"] for r in trace] == list(range(1, STEPS + 1)),
            "same_rows": fine and order == rows,
            "loss_difference": max(abs(a["loss"] - b["loss"]) for a, b in zip(trace, expected, strict=True)),
            "same_tokens": [r["tokens"] for r in trace] == [r["tokens"] for r in expected],
        })
        found.append(hits)
    counted = Counter(hit["of"] for hits in found for hit in hits)
    return {"kills": sum(counted.values()), "kills_by_processes": {str(k): counted[k] for k in sorted(counted)},
            "steps": STEPS, "loss_at_start": expected[0]["loss"], "loss_at_end": expected[-1]["loss"],
            "largest_loss_difference": max(run["loss_difference"] for run in runs), "runs": runs}


if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["torch", "torch.distributed.fsdp", "tests.training.parallel.killed"])
    os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    print(json.dumps(trials(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
