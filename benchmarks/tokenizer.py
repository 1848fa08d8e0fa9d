"""Training and encoding beside tokenizers, tiktoken and rustbpe: one process, taking turns, CPU time, medians.

    python benchmarks/tokenizer.py --texts FOLDER [--rounds 3] [--json] [--store benchmarks/results/tokenizer.json]

FOLDER holds .txt files (here 45 MB, 60 novels); they are cut into documents of 3,000 characters. RAYON_NUM_THREADS is
set to 1 unless it is set already, so that CPU time is the time of one core. Vocabulary 8,192. Every encoder must give
the same ids, or the run stops. The slow encoders read the first 6 MB only, the same in every round.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAYON_NUM_THREADS", "1")

import argparse
import datetime
import importlib.metadata
import json
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gristmill.core.artifact import Artifact
from gristmill.core.files import write_json
from gristmill.data.documents import Document, row, write_shard
from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.alphabet import bytes_of
from gristmill.tokenizer.splits import PATTERNS
from gristmill.tokenizer.train import SPECIAL_TOKENS, Plan, train
from gristmill.tokens.materialise import materialise

VOCABULARY = 8192
SLOW_BYTES = 6_000_000
DOCUMENT = 3000


def documents(folder: Path) -> list[str]:
    texts = [path.read_text(encoding="utf-8-sig").replace("\r\n", "\n") for path in sorted(folder.rglob("*.txt"))]
    return [text[i:i + DOCUMENT] for text in texts for i in range(0, len(text), DOCUMENT)]


def batches(texts: list[str]) -> list[list[str]]:
    return [texts[i:i + 200] for i in range(0, len(texts), 200)]


def rates(ways: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, dict[str, Any]]:
    """Name -> MB/s by CPU time: the median, the least and the most, each way once a round. ways: (call, bytes)."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (call, size) in ways.items():
            began = time.process_time()
            call()
            found[name].append(size / 1e6 / (time.process_time() - began))
    return {name: {"mb_per_second": round(statistics.median(all_), 2), "from": round(min(all_), 2),
                   "to": round(max(all_), 2)} for name, all_ in found.items()}


def training(texts: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    size = sum(len(text.encode()) for text in texts)
    plans = {"tokenizers": Plan(vocab_size=VOCABULARY), "ours, trainer: fast": Plan(vocab_size=VOCABULARY, fast=True)}
    return rates({name: (lambda plan=plan: train(batches(texts), plan), size) for name, plan in plans.items()}, rounds)


def encoding(tokenizer: Tokenizer, split: str, texts: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    import tiktoken
    import tokenizers

    size, part = sum(len(text.encode()) for text in texts), []
    for text in texts:
        part.append(text)
        if len(part) * DOCUMENT > SLOW_BYTES:
            break
    less = sum(len(text.encode()) for text in part)
    specials = len(SPECIAL_TOKENS)
    ranks = {bytes_of(tokenizer.token_name(i)): i - specials for i in range(specials, VOCABULARY)}
    peer = tiktoken.Encoding("peer", pat_str=PATTERNS[split], mergeable_ranks=ranks, special_tokens={})
    library = tokenizers.Tokenizer.from_str(tokenizer.specification)
    library.encode_special_tokens = True

    def cold() -> None:
        Tokenizer(tokenizer.specification, tokenizer.config)._fast[0].encode(texts)

    warm = tokenizer._fast[0]
    assert warm is not None, tokenizer.engine
    flat = warm.encode(part)[0]
    slow = [encoding.ids for encoding in library.encode_batch_fast(part, add_special_tokens=False)]
    assert flat.tolist() == [i for ids in slow for i in ids], "tokenizers gives other ids"
    assert flat.tolist() == [i + specials for text in part for i in peer.encode_ordinary(text)], "tiktoken differs"
    return rates({
        "tokenizers": (lambda: library.encode_batch_fast(part, add_special_tokens=False), less),
        "tiktoken": (lambda: peer.encode_ordinary_batch(part, num_threads=1), less),
        "tiktoken, numpy": (lambda: [peer.encode_to_numpy(text) for text in part], less),
        "ours, opened anew": (cold, size),
        "ours": (lambda: tokenizer.encode_flat(texts), size),
    }, rounds)


def shards(tokenizer: Tokenizer, texts: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Parquet to token shards, with and without the fast encoder; without it, on a part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways: dict[str, tuple[Callable[[], Any], int]] = {}
        for label, some in (("tokenizers", texts[:SLOW_BYTES // DOCUMENT]), ("ours", texts)):
            rows = [row(Document(id=f"d/{i}", text=text, source="s"), split="train") for i, text in enumerate(some)]
            write_shard(folder / label / "documents" / "train-00000.parquet", rows)
            corpus = Artifact(folder / label, {"kind": "corpus", "name": "c", "digest": label, "version": 1})

            def run(label: str = label, corpus: Artifact = corpus) -> None:
                fresh = Tokenizer(tokenizer.specification, tokenizer.config)
                if label == "tokenizers":
                    fresh.__dict__["_fast"] = (None, "off")
                materialise(corpus, fresh, "train", folder / f"cache-{time.perf_counter_ns()}")

            ways[label] = (run, sum(len(text.encode()) for text in some))
        return rates(ways, rounds)


def quality(texts: list[str]) -> list[dict[str, Any]]:
    """Bytes per token of each split on held-out prose and code, each trained on half of a mixture of both."""
    root = Path(sysconfig.get_paths()["stdlib"])
    code = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(root.glob("*.py"))]
    prose = texts[::max(1, len(texts) // 1200)]
    fitted = [*code[::2], *prose[::2]]
    found = []
    for name, plan in {
        "words, digits: single (default)": Plan(vocab_size=VOCABULARY),
        "words, digits: groups": Plan(vocab_size=VOCABULARY, split="llama-bpe"),
        "gpt2": Plan(vocab_size=VOCABULARY, split="gpt-2"),
        "identifiers": Plan(vocab_size=VOCABULARY, finer=("identifiers",)),
        "whitespace: single": Plan(vocab_size=VOCABULARY, finer=("whitespace",)),
        "default, trainer: fast": Plan(vocab_size=VOCABULARY, fast=True),
        "unigram": Plan(vocab_size=VOCABULARY, method="unigram"),
    }.items():
        tokenizer = train(batches(fitted), plan)
        found.append({"split": name, **{
            kind: round(sum(len(t.encode()) for t in held) / len(tokenizer.encode_flat(held)[0]), 4)
            for kind, held in (("prose", prose[1::2]), ("code", code[1::2]))}})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--skip", nargs="*", default=[], choices=["training", "quality"])
    settings = parser.parse_args()
    texts = documents(settings.texts)
    size = sum(len(text.encode()) for text in texts)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                                 check=False).stdout.strip(),
        "threads": int(os.environ["RAYON_NUM_THREADS"]), "bytes": size, "documents": len(texts),
        "rounds": settings.rounds,
        "versions": {name: importlib.metadata.version(name)
                     for name in ("tokenizers", "tiktoken", "gigatoken", "rustbpe")},
    }
    comparisons = []

    def compare(name: str, found: dict[str, dict[str, Any]], ours: str, peer: str) -> None:
        comparisons.append({
            "name": name, "peer": peer, "peer_version": result["versions"].get(peer.split(",")[0]),
            "ours": found[ours]["mb_per_second"], "theirs": found[peer]["mb_per_second"], "unit": "MB/s of CPU time",
            "ratio": round(found[ours]["mb_per_second"] / found[peer]["mb_per_second"], 2), "runs": settings.rounds})
        if settings.store:  # after each part: a run that is stopped keeps what it measured
            write_json(settings.store, {**result, "comparisons": comparisons})

    tokenizer = train(batches(texts), Plan(vocab_size=VOCABULARY, fast=True))
    assert not np.setdiff1d(tokenizer.encode_flat(texts[:9])[0], np.arange(VOCABULARY)).size
    result["encoding"] = encoding(tokenizer, "qwen2", texts, settings.rounds)
    compare("encode, opened anew", result["encoding"], "ours, opened anew", "tiktoken")
    compare("encode", result["encoding"], "ours", "tiktoken")
    compare("encode", result["encoding"], "ours", "tokenizers")
    result["shards"] = shards(tokenizer, texts, settings.rounds)
    compare("Parquet to token shards", result["shards"], "ours", "tokenizers")
    if "training" not in settings.skip:
        result["training"] = training(texts, settings.rounds)
        compare("BPE training, 8,192 entries", result["training"], "ours, trainer: fast", "tokenizers")
    if "quality" not in settings.skip:
        result["bytes_per_token"] = quality(texts)
    result["comparisons"] = comparisons
    if settings.store:
        write_json(settings.store, result)
    for one in comparisons:
        said = (f"{one['name']:32} {one['ours']:9} against {one['theirs']:8} {one['unit']} ({one['peer']}): "
                f"{one['ratio']} x")
        print(json.dumps(one) if settings.json else said)


if __name__ == "__main__":
    main()
