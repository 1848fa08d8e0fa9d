"""Near-duplicate search beside datatrove's MinHash on the same documents, and what it finds against brute force.

    python benchmarks/data_dedup.py [--parts speed planted templates curve hashing scale] [--peer VENV/bin/python]
        [--data shared/data] [--rounds 5] [--json] [--save]

speed: CPU seconds from a JSONL file to clusters, ours and datatrove 0.10.1 (14 bands of 8 hashes, word 5-grams, sha1,
one worker), taking turns. planted: precision and recall of copies edited at several rates against brute force over all
pairs. templates: distinct documents of one template, ours and character 5-grams with transitive closure. curve: how
often a pair becomes a candidate, against theory. hashing: independent permutations and one-permutation hashing, error
and speed. scale: seconds and memory from 2,000 to 32,000 documents.

--peer needs a virtual environment with `datatrove[io,processing]==0.10.1`, `spacy` and `xxhash<4`.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gristmill.data.dedup.clusters import components
from gristmill.data.dedup.fingerprints import Fingerprints, fingerprints
from gristmill.data.dedup.minhash import EMPTY, PERMUTATIONS, banding, candidate_chance, smallest
from gristmill.data.dedup.near import near_duplicates
from gristmill.data.dedup.shingles import grams, jaccard, shingles
from gristmill.data.dedup.texts import BATCH, ListedTexts, ParquetTexts
from gristmill.data.dedup.words import mix, split_words

THRESHOLD = 0.8
RESULTS = Path(__file__).parent / "results" / "data_dedup.json"

PEER = '''
import sys, time, tempfile
from loguru import logger
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import load_word_tokenizer
from datatrove.utils.typeshelper import Languages
from datatrove.pipeline.dedup.minhash import MinhashDedupFilter
from importlib.metadata import version
folder = sys.argv[1]
hashing = HashConfig(hash_fc="sha1", precision=64)
config = MinhashConfig(hash_config=hashing, n_grams=5, num_buckets=14, hashes_per_bucket=8)
logger.remove()
load_word_tokenizer(Languages.english).word_tokenize("warm up")
print(version("datatrove"), flush=True)
for _ in sys.stdin:
    with tempfile.TemporaryDirectory() as work:
        began = time.process_time()
        reader = JsonlReader(folder, glob_pattern="*.jsonl")
        MinhashDedupSignature(f"{work}/sigs", config=config, language=Languages.english).run(reader.run(), 0, 1)
        for rank in range(14):
            MinhashDedupBuckets(f"{work}/sigs", f"{work}/buckets", config=config).run(None, rank, 14)
        MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config).run(None, 0, 1)
        seconds = time.process_time() - began
        keep = MinhashDedupFilter(f"{work}/remove")
        left = [d.id for d in keep.run(JsonlReader(folder, glob_pattern="*.jsonl").run(), 0, 1)]
        print(seconds, *left, flush=True)
'''


def documents(data: Path) -> list[str]:
    """700 stretches of 3,200 characters of novels and 300 web texts, as they come."""
    texts = []
    with tarfile.open(data / "text/novels_60.tar.xz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            text = file.read().decode("utf-8-sig", "replace").replace("\r\n", "\n") if file else ""
            texts += [text[at : at + 3200] for at in range(20_000, min(len(text) - 3200, 60_000), 3200)]
    with gzip.open(data / "text/c4_demo_300.jsonl.gz", "rt", encoding="utf-8") as lines:
        web = [json.loads(line)["text"] for line in lines]
    return random.Random(0).sample(texts, 700) + web


def edited(text: str, rate: float, seed: int) -> str:
    """A copy with a share of its words replaced, dropped or doubled."""
    chosen, words = random.Random(seed), text.split(" ")
    kinds: list[Callable[[str], list[str]]] = [lambda w: [w[::-1] + "x"], lambda w: [], lambda w: [w, w]]
    return " ".join(out for word in words for out in (chosen.choice(kinds)(word) if chosen.random() < rate else [word]))


def planted(texts: list[str], count: int, rate: float) -> list[str]:
    """The texts and edited copies of the first `count` of them."""
    return texts + [edited(texts[number], rate, number) for number in range(count)]


def search(texts: list[str], threshold: float = THRESHOLD) -> set[int]:
    """Ours: numbers of the documents that go."""
    found = near_duplicates([fingerprints(texts, threshold)], ListedTexts(texts), np.arange(len(texts)), threshold)
    return set(found.gone.tolist())


def speed(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Both sides read one JSONL file, shingle, hash, find candidates and cluster; ours verifies as well."""
    texts = documents(options.data)
    rows = planted(texts, 100, 0.005)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.jsonl"
        path.write_text("".join(json.dumps({"id": str(n), "text": t}) + "\n" for n, t in enumerate(rows)), "utf-8")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        peer = subprocess.Popen([options.peer, "-c", PEER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=None if options.verbose else subprocess.DEVNULL, text=True, env=environment)
        assert peer.stdin
        assert peer.stdout
        version = peer.stdout.readline().strip()
        times: list[tuple[float, float]] = []
        for turn in range(options.rounds + 1):  # the first warms both up
            began = time.process_time()
            with path.open(encoding="utf-8") as lines:
                read = [json.loads(line)["text"] for line in lines]
            gone = search(read)
            mine = time.process_time() - began
            peer.stdin.write("\n")
            peer.stdin.flush()
            answer = peer.stdout.readline().split()
            left = {int(number) for number in answer[1:]}
            if turn:
                times.append((len(rows) / mine, len(rows) / float(answer[0])))
        peer.stdin.close()
        peer.wait()
    mine, theirs = (statistics.median(side) for side in zip(*times, strict=True))
    yield {
        "name": f"MinHash, JSONL to clusters, {len(rows)} documents of {sum(map(len, rows)) // len(rows)} characters",
        "peer": "datatrove", "peer_version": version, "ours": round(mine), "theirs": round(theirs, 1),
        "unit": "documents/s of CPU", "ratio": round(statistics.median(a / b for a, b in times), 1),
        "runs": options.rounds, "spread": [round(f(a / b for a, b in times), 1) for f in (min, max)],
        "removed": {"ours": len(gone), "theirs": len(rows) - len(left)},
        "originals_without_a_survivor": {
            "ours": sum({n, 1000 + n} <= gone for n in range(100)),
            "theirs": sum(not {n, 1000 + n} & left for n in range(100)),
        },
    }


def quality(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Against brute force over all pairs: every pair at or above the threshold, whether planted or not."""
    texts = documents(options.data)[300:800]
    for rate in (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15):
        rows = planted(texts, 250, rate)
        sets = [shingles(text) for text in rows]
        postings: dict[int, list[int]] = {}
        for number, values in enumerate(sets):
            for value in values.tolist():
                postings.setdefault(value, []).append(number)
        sharing = {(a, b) for where in postings.values() if len(where) > 1 for a in where for b in where if a < b}
        truth = {(a, b) for a, b in sharing if jaccard(sets[a], sets[b]) >= THRESHOLD}
        found = near_duplicates([fingerprints(rows, THRESHOLD)], ListedTexts(rows), np.arange(len(rows)), THRESHOLD)
        pairs = {(min(p), max(p)) for p in found.pairs.tolist()}
        yield {
            "name": f"planted copies, {rate:.1%} of words edited", "mean_jaccard": round(float(np.mean(
                [jaccard(sets[n], sets[500 + n]) for n in range(250)])), 3),
            "above_threshold": len(truth), "precision": round(len(pairs & truth) / len(pairs), 4) if pairs else None,
            "recall": round(len(pairs & truth) / len(truth), 4) if truth else None, "compared": found.examined,
        }


def templated(count: int, facts: int, seed: int) -> list[str]:
    """Distinct reports of one template: 300 words, of which `facts` say something of their own."""
    chosen = random.Random(seed)
    frame = ["".join(chosen.choices("abcdefghijklmnoprstuvw", k=chosen.randrange(2, 9))) for _ in range(300)]
    slots = sorted(chosen.sample(range(300), facts))
    texts = []
    for _ in range(count):
        words = list(frame)
        for slot in slots:
            name = "".join(chosen.choices("aeioulmnrst", k=6))
            words[slot] = str(chosen.randrange(10**5)) if chosen.random() < 0.5 else name
        texts.append(" ".join(words))
    return texts


def characters_and_closure(texts: list[str], threshold: float) -> set[int]:
    """Character 5-grams, candidates by Jaccard at the threshold, whole connected components but one member removed."""
    sets = [np.unique([hash(text[at : at + 5]) for at in range(len(text) - 4)]) for text in texts]
    pairs = [(a, b) for a in range(len(texts)) for b in range(a + 1, len(texts))
             if len(np.intersect1d(sets[a], sets[b])) / len(np.union1d(sets[a], sets[b])) >= threshold]
    root = components(len(texts), np.array(pairs, np.int64).reshape(-1, 2))
    return set(np.flatnonzero(root != np.arange(len(texts))).tolist())


def templates(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """How many of 100 distinct documents of one template are removed, by how many of 300 words are their own."""
    for facts in (3, 6, 7, 9, 15, 30, 60):
        texts = templated(100, facts, facts)
        yield {"name": f"100 distinct documents of one template, {facts} of 300 words differ", "threshold": THRESHOLD,
               "ours_removed": len(search(texts)),
               "characters_and_closure_removed": len(characters_and_closure(texts, THRESHOLD))}


def curve(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Pairs of random sets of 400 numbers with known similarity."""
    bands, rows = banding(THRESHOLD)
    chosen = np.random.default_rng(0)
    for similarity in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        left, right, truth = random_pairs(chosen, 2000, 400, similarity)
        a, b = minima(left), minima(right)
        same = (a[:, : bands * rows] == b[:, : bands * rows]).reshape(-1, bands, rows).all(axis=2).any(axis=1)
        yield {"name": f"pairs of Jaccard {truth:.3f} that become candidates ({bands} bands of {rows})",
               "measured": round(float(same.mean()), 4), "theory": round(candidate_chance(truth, bands, rows), 4)}


def random_pairs(
    chosen: np.random.Generator, pairs: int, size: int, similarity: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Two (pairs, size) uint64 arrays of sets of random numbers, and the Jaccard similarity of each pair."""
    shared = round(2 * size * similarity / (1 + similarity))
    values = mix(chosen.integers(0, 1 << 63, (pairs, 2 * size - shared), dtype=np.uint64))
    return values[:, :size], values[:, size - shared :], shared / (2 * size - shared)


def minima(sets: np.ndarray) -> np.ndarray:
    """(sets, PERMUTATIONS) of (sets, size) numbers."""
    return smallest((sets.ravel() >> np.uint64(32)).astype(np.uint32), np.arange(len(sets) + 1) * sets.shape[1])


def one_permutation(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(sets, PERMUTATIONS): the smallest number in each of the bins of one hash; empty bins borrow from others.

    Li, Owen and Zhang 2012; optimal densification: Shrivastava 2017, algorithm 2.
    """
    count, bits = len(offsets) - 1, PERMUTATIONS.bit_length() - 1
    found = np.full(count * PERMUTATIONS, EMPTY)
    owner = np.repeat(np.arange(count) * PERMUTATIONS, np.diff(offsets))
    np.minimum.at(found, owner + (values >> np.uint32(32 - bits)), values << np.uint32(bits))
    found = found.reshape(count, PERMUTATIONS)
    dense, empty, attempt = found.copy(), found == EMPTY, 0
    rows, bins = np.nonzero(empty & ~empty.all(axis=1, keepdims=True))
    while len(rows):
        attempt += 1
        asked = (mix((bins + (attempt << 20)).astype(np.uint64)) & np.uint64(PERMUTATIONS - 1)).astype(np.int64)
        filled = ~empty[rows, asked]
        dense[rows[filled], bins[filled]] = found[rows[filled], asked[filled]]
        rows, bins = rows[~filled], bins[~filled]
    return dense


def hashing(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Bias and root mean square error of the estimated similarity, and CPU time from shingles to signatures."""
    chosen = np.random.default_rng(1)
    for size in (30, 300, 3000):
        for similarity in (0.5, 0.8):
            pairs = 4000 if size < 1000 else 600
            left, right, truth = random_pairs(chosen, pairs, size, similarity)
            offsets, error = np.arange(pairs + 1) * size, {}
            for name, method in (("independent", smallest), ("one_permutation", one_permutation)):
                a, b = (method((s.ravel() >> np.uint64(32)).astype(np.uint32), offsets) for s in (left, right))
                difference = (a == b).mean(axis=1) - truth
                error[name] = {"bias": round(float(difference.mean()), 4),
                               "rmse": round(float(np.sqrt((difference**2).mean())), 4)}
            yield {"name": f"{size} shingles, Jaccard {truth:.3f}", **error,
                   "theory_rmse": round((truth * (1 - truth) / PERMUTATIONS) ** 0.5, 4)}
    texts = documents(options.data)
    words = [split_words(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
    sets = [grams(batch, 5) for batch in words]
    parts = {
        "words": lambda: [split_words(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)],
        "shingles": lambda: [grams(batch, 5) for batch in words],
        "independent": lambda: [smallest((v >> np.uint64(32)).astype(np.uint32), o) for v, o in sets],
        "one_permutation": lambda: [one_permutation((v >> np.uint64(32)).astype(np.uint32), o) for v, o in sets],
    }
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(9):
        for name, run in parts.items():
            began = time.process_time()
            run()
            spent[name].append((time.process_time() - began) / len(texts) * 1e6)
    medians = {name: round(statistics.median(times), 1) for name, times in spent.items()}
    yield {"name": "microseconds of CPU a document of 3 kB", **medians}


def scale(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """CPU time and memory against the number of documents, each size in a process of its own, texts on disk."""
    for count in (2000, 8000, 32_000):
        done = subprocess.run([sys.executable, __file__, "--data", str(options.data), "--one-scale", str(count)],
                              check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        yield json.loads(done.stdout)


def one_scale(options: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, count, unit = documents(options.data), options.one_scale, 1000
    with tempfile.TemporaryDirectory() as name:
        folder, spent = Path(name), {"fingerprints": 0.0, "search": 0.0}
        paths = [folder / f"{number:05d}.parquet" for number in range(count // unit)]
        for number, path in enumerate(paths):
            # New documents of shuffled paragraphs of words, a tenth of them near-copies of what came before.
            chosen = random.Random(number)
            rows = [" ".join(chosen.sample(words := text.split(" "), len(words))) for text in texts]
            rows[:100] = [edited(row, 0.01, number) for row in rows[100:200]]
            pq.write_table(pa.table({"text": rows}), path)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in paths:
            rows = pq.read_table(path)["text"].to_pylist()
            began = time.process_time()
            fingerprints(rows, THRESHOLD).save(path.with_suffix(".near"))
            spent["fingerprints"] += time.process_time() - began
        began = time.process_time()
        parts = [Fingerprints.load(path.with_suffix(".near")) for path in paths]
        found = near_duplicates(parts, ParquetTexts(paths), np.arange(count), THRESHOLD, folder=folder)
        spent["search"] = time.process_time() - began
        size = sum(path.with_suffix(".near").stat().st_size for path in paths)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "name": f"{count} documents", "removed": len(found.gone),
        "seconds": {key: round(value, 2) for key, value in spent.items()},
        "documents_per_second": round(count / sum(spent.values())), "peak_mb": peak >> 10,
        "growth_mb": (peak - base) >> 10, "bytes_on_disk_per_document": round(size / count),
    }))


PARTS = {"speed": speed, "planted": quality, "templates": templates, "curve": curve, "hashing": hashing, "scale": scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--peer", default="python", help="the Python that has datatrove")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get(
        "GRISTMILL_SHARED_DATA", Path(__file__).parents[2] / "shared/data")))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name}, parts that are not run are kept")
    parser.add_argument("--verbose", action="store_true", help="show what the peer says")
    parser.add_argument("--one-scale", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_scale:
        one_scale(options)
        return
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
