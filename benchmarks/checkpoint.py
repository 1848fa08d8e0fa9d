"""What a checkpoint costs: writing and reading against plainer ways, and how long training stands still.

    python benchmarks/checkpoint.py [--parts disk stall] [--rounds 5] [--folder FOLDER] [--json] [--save]

Both on one process, one thread and a decoder of 100 M parameters with AdamW (1.2 GB).
disk: seconds to write and read it: `Checkpoints`; safetensors and its checksum one after the other; torch's
`FileSystemWriter` (it pickles, and has no checksum); in turn, each flushed to the disk.
stall: seconds that `save` and `staged` hold up the loop, with copies made while the next update runs (`overlap`) and
before it, beside an update of 4,096 tokens with and without a checkpoint on its way.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from gristmill.core.hashing import digest_file
from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import CausalLM
from gristmill.training import OptimizerConfig, Trainer, TrainingConfig
from gristmill.training.checkpoints import Checkpoints
from gristmill.training.device import prepare
from gristmill.training.parallel import World

RESULTS = Path(__file__).parent / "results" / "checkpoint.json"
CONFIG = DecoderConfig(family="llama", vocab_size=8192, dim=768, layers=13, heads=12, kv_heads=12, head_dim=64,
                       mlp_dim=2048, context=512)
TOKENS, MICRO_ROWS = 4096, 2


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def disk(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    model = Decoder(CONFIG)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    state = {f"{name}/{kind}": torch.rand_like(tensor) for name, tensor in weights.items()
             for kind in ("exp_avg", "exp_avg_sq")}
    tensors = {"model": weights, "optimizer": state}
    size = sum(tensor.nbytes for named in tensors.values() for tensor in named.values())
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        ours = Checkpoints(folder / "ours", World.alone(), keep=1)
        ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "ours": (lambda: ours.save(len(times["ours_write"]), tensors, {}),
                     lambda: ours.load_into(ours.newest(), tensors)),
            "plain": (lambda: plain_write(folder / "plain", tensors), lambda: plain_read(folder / "plain", tensors)),
            "torch": (lambda: torch_write(folder / "torch", tensors), lambda: torch_read(folder / "torch", tensors)),
        }
        times = {f"{name}_{what}": [] for name in ways for what in ("write", "read")}
        names = list(ways)
        for turn in range(options.rounds + 1):
            # Whoever writes after another one's old files were deleted finds memory at hand: all have each place.
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                for what, work in zip(("write", "read"), ways[name], strict=True):
                    times[f"{name}_{what}"].append(seconds(work))
        times = {name: values[1:] for name, values in times.items()}  # the first time finds nothing to delete
    middle = {name: statistics.median(values) for name, values in times.items()}
    for what in ("write", "read"):
        for peer, name in (("plain", "safetensors, then SHA-256"), ("torch", f"torch {torch.__version__} DCP")):
            mine, theirs = middle[f"ours_{what}"], middle[f"{peer}_{what}"]
            yield {"name": f"{what} {size / 1e9:.2f} GB", "peer": name, "ours": round(mine, 3),
                   "theirs": round(theirs, 3), "unit": "s", "ratio": round(theirs / mine, 3), "runs": options.rounds}


def plain_write(folder: Path, tensors: dict[str, dict[str, torch.Tensor]]) -> None:
    new = folder.with_name(f"{folder.name}.new")
    new.mkdir()
    sums = {}
    for group, named in tensors.items():
        path = new / f"{group}.safetensors"
        save_file(named, path)
        sums[group] = digest_file(path)
        flush(path)
    (new / "sums.json").write_text(json.dumps(sums))
    replace(new, folder)


def plain_read(folder: Path, tensors: dict[str, dict[str, torch.Tensor]]) -> None:
    for group, digest in json.loads((folder / "sums.json").read_text()).items():
        path = folder / f"{group}.safetensors"
        assert digest_file(path) == digest
        for name, tensor in load_file(path).items():
            tensors[group][name].copy_(tensor)


def torch_write(folder: Path, tensors: dict[str, dict[str, torch.Tensor]]) -> None:
    new = folder.with_name(f"{folder.name}.new")
    dcp.save(dict(tensors), checkpoint_id=new)
    for path in new.iterdir():
        flush(path)
    replace(new, folder)


def torch_read(folder: Path, tensors: dict[str, dict[str, torch.Tensor]]) -> None:
    dcp.load(dict(tensors), checkpoint_id=folder)


def replace(new: Path, old: Path) -> None:
    """The old one goes when the new one is there, as it has to."""
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class Windows:
    def window(self, step: int) -> list[dict[str, torch.Tensor]]:
        ids = torch.randint(CONFIG.vocab_size, (TOKENS // CONFIG.context, CONFIG.context + 1),
                            generator=torch.Generator().manual_seed(step))
        return [{"input_ids": part[:, :-1].contiguous(), "targets": part[:, 1:].contiguous()}
                for part in ids.split(MICRO_ROWS)]


def stall(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    compute = prepare(Runtime(device="cpu", threads=1))
    model = Decoder(CONFIG)
    model.initialise(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        trainer = Trainer(model=model, objective=CausalLM(), source=Windows(), steps=10**6, compute=compute,
                          folder=Path(place), checkpoints=Path(place) / "checkpoints",
                          config=TrainingConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=1e-4)))
        held = trainer.saves
        waiting: list[float] = []
        staged = held.staged

        def timed_staged() -> None:
            waiting.append(seconds(staged))

        held.staged = timed_staged  # type: ignore[method-assign]
        times: dict[str, list[float]] = {}
        for turn in range(options.rounds + 1):
            for kind in ("none", "overlap", "before"):
                began = time.perf_counter()
                if kind != "none":
                    tensors = {"model": trainer.state(), "optimizer": trainer.optimizer.tensors(trainer.names)}
                    held.save(trainer.step, tensors, {}, overlap=kind == "overlap")
                blocked = time.perf_counter() - began
                waiting.clear()
                trainer.advance(trainer.source.window(trainer.step))
                whole = time.perf_counter() - began
                if turn:  # the first time makes buffers
                    times.setdefault(f"{kind}_update", []).append(whole)
                    times.setdefault(f"{kind}_blocked", []).append(blocked + sum(waiting))
                held.wait()
    middle = {name: statistics.median(values) for name, values in times.items()}
    for kind in ("overlap", "before"):
        yield {"name": f"stall of a checkpoint, copies made {'while the update runs' if kind == 'overlap' else kind}",
               "parameters": sum(p.numel() for p in model.parameters()), "tokens": TOKENS,
               "blocked": round(middle[f"{kind}_blocked"], 4), "update": round(middle["none_update"], 3),
               "update_with_checkpoint": round(middle[f"{kind}_update"], 3), "unit": "s",
               "share": round(middle[f"{kind}_blocked"] / middle["none_update"], 5), "runs": options.rounds}


PARTS = {"disk": disk, "stall": stall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--folder", type=Path, help="where to write; default the system's temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}, parts that are not run are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
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
