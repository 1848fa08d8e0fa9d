"""Main content from HTML beside trafilatura and resiliparse: pages a second, precision and recall, in one run.

    python benchmarks/data_extract.py --pages FOLDER --peer-site VENV/lib/python3.11/site-packages [--articles FOLDER]

`--pages`: a folder with `gold.jsonl` (file, url, must_contain, must_not_contain) and the pages that it names.
`--peer-site`: where trafilatura is installed; without it only resiliparse is compared.
`--articles`: a checkout of scrapinghub/article-extraction-benchmark (ground-truth.json, html/*.html.gz).
The shipped weights have seen no page of any host in either set. Pages are decoded before the clock starts. Every round
runs every extractor over all pages, in turns; speeds are medians of CPU time, ratios medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import logging
import platform
import re
import statistics
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from gristmill.data.extract import main_text, tags
from gristmill.data.formats.text import Unreadable, decode

Extract = Callable[[str], "str | None"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--peer-site", type=Path)
    parser.add_argument("--articles", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data_extract.json")
    options = parser.parse_args()
    extractors = peers(options.peer_site)
    gold = [json.loads(line) for line in (options.pages / "gold.jsonl").read_text("utf-8").splitlines() if line]
    pages = [text((options.pages / row["file"]).read_bytes()) for row in gold]
    results: dict[str, object] = {
        "pages": len(pages), "characters": sum(map(len, pages)), "rounds": options.rounds,
        "versions": {name: importlib.metadata.version(name) for name in ("resiliparse", "trafilatura", "lxml", "numpy")
                     if name == "numpy" or options.peer_site or name == "resiliparse"},
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one thread",
    }
    seconds: dict[str, list[float]] = {name: [] for name in extractors}
    outputs: dict[str, list[str]] = {}
    names = list(extractors)
    for number in range(options.rounds):
        # The order turns, so that no extractor always runs behind the same one.
        for name in names[number % len(names):] + names[:number % len(names)]:
            # What class names say is remembered between pages; every round begins knowing none.
            tags.forget()
            begin = time.process_time()
            found = [extractors[name](page) for page in pages]
            seconds[name].append(time.process_time() - begin)
            outputs[name] = [one or "" for one in found]
        print(f"round {number + 1}/{options.rounds}", file=sys.stderr, flush=True)
    speeds = {name: {"pages_per_second": round(len(pages) / statistics.median(spent), 1),
                     "range": [round(len(pages) / max(spent), 1), round(len(pages) / min(spent), 1)],
                     "ours_times_faster": round(statistics.median(
                         theirs / ours for theirs, ours in zip(spent, seconds["gristmill"], strict=True)), 2)}
              for name, spent in seconds.items()}
    results["speed"] = speeds
    parts = {"all": list(range(len(gold))),
             "development": [i for i, row in enumerate(gold) if not held_out(row["url"])],
             "held_out": [i for i, row in enumerate(gold) if held_out(row["url"])]}
    quality: dict[str, dict[str, object]] = {}
    for part, chosen in parts.items():
        quality[part] = {"pages": len(chosen)}
        for name in names:
            counts = np.array([gold_counts(gold[i], outputs[name][i]) for i in chosen])
            quality[part][name] = scores(counts.sum(0))
    results["gold_strings"] = quality
    results["f1_difference"] = differences(gold, outputs)
    if options.articles:
        results["articles"] = articles(options.articles, extractors)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    table(results, names)


def peers(site: Path | None) -> dict[str, Extract]:
    from resiliparse.extract.html2text import extract_plain_text

    found: dict[str, Extract] = {"gristmill": main_text}
    if site:
        sys.path.append(str(site))
        import trafilatura  # type: ignore[import-not-found,unused-ignore]

        logging.getLogger("trafilatura").setLevel(logging.CRITICAL + 1)
        found |= {
            "trafilatura": trafilatura.extract,
            "trafilatura fast": lambda html: trafilatura.extract(html, fast=True),
            "trafilatura precision": lambda html: trafilatura.extract(html, favor_precision=True,
                                                                      include_comments=False),
        }
    found["resiliparse"] = lambda html: extract_plain_text(html, main_content=True, alt_texts=False)
    return found


def text(data: bytes) -> str:
    try:
        return decode(data, html=True)[0]
    except Unreadable:
        return data.decode("utf-8", "replace")


def host(url: str) -> str:
    """The registered name, nearly: the last two labels, or three behind a short one such as `co.uk`."""
    name = (urlsplit(url).hostname or url.split("/")[0]).removeprefix("www.")
    labels = name.split(".")
    return ".".join(labels[-2:] if len(labels) < 3 or len(labels[-2]) > 3 else labels[-3:])


def held_out(url: str) -> bool:
    return bool(zlib.crc32(host(url).encode()) & 1)


def gold_counts(row: dict[str, list[str]], found: str) -> tuple[int, ...]:
    """Wanted strings found and wanted, unwanted found and named; exactly, then with white space collapsed."""
    out: list[int] = []
    for change in (lambda one: one, lambda one: " ".join(one.split())):
        page = change(found)
        for strings in (row["must_contain"], row["must_not_contain"]):
            out += [sum(change(string) in page for string in strings), len(strings)]
    return tuple(out)


def scores(counts: np.ndarray) -> dict[str, float | str]:
    """Precision = wanted / (wanted + unwanted), recall = wanted found / wanted, and their harmonic mean."""
    out: dict[str, float | str] = {}
    for label, (good, wanted, bad, unwanted) in (("exact", counts[:4]), ("white space collapsed", counts[4:])):
        precision, recall = good / max(good + bad, 1), good / max(wanted, 1)
        mean = 2 * precision * recall / max(precision + recall, 1e-9)
        out[label] = (f"P {precision:.3f} R {recall:.3f} F1 {mean:.3f} "
                      f"({good}/{wanted} wanted, {bad}/{unwanted} unwanted)")
    return out


def differences(gold: list[dict[str, list[str]]], outputs: dict[str, list[str]]) -> dict[str, list[float]]:
    """95 % interval of our F1 minus a peer's, over 2000 resamples of the pages (the same for both)."""
    def f1(counts: np.ndarray) -> np.ndarray:
        good, wanted, bad = counts[..., 0], counts[..., 1], counts[..., 2]
        return 2 * good / (good + bad + wanted)

    draws = np.random.default_rng(0).integers(0, len(gold), (2000, len(gold)))
    counts = {name: np.array([gold_counts(row, page) for row, page in zip(gold, found, strict=True)])
              for name, found in outputs.items()}
    ours = f1(counts["gristmill"][draws].sum(1))
    interval = (0.025, 0.5, 0.975)
    return {name: [round(float(value), 4) for value in np.quantile(ours - f1(theirs[draws].sum(1)), interval)]
            for name, theirs in counts.items() if name != "gristmill"}


def articles(folder: Path, extractors: dict[str, Extract]) -> dict[str, object]:
    """Whole articles: precision and recall of runs of four words, averaged over pages, as that benchmark does."""
    truth = json.loads((folder / "ground-truth.json").read_text("utf-8"))
    pages = {key: text(gzip.decompress((folder / "html" / f"{key}.html.gz").read_bytes())) for key in truth}
    out: dict[str, object] = {"pages": len(pages)}
    for name, extractor in extractors.items():
        precisions, recalls = [], []
        begin = time.process_time()
        found = {key: extractor(page) or "" for key, page in pages.items()}
        spent = time.process_time() - begin
        for key in truth:
            wanted, given = runs(truth[key]["articleBody"]), runs(found[key])
            shared = sum((wanted & given).values())
            if given:
                precisions.append(shared / sum(given.values()))
            recalls.append(shared / max(sum(wanted.values()), 1))
        precision, recall = statistics.mean(precisions), statistics.mean(recalls)
        out[name] = {"precision": round(precision, 4), "recall": round(recall, 4),
                     "f1": round(2 * precision * recall / (precision + recall), 4),
                     "pages_per_second": round(len(pages) / spent, 1)}
    return out


def runs(article: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", article)
    return Counter(tuple(words[at:at + 4]) for at in range(max(1, len(words) - 3)) if words)


def table(results: dict, names: list[str]) -> None:
    for name in names:
        speed = results["speed"][name]
        print(f"{name:22} {speed['pages_per_second']:8.1f} pages/s   ours {speed['ours_times_faster']:5.2f}x")
    for part, found in results["gold_strings"].items():
        print(f"\n{part}: {found['pages']} pages, gold strings found exactly")
        for name in names:
            print(f"  {name:22} {found[name]['exact']}")
    for name, found in results.get("articles", {}).items():
        print(f"  {name:22} {found}")


if __name__ == "__main__":
    main()
