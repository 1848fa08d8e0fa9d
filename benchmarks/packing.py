"""Best-fit packing beside trl's and a plain heap of rows; what it saves on real text; and what batches cost.

    python benchmarks/packing.py [--parts speed text buckets loader] [--data shared/data] [--rounds 5] [--trl FOLDER]
        [--json] [--save]

speed: CPU seconds for the layout of pieces, ours, the same rule written piece by piece, and trl 1.14.0's `bfd` (with
the tokens of one byte each that it gathers), taking turns. text: documents cut and padding, windows against best fit,
on novels, textbooks, web pages and the standard library. buckets: padding of batches of sentence pairs' lengths, in
random order and by length. loader: CPU seconds a batch, and the update of a model of width 256 and depth 6 beside it.

--trl names a folder with `trl==1.14.0` (pip install --no-deps --target FOLDER); it needs transformers and datasets.
"""

from __future__ import annotations

import argparse
import bisect
import datetime
import gzip
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.data.documents import Document, row, write_shard
from gristmill.tokenizer.train import train_bpe
from gristmill.tokens import (
    Curriculum,
    Mixture,
    TokenShards,
    arrange,
    laid_out,
    materialise,
    text_batches,
)
from gristmill.tokens.best_fit import best_fit
from gristmill.tokens.length_buckets import BucketedOrder, random_padding

RESULTS = Path(__file__).parent / "results" / "packing.json"


def piece_by_piece(sizes: np.ndarray, room: int) -> int:
    """Best-fit decreasing with a sorted list of the rooms that are left; gives the number of rows."""
    open_rows: dict[int, list[int]] = {}
    left: list[int] = []
    rows = 0
    for size in sorted(sizes.tolist(), reverse=True):
        at = bisect.bisect_left(left, size)
        if at == len(left):
            row_, free = rows, room
            rows += 1
        else:
            free = left[at]
            row_ = open_rows[free].pop()
            if not open_rows[free]:
                del open_rows[free], left[at]
        if free > size:
            if free - size not in open_rows:
                bisect.insort(left, free - size)
            open_rows.setdefault(free - size, []).append(row_)
    return rows


def timed(action: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    began = time.process_time()
    result = action(*arguments)
    return time.process_time() - began, result


def speed(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    peers: dict[str, tuple[str, Callable[[np.ndarray, int], int]]] = {"piece by piece": ("", piece_by_piece)}
    if options.trl:
        sys.path.append(str(options.trl))
        import pyarrow as pa
        import trl
        from trl.data_utils import _pack_bfd

        def peer(sizes: np.ndarray, room: int) -> int:
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            tokens = pa.LargeListArray.from_arrays(offsets, np.zeros(int(offsets[-1]), dtype=np.int8))
            return len(_pack_bfd(pa.table({"input_ids": tokens}), room))

        peers["trl bfd"] = (trl.__version__, peer)
    for pieces, room in ((200_000, 512), (1_000_000, 512), (1_000_000, 2048), (1_000_000, 8192)):
        sizes = np.maximum(rng.lognormal(5.5, 1.1, pieces).astype(np.int32), 1) % room + 1
        tracemalloc.start()
        best_fit(sizes, room)
        memory = tracemalloc.get_traced_memory()[1] / pieces
        tracemalloc.stop()
        ours: list[float] = []
        theirs: dict[str, list[float]] = {name: [] for name in peers}
        rows = {}
        for _ in range(options.rounds if pieces < 1_000_000 else min(options.rounds, 3)):
            seconds, layout = timed(best_fit, sizes, room)
            ours.append(seconds)
            for name, (_, run) in peers.items():
                if name == "trl bfd" and pieces * room > 600_000_000:
                    continue
                seconds, rows[name] = timed(run, sizes, room)
                theirs[name].append(seconds)
        for name, (version, _) in peers.items():
            if theirs[name]:
                mine, other = statistics.median(ours), statistics.median(theirs[name])
                yield {"name": f"best fit of {pieces:,} pieces, rows of {room}", "peer": name, "peer_version": version,
                       "ours": round(mine, 4), "theirs": round(other, 4), "unit": "CPU seconds",
                       "ratio": round(other / mine, 1), "runs": len(ours), "rows": len(layout),
                       "their_rows": rows[name], "fill": round(float(sizes.sum()) / len(layout) / room, 6),
                       "bytes_a_piece": round(memory, 1)}


def real_texts(data: Path) -> dict[str, list[str]]:
    """Whole documents of several kinds."""
    found: dict[str, list[str]] = {}
    with tarfile.open(data / "text/novels_60.tar.xz") as archive:
        members = [m for m in archive.getmembers() if m.name.endswith(".txt")][:8]
        found["novels"] = [archive.extractfile(m).read().decode("utf-8-sig") for m in members]  # type: ignore[union-attr]
    for name, file in (("textbooks", "text/openstax_3books.jsonl.gz"), ("web pages", "text/c4_demo_300.jsonl.gz"),
                       ("instructions", "sft/p3_multitask.jsonl.gz")):
        lines = gzip.decompress((data / file).read_bytes()).split(b"\n")
        records = [json.loads(line) for line in lines if line.strip()]
        found[name] = [one.get("text") or one["prompt"] + one["completion"] for one in records]
    folder = Path(sysconfig.get_paths()["stdlib"])
    found["standard library"] = [
        path.read_text("utf-8", errors="replace") for path in sorted(folder.rglob("*.py"))
        if not {"test", "tests", "site-packages"} & set(path.parts)]
    return found


def world(options: argparse.Namespace, folder: Path) -> tuple[Artifact, TokenShards]:
    """A corpus of the real texts, and its tokens."""
    texts = real_texts(options.data)
    rows = [row(Document(id=f"{source}/{i}", text=text, source=source), split="train")
            for source, own in texts.items() for i, text in enumerate(own)]
    write_shard(folder / "corpus" / "documents" / "train-00000.parquet", rows)
    corpus = Artifact(folder / "corpus", {"kind": "corpus", "name": "corpus", "digest": "d", "version": 1})
    tokenizer = train_bpe([[text[:20_000] for own in texts.values() for text in own[:150]]], vocab_size=8192)
    return corpus, materialise(corpus, tokenizer, "train", folder / "cache")


def text(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        corpus, shards = world(options, Path(name))
        for context in (512, 2048):
            arrangement = arrange(shards, corpus, "train", context=context, mixture=Mixture(), packing="best_fit")
            whole = [("all", laid_out(shards, context))]
            for source, one in [*((one.name, one.buckets[0]) for one in arrangement.components), *whole]:
                places = np.diff(one.offsets) - 1
                starts = np.asarray(one.offsets[:-1])
                cuts = (starts + places - 1) // context - starts // context
                least = np.maximum(-(-places // context) - 1, 0)
                fit = places <= context
                yield {"name": f"{source}, rows of {context}", "documents": one.documents, "tokens": one.total_tokens,
                       "fit_a_row": int(fit.sum()), "of_these_cut_by_windows": int((cuts[fit] > 0).sum()),
                       "cuts_windows": int(cuts.sum()), "cuts_best_fit": int(least.sum()),
                       "padding": round(one.layout.padding, 6), "rows": one.layout.rows}


def buckets(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        _, shards = world(options, Path(name))
        for source in ("instructions", "web pages"):
            chosen = shards.labels("source") == shards.label_names("source").index(source)
            lengths = np.minimum(np.diff(shards.offsets)[chosen], 512)
            order = BucketedOrder(lengths, 32 * 512, 0)
            yield {"name": f"{source}, at most 512 tokens", "rows": len(lengths),
                   "padding_to_512": round(1 - float(lengths.mean()) / 512, 4),
                   "padding_random": round(random_padding(lengths, 32, 0), 4),
                   "padding_buckets": round(order.padding, 4)}


def loader(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import torch

    from gristmill.models.families import FAMILIES
    from gristmill.models.spec import ModelSpec
    from gristmill.objectives import CausalLM

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        corpus, shards = world(options, Path(name))
        mixture = Mixture(alpha=0.5)
        for context in (512, 2048):
            config, _ = ModelSpec(depth=6, dim=256, context=context).resolve(shards.vocab_size)
            model = FAMILIES[config.family].body(config)
            model.initialise(0)
            objective = CausalLM()

            def make(part: TokenShards, seed: int, context: int = context) -> Any:
                return text_batches(part, context=context, batch=1, seed=seed)

            sources = {"windows": text_batches(shards, context=context, batch=8, seed=0)}
            sources["best fit"] = text_batches(laid_out(shards, context), context=context, batch=8, seed=0)
            sources["mixture, 16 levels, best fit"] = arrange(
                shards, corpus, "train", context=context, mixture=mixture, packing="best_fit",
                curriculum=Curriculum(by="length")).rows(make, 100_000, 0)
            batch = sources["windows"].rows(np.arange(8))

            def update(model: Any = model, objective: Any = objective, batch: Any = batch) -> None:
                objective.terms(model, batch).sums["loss"].backward()
                model.zero_grad()

            update()
            step = statistics.median(timed(update)[0] for _ in range(3))
            for kind, source in sources.items():
                source.rows(np.arange(8))
                seconds = sum(timed(source.rows, np.arange(8 * i, 8 * i + 8))[0] for i in range(50))
                yield {"name": f"8 rows of {context}, {kind}", "milliseconds": round(seconds / 50 * 1000, 3),
                       "update_milliseconds": round(step * 1000, 1), "share": round(seconds / 50 / step, 5)}


PARTS = {"speed": speed, "text": text, "buckets": buckets, "loader": loader}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get(
        "GRISTMILL_SHARED_DATA", Path(__file__).parents[2] / "shared/data")))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trl", type=Path, help="a folder that holds trl")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}, parts that are not run are kept")
    options = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if options.save and RESULTS.exists() else {}
    for part in options.parts:
        stored[part] = []
        for found in PARTS[part](options):
            stored[part].append(found)
            print(json.dumps(found) if options.json else ", ".join(f"{k}: {v}" for k, v in found.items()), flush=True)
    if options.save:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, cwd=RESULTS.parent)
        stored |= {"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip()}
        RESULTS.write_text(json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
