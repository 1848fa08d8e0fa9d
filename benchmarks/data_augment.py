"""Does augmentation help a classifier that has few examples, and how fast are the methods that need no model?

    python benchmarks/data_augment.py [--data shared/data] [--wordnet FOLDER] [--rows 50 200] [--seeds 10] [--json]
        [--out FILE]

For spam (sms_spam) and sentiment (the first 1,000 characters of movie_reviews): a few training rows, the same with made
copies, and, as a control, the same with plain copies (what a weaker penalty would give). Features: TF-IDF of words and
word bigrams; model: logistic regression with the L2 penalty that three-fold cross-validation chooses (a row and its
copies are never on both sides). Tested on 1,000 other rows, the same for every variant of a seed. Reported: the mean,
and the paired difference from no augmentation with its 95 % interval. Speed is CPU seconds of one thread. Without
--wordnet there are no synonyms.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import gzip
import itertools
import json
import math
import os
import platform
import random
import re
import statistics
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from gristmill.data.augment import wordnet
from gristmill.data.augment.edits import Edits, edited
from gristmill.data.augment.method import Original
from gristmill.data.augment.synonyms import Synonyms, replaced
from gristmill.data.augment.thesaurus import Thesaurus, WordCounts, count_words, from_wordnet

ROOT = Path(__file__).parents[1]
PENALTIES = (1e-4, 1e-3, 1e-2)
Rows = list[tuple[str, int]]


def spam(data: Path) -> Rows:
    """(text, is it spam?)"""
    with gzip.open(data / "classification" / "sms_spam.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [(text, int(label == "spam")) for label, text in rows]


def movies(data: Path) -> Rows:
    """(review, is it good?)"""
    with zipfile.ZipFile(data / "classification" / "movie_reviews.zip") as archive:
        return [(archive.read(name).decode("utf-8")[:1000], int("/pos/" in name))
                for name in sorted(archive.namelist()) if name.endswith(".txt") and "/cv" in name]


class Classifier:
    """Logistic regression on TF-IDF of words and word bigrams."""

    def __init__(self, rows: Rows, penalty: float) -> None:
        frequency = collections.Counter(term for text, _ in rows for term in set(terms(text)))
        self.places = {term: i for i, term in enumerate(sorted(frequency))}
        self.idf = np.array([math.log((1 + len(rows)) / (1 + frequency[term])) + 1 for term in self.places])
        x, y = self.features([text for text, _ in rows]), torch.tensor([float(label) for _, label in rows])
        weight = torch.zeros(len(self.places) + 1, requires_grad=True)
        # Both classes weigh the same, so that the rare one counts.
        share = y.mean().clamp(1e-6, 1 - 1e-6)
        of = torch.where(y > 0, 0.5 / share, 0.5 / (1 - share))
        optimizer = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            logits = torch.sparse.mm(x, weight[:-1, None])[:, 0] + weight[-1]
            value = (torch.nn.functional.binary_cross_entropy_with_logits(logits, y, of)
                     + penalty * weight[:-1].square().sum())
            value.backward()
            return value

        optimizer.step(loss)
        self.weight = weight.detach()

    def features(self, texts: list[str]) -> torch.Tensor:
        """Sparse (texts, terms), each row of length 1."""
        rows, columns, values = [], [], []
        for number, text in enumerate(texts):
            counts = collections.Counter(self.places[term] for term in terms(text) if term in self.places)
            found = np.array([count * self.idf[place] for place, count in counts.items()])
            rows += [number] * len(counts)
            columns += list(counts)
            values += (found / max(np.linalg.norm(found), 1e-9)).tolist()
        return torch.sparse_coo_tensor(torch.tensor([rows, columns]), torch.tensor(values, dtype=torch.float32),
                                       (len(texts), len(self.places)), check_invariants=False).coalesce()

    def macro_f1(self, rows: Rows) -> float:
        """The mean of the F1 scores of both classes."""
        logits = torch.sparse.mm(self.features([text for text, _ in rows]), self.weight[:-1, None])[:, 0]
        said, true = (logits + self.weight[-1] > 0).numpy(), np.array([label for _, label in rows]) > 0
        scores = []
        for a, b in ((said, true), (~said, ~true)):
            hits = int((a & b).sum())
            scores.append(2 * hits / max(int(a.sum()) + int(b.sum()), 1))
        return statistics.mean(scores)


@functools.lru_cache(maxsize=20_000)
def terms(text: str) -> list[str]:
    """Words and pairs of neighbours, lower-case."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return words + [f"{a} {b}" for a, b in itertools.pairwise(words)]


def fitted(groups: list[Rows]) -> Classifier:
    """Trained on all rows with the penalty that is best over three parts; a group (a row and its copies) is one."""
    scores = dict.fromkeys(PENALTIES, 0.0)
    for fold in range(3):
        train = [row for number, group in enumerate(groups) if number % 3 != fold for row in group]
        held = [group[0] for number, group in enumerate(groups) if number % 3 == fold]
        for penalty in PENALTIES:
            scores[penalty] += Classifier(train, penalty).macro_f1(held)
    best = max(PENALTIES, key=lambda penalty: scores[penalty])
    return Classifier([row for group in groups for row in group], best)


def variants(rows: Rows, seed: int, thesaurus: Thesaurus | None, copies: int) -> dict[str, list[Rows]]:
    """Name -> for each row it and its copies."""
    counts = count_words([text for text, _ in rows])
    words = WordCounts(sum(counts.values()), counts)
    originals = [Original(str(number), text, "en") for number, (text, _) in enumerate(rows)]
    range_ = range(1, copies + 1)

    def grouped(make: Any) -> list[Rows]:
        return [[row, *((make(original, copy), row[1]) for copy in range_)]
                for row, original in zip(rows, originals, strict=True)]

    found = {"none": [[row] for row in rows], "plain copies": grouped(lambda original, copy: original.text)}
    for alpha in (0.1, 0.3):
        method = Edits(insertion=alpha, deletion=alpha, swap=alpha)
        found[f"edits, rate {alpha}"] = grouped(
            lambda original, copy, method=method: edited(original, method, "edits", copy, seed).text)
    if thesaurus is not None:
        for rate in (0.1, 0.3):
            replacing = Synonyms(rate=rate, least_count=0, most_frequent=0.005)
            found[f"synonyms, rate {rate}"] = grouped(lambda original, copy, method=replacing: replaced(
                original, method, "synonyms", copy, seed, thesaurus, words).text)
    return found


def measure(rows: Rows, size: int, seeds: int, thesaurus: Thesaurus | None, copies: int) -> dict[str, list[float]]:
    """Variant -> macro F1 on 1,000 rows, one value a seed."""
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        mixed = random.Random(seed).sample(rows, len(rows))
        by_label = [[row for row in mixed if row[1] == label] for label in (0, 1)]
        train = [row for pair in zip(*(part[: size // 2] for part in by_label), strict=True) for row in pair]
        chosen = set(map(id, train))
        test = [row for row in mixed if id(row) not in chosen][:1000]
        for name, groups in variants(train, seed, thesaurus, copies).items():
            scores.setdefault(name, []).append(fitted(groups).macro_f1(test))
    return scores


def speed(texts: list[str], thesaurus: Thesaurus | None) -> dict[str, float]:
    """MB of text a CPU second."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    originals = [Original(str(number), text, "en") for number, text in enumerate(texts)]
    counts = count_words(texts)
    words = WordCounts(sum(counts.values()), counts)
    tasks = {"edits": lambda one: edited(one, Edits(), "edits", 1, 1)}
    if thesaurus is not None:
        tasks["synonyms"] = lambda one: replaced(one, Synonyms(), "synonyms", 1, 1, thesaurus, words)
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(3):
        for name, task in tasks.items():
            start = time.process_time()
            for one in originals:
                task(one)
            found[name].append(size / (time.process_time() - start))
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def tell(found: dict[str, Any], as_json: bool) -> None:
    """Print one result."""
    print(json.dumps(found) if as_json or "variant" not in found else
          f"{found['name']:8} {found['rows']:4} rows  {found['variant']:20} {found['macro_f1']:.4f}  "
          f"{found['gain']:+.4f} ± {found['interval']:.4f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--wordnet", help="a WordNet (folder or WN-LMF file); without it synonyms are left out")
    parser.add_argument("--rows", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--sets", nargs="+", default=["spam", "movies"], choices=["spam", "movies"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    thesaurus = None
    if options.wordnet:
        thesaurus = Thesaurus(from_wordnet(wordnet.read_wordnet(wordnet.find(options.wordnet)), 1))
    results: list[dict[str, Any]] = []
    for name in options.sets:
        rows = {"spam": spam, "movies": movies}[name](options.data)
        if name == "movies":
            for method, rate in speed([text for text, _ in rows[:400]], thesaurus).items():
                results.append({"name": f"speed of {method}", "unit": "MB/s per core", "ours": rate})
                tell(results[-1], options.json)
        for size in options.rows:
            scores = measure(rows, size, options.seeds, thesaurus, options.copies)
            for variant, values in scores.items():  # told at once: the whole takes a while
                gains = [a - b for a, b in zip(values, scores["none"], strict=True)]
                wide = float(stats.t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains)))
                results.append({
                    "name": name, "rows": size, "copies": options.copies, "variant": variant, "seeds": options.seeds,
                    "macro_f1": round(statistics.mean(values), 4), "gain": round(statistics.mean(gains), 4),
                    "interval": round(wide, 4)})
                tell(results[-1], options.json)
    if options.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                                check=False).stdout.strip()
        options.out.write_text(json.dumps({
            "date": datetime.date.today().isoformat(), "commit": commit, "processor": platform.processor(),
            "cores": os.cpu_count(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
