"""Fits the weights of the main-content classifier anew (gristmill/data/extract/weights.json).

    python benchmarks/data_extract_fit.py label --pages pages.jsonl --out labelled.jsonl     (in a venv with the peers)
    python benchmarks/data_extract_fit.py fit --pages labelled.jsonl --out weights.json      (in the project's venv)

`pages.jsonl`: one page a line with html, host, must_contain, must_not_contain, and optionally expected (text that a
person checked). `label` adds what other extractors keep: trafilatura (three settings), resiliparse, readability-lxml.
A block's label is the weighted vote of those that keep it; strings that a person marked override the vote, with `GOLD`
times the weight. Give no page of a host that you want to measure on: `--without` takes files of such hosts.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOTES = {"trafilatura": 0.3, "trafilatura precision": 0.2, "trafilatura recall": 0.1, "resiliparse": 0.15,
         "readability": 0.25}
CHECKED = {"expected": 0.8, "trafilatura": 0.1, "trafilatura precision": 0.1}
GOLD = 15.0
_NOISE = re.compile(r"[\s\-*•|#>]+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("label", "fit"))
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without", type=Path, nargs="*", default=[], help="files with a host a line to leave out")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=18)
    options = parser.parse_args()
    kept_out = {host for file in options.without for host in file.read_text("utf-8").split()}
    with options.pages.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["host"] not in kept_out]
    if options.step == "label":
        label(rows, options.out)
    else:
        fit_weights(rows, options)


def label(rows: list[dict[str, Any]], out: Path) -> None:
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
    with out.open("w", encoding="utf-8") as file:
        for row in rows:
            for name, voice in voices.items():
                try:
                    row[name] = voice(row["html"]) or ""
                except Exception:  # any of the peers may fail on any page; it then has no vote for it
                    row[name] = ""
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def fit_weights(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    from gristmill.data.extract.classifier import save
    from gristmill.data.extract.fit import fit

    pages = [page for row in rows if (page := labelled(row)) is not None]
    found = fit(pages, epochs=options.epochs, members=options.members, threshold=options.threshold)
    save(found, options.out, {"about": "main-content classifier", "pages": len(pages),
                              "blocks": sum(len(page.wanted) for page in pages)})
    print(f"{len(pages)} pages -> {options.out}")


def labelled(row: dict[str, Any]) -> Any:
    import numpy as np

    from gristmill.data.extract.features import features
    from gristmill.data.extract.fit import Labelled
    from gristmill.data.extract.markup import segment

    page = segment(row["html"])
    if not page.texts:
        return None
    squashed = [squash(text) for text in page.texts]
    wanted = votes(squashed, row)
    chars = [len(text) for text in page.texts]
    weight = (0.3 + np.log1p(np.array(chars, dtype=np.float32)) / 6).astype(np.float32)
    for block, value in gold_blocks(squashed, row, wanted).items():
        wanted[block] = 0.02 + 0.96 * value
        weight[block] *= GOLD
    return Labelled(features(page, chars), wanted, weight)


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
