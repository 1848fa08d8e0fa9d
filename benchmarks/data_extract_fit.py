"""Fits the weights of the main-content classifier anew (gristmill/data/extract/weights.json).

    python benchmarks/data_extract_fit.py gather --trafilatura FOLDER --readability FOLDER --out pages.jsonl \\
        --without FOLDER/gold.jsonl FOLDER/ground-truth.json
    python benchmarks/data_extract_fit.py label --pages pages.jsonl --out labelled.jsonl     (in a venv with the peers)
    python benchmarks/data_extract_fit.py fit --pages labelled.jsonl --out weights.json      (in the project's venv)

`gather` takes the pages of two checkouts, adbar/trafilatura (its evaluation set) and mozilla/readability (its tests),
but of no host that a file of `--without` names: whatever is measured on is not learned from. `pages.jsonl` may also be
your own: one page a line with html, host, must_contain, must_not_contain (text that a person marked), and optionally
expected (the whole text, which a person checked).
`label` adds what other extractors keep: trafilatura (three settings), resiliparse, readability-lxml. A block's label is
the weighted vote of those that keep it; strings that a person marked override the vote, with `GOLD` times the weight.
`fit` first shows what weights fitted on other hosts find (`--folds`, 0: skip), then fits on all pages. One thread and
the same pages give the same file.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import sys
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

VOTES = {"trafilatura": 0.3, "trafilatura precision": 0.2, "trafilatura recall": 0.1, "resiliparse": 0.15,
         "readability": 0.25}
CHECKED = {"expected": 0.8, "trafilatura": 0.1, "trafilatura precision": 0.1}
GOLD = 15.0
_NOISE = re.compile(r"[\s\-*•|#>]+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("gather", "label", "fit"))
    parser.add_argument("--pages", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trafilatura", type=Path)
    parser.add_argument("--readability", type=Path)
    parser.add_argument("--without", type=Path, nargs="*", default=[], help="files that name pages by their url")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--about", default="main-content classifier", help="origin and licence of the pages")
    options = parser.parse_args()
    if options.step == "gather":
        rows = gather(options.trafilatura, options.readability, hosts_of(options.without))
        write(options.out, rows)
        print(f"{len(rows)} pages -> {options.out}")
        return
    if options.pages is None:
        parser.error(f"{options.step} needs --pages")
    with options.pages.open(encoding="utf-8") as lines:
        rows = list(map(json.loads, lines))
    if options.step == "label":
        write(options.out, label(rows))
    else:
        fit_weights(rows, options)


def write(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    with out.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def host(url: str) -> str:
    """The registered name, nearly: the last two labels, or three behind a short one such as `co.uk`."""
    name = (urlsplit(url).hostname or url.split("/")[0]).removeprefix("www.")
    labels = name.split(".")
    return ".".join(labels[-2:] if len(labels) < 3 or len(labels[-2]) > 3 else labels[-3:])


def hosts_of(files: list[Path]) -> set[str]:
    return {host(url) for file in files for url in re.findall(r'"url": *"([^"]+)"', file.read_text("utf-8"))}


def gather(trafilatura: Path | None, readability: Path | None, without: set[str]) -> list[dict[str, Any]]:
    """The pages of both checkouts that can be decoded, in the order of their names."""
    from resiliparse.extract.html2text import extract_plain_text

    from gristmill.data.formats.text import Unreadable, decode

    def read(path: Path) -> str | None:
        try:
            return decode(path.read_bytes(), html=True)[0]
        except Unreadable:
            return None

    rows: list[dict[str, Any]] = []
    if trafilatura:
        tests = trafilatura / "tests"
        for url, page in sorted(json.loads((tests / "evaldata.json").read_text("utf-8")).items()):
            path = next((tests / folder / page["file"] for folder in ("eval", "cache")
                         if (tests / folder / page["file"]).exists()), None)
            if host(url) not in without and path is not None and (html := read(path)) is not None:
                rows.append({"host": host(url), "html": html, "must_contain": page.get("with", []),
                             "must_not_contain": page.get("without", [])})
    if readability:
        for folder in sorted((readability / "test" / "test-pages").iterdir()):
            source, expected = folder / "source.html", folder / "expected.html"
            if not (source.exists() and expected.exists() and (html := read(source)) is not None):
                continue
            found = re.search(r'(?:og:url|canonical)"[^>]*(?:content|href)="([^"]+)"', html)
            name = host(found[1]) if found else folder.name
            if name not in without:
                rows.append({"host": name, "html": html, "must_contain": [], "must_not_contain": [],
                             "expected": extract_plain_text(expected.read_text("utf-8"))})
    return rows


def label(rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    import lxml.html  # type: ignore[import-untyped,import-not-found,unused-ignore]
    import trafilatura  # type: ignore[import-not-found,unused-ignore]
    from readability import Document  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from resiliparse.extract.html2text import extract_plain_text

    logging.disable(logging.CRITICAL)
    voices: dict[str, Callable[[str], str | None]] = {
        "trafilatura": lambda html: trafilatura.extract(html, include_comments=False),
        "trafilatura precision": lambda html: trafilatura.extract(html, favor_precision=True, include_comments=False),
        "trafilatura recall": lambda html: trafilatura.extract(html, favor_recall=True),
        "resiliparse": lambda html: extract_plain_text(html, main_content=True, alt_texts=False),
        "readability": lambda html: lxml.html.fromstring(Document(html).summary()).text_content(),
    }
    for number, row in enumerate(rows):
        for name, voice in voices.items():
            try:
                row[name] = voice(row["html"]) or ""
            except Exception:  # any of the peers may fail on any page; it then has no vote for it
                row[name] = ""
        if number % 100 == 99:
            print(f"{number + 1} of {len(rows)} pages", file=sys.stderr, flush=True)
        yield row


def fit_weights(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    import torch

    from gristmill.data.extract.classifier import save
    from gristmill.data.extract.fit import fit

    torch.set_num_threads(1)
    found = [(row, texts, page) for row in rows for texts, page in (labelled(row),) if texts]
    pages = [page for _, _, page in found]
    settings = {"epochs": options.epochs, "members": options.members, "threshold": options.threshold}
    if options.folds > 1:
        for line in held_out(found, options.folds, settings, options.seed):
            print(line, flush=True)
    classifier = fit(pages, seed=options.seed, **settings)
    save(classifier, options.out, {
        "about": options.about, "pages": len(pages),
        "blocks": sum(len(page.wanted) for page in pages), "epochs": options.epochs, "seed": options.seed})
    print(f"{len(pages)} pages -> {options.out}")


def held_out(found: list[tuple[dict[str, Any], list[str], Any]], folds: int, settings: dict[str, Any],
             seed: int) -> Iterable[str]:
    """Marked strings found by weights that have seen no page of the host, at several thresholds.

    White space is collapsed. For each threshold: all folds together, then the spread of F1 between them.
    """
    from gristmill.data.extract.fit import fit

    fold = [zlib.crc32(f"{seed} {row['host']}".encode()) % folds for row, _, _ in found]
    counts: dict[float, list[list[int]]] = {}
    for number in range(folds):
        classifier = fit([page for at, (_, _, page) in zip(fold, found, strict=True) if at != number], seed=seed,
                         **settings)
        for at, (row, texts, page) in zip(fold, found, strict=True):
            if at != number:
                continue
            chances = classifier(page.features)
            for threshold in (0.4, 0.45, 0.5, 0.55, 0.6):
                kept = " ".join(" ".join(text for text, chance in zip(texts, chances, strict=True)
                                         if chance >= threshold).split())
                count = counts.setdefault(threshold, [[0, 0, 0] for _ in range(folds)])[number]
                count[0] += sum(" ".join(string.split()) in kept for string in row["must_contain"])
                count[1] += len(row["must_contain"])
                count[2] += sum(" ".join(string.split()) in kept for string in row["must_not_contain"])
    for threshold, per_fold in counts.items():
        parts = [2 * good / max(good + bad + wanted, 1) for good, wanted, bad in per_fold]
        good, wanted, bad = (sum(column) for column in zip(*per_fold, strict=True))
        yield (f"held out, from {threshold}: P {good / max(good + bad, 1):.3f} R {good / max(wanted, 1):.3f} "
               f"F1 {2 * good / max(good + bad + wanted, 1):.3f} (folds {statistics.mean(parts):.3f} "
               f"+- {statistics.stdev(parts):.3f})")


def labelled(row: dict[str, Any]) -> tuple[list[str], Any]:
    """The texts of a page's blocks and what is to be learned from them; nothing where it has none."""
    import numpy as np

    from gristmill.data.extract.features import features
    from gristmill.data.extract.fit import Labelled
    from gristmill.data.extract.markup import segment

    page = segment(row["html"])
    if not page.texts:
        return [], None
    squashed = [squash(text) for text in page.texts]
    wanted = votes(squashed, row)
    chars = [len(text) for text in page.texts]
    weight = (0.3 + np.log1p(np.array(chars, dtype=np.float32)) / 6).astype(np.float32)
    for block, value in gold_blocks(squashed, row, wanted).items():
        wanted[block] = 0.02 + 0.96 * value
        weight[block] *= GOLD
    return page.texts, Labelled(features(page, chars), wanted, weight)


def votes(squashed: list[str], row: dict[str, Any]) -> Any:
    """The share of votes for each block: it is a line of the voice's output, or long enough and part of it."""
    import numpy as np

    wanted = np.zeros(len(squashed), dtype=np.float32)
    weights = CHECKED if row.get("expected") else VOTES
    for name, vote in weights.items():
        output = row.get(name, "")
        lines, whole = {squash(line) for line in re.split(r"\n|\t|\|", output)}, squash(output)
        for block, text in enumerate(squashed):
            if not text:
                continue
            if text in lines or (len(text) >= 22 and text in whole):
                wanted[block] += vote
            elif len(text) > 120:
                parts = [text[at:at + 40] for at in range(0, len(text) - 40, 40)]
                wanted[block] += vote * (sum(part in whole for part in parts) > len(parts) / 2)
    return wanted / sum(weights.values())


def gold_blocks(squashed: list[str], row: dict[str, Any], wanted: Any) -> dict[int, int]:
    """Blocks that hold strings a person marked: 1 wanted, 0 not."""
    import numpy as np

    joined = "".join(squashed)
    starts = np.cumsum([0, *map(len, squashed)])
    out: dict[int, int] = {}
    for strings, value in ((row["must_contain"], 1), (row["must_not_contain"], 0)):
        for string in filter(None, map(squash, strings)):
            hits: list[tuple[int, int]] = []
            at = joined.find(string)
            while at >= 0 and len(hits) < 20:
                hits.append((int(np.searchsorted(starts, at, "right")) - 1,
                             int(np.searchsorted(starts, at + len(string) - 1, "right")) - 1))
                at = joined.find(string, at + 1)
            if value and len(hits) > 1:
                # A wanted string that stands twice is wanted where most voices keep it.
                hits = [max(hits, key=lambda hit: wanted[hit[0]:hit[1] + 1].mean())]
            for first, last in hits:
                for block in range(first, last + 1):
                    inside = len(squashed[block]) > 5 * len(string) and wanted[block] > 0.4
                    if value or not (inside or out.get(block) == 1):
                        out[block] = value
    return out


def squash(text: str) -> str:
    return _NOISE.sub("", text.lower())


if __name__ == "__main__":
    main()
