"""Documents a second of the quality rules beside datatrove's filters: same documents, one core, taking turns.

    python benchmarks/data_rules.py --datatrove PYTHON [--documents 600] [--rounds 5] [--json]

PYTHON: of an environment with datatrove 0.10.1 and spaCy (`pip install "datatrove[processing]==0.10.1" spacy`).
Documents: pieces of about 3 kB of the novels (70 %) and web pages of the shared test data, through a file; every side
gives a digest of what it read. Each side is a process of its own that answers one rule set at a time; CPU time, taken
inside. `ours` is our definitions, `compat` datatrove's by our program (run by PYTHON, since it needs spaCy), which must
come to the same decisions for every document. `all four` is datatrove's pipeline: a document that a filter drops is not
given to the next; FineWeb reads the text that C4 leaves. Ours measures everything of every document, decides, and takes
the lines out of those that stay. The Gopher sets of ours count with a split of their own.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SETS = ("gopher quality", "gopher repetition", "c4", "fineweb", "all four")
Answer = list[bool]
Work = Callable[[list[str]], Answer]


def theirs() -> dict[str, Work]:
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    blocks = dict(zip(SETS, (GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(),
                             FineWebQualityFilter()), strict=False))

    def kept(chosen: list[Any], text: str) -> bool:
        document = Document(text=text, id="")
        return all(block.filter(document) is True for block in chosen)

    single: dict[str, Work] = {
        name: lambda texts, block=block: [kept([block], text) for text in texts]  # type: ignore[misc]
        for name, block in blocks.items()
    }
    return {**single, "all four": lambda texts: [kept(list(blocks.values()), text) for text in texts]}


def ours() -> dict[str, Work]:
    from gristmill.data.decide import Filter, decide
    from gristmill.data.rules import C4, FINEWEB, GOPHER
    from gristmill.data.signals import Batch, batches, signals_for
    from gristmill.data.signals.lines import C4_LINES, remove_lines_batch

    signals = signals_for(code=False)
    quality = {name: rule for name, rule in GOPHER.items() if "repetition" not in rule.signal}
    repetition = {name: rule for name, rule in GOPHER.items() if "repetition" in rule.signal}
    chosen = dict(zip(SETS, (quality, repetition, C4, FINEWEB, {**GOPHER, **C4, **FINEWEB}), strict=True))

    def work(name: str) -> Work:
        rules = chosen[name]
        wanted = {rule.signal.split(".")[0] for rule in rules.values()} | {"length_v1"}
        others = {rule.name for rule in Filter(preset="strict").for_class(code=False)} - set(rules)
        filter_ = Filter(preset="strict", rules=dict.fromkeys(others))

        def run(texts: list[str]) -> Answer:
            answer: Answer = []
            for batch in batches(texts):
                columns = {f"{signal}.{value}": column for signal in wanted
                           for value, column in signals[signal].columns(batch).items()}
                kept = decide(columns, filter_, languages=["en"] * len(batch)).kept
                if name == "c4":
                    remove_lines_batch(batch, C4_LINES)
                elif name == "all four":
                    remove_lines_batch(Batch([t for t, k in zip(batch.texts, kept, strict=True) if k]), C4_LINES)
                answer += kept.tolist()
            return answer

        return run

    return {name: work(name) for name in SETS}


def compat() -> dict[str, Work]:
    from gristmill.data.decide import Filter, Rule, decide
    from gristmill.data.rules import COMPAT_PRESETS
    from gristmill.data.signals import Batch, batches
    from gristmill.data.signals.compat.datatrove import datatrove_c4_text, datatrove_signals
    from gristmill.data.signals.compat.spacy_words import SpacyWords

    splitter = SpacyWords()
    signals = {signal.name.split("_")[1]: signal for signal in datatrove_signals(splitter)}
    known = {**COMPAT_PRESETS["datatrove"]["fineweb"], **COMPAT_PRESETS["datatrove"]["c4"]}

    class Only(Filter):  # the rules of one signal
        def for_class(self, *, code: bool) -> list[Rule]:
            return [rule for rule in known.values() if rule.signal.startswith(f"datatrove_{self.lines[0]}_v1.")]

        def __post_init__(self) -> None:
            pass

    def kept(batch: Batch, name: str) -> Any:
        columns = {f"{signals[name].name}.{value}": column for value, column in signals[name].columns(batch).items()}
        return decide(columns, Only(lines=[name]), languages=["en"] * len(batch)).kept

    def work(name: str) -> Work:
        def run(texts: list[str]) -> Answer:
            splitter.forget()  # else every word were known from the round before
            return [bool(k) for batch in batches(texts) for k in kept(batch, name)]

        return run

    def everything(texts: list[str]) -> Answer:
        splitter.forget()
        answer: Answer = []
        for batch in batches(texts):
            stays = kept(batch, "quality") & kept(batch, "repetition") & kept(batch, "c4")
            left = [datatrove_c4_text(t, splitter).text for t, k in zip(batch.texts, stays, strict=True) if k]
            stays[stays] = kept(Batch(left), "fineweb")
            answer += stays.tolist()
        return answer

    return {**dict(zip(SETS, map(work, ("quality", "repetition", "c4", "fineweb")), strict=False)),
            "all four": everything}


def serve(side: str, documents: str) -> None:
    """Answer lines that name a rule set with a line of JSON, until there are no more."""
    sys.path.insert(0, str(ROOT))
    work = {"datatrove": theirs, "ours": ours, "compat": compat}[side]()
    texts: list[str] = json.loads(Path(documents).read_text("utf-8"))
    answer: Any = {"sha256": digest(texts), "python": platform.python_version(),
                   "numpy": importlib.metadata.version("numpy")}
    for line in sys.stdin:
        if line.strip() in SETS:
            began = time.process_time()
            kept = work[line.strip()](texts)
            answer = {"seconds": time.process_time() - began, "kept": kept}
        print(json.dumps(answer), flush=True)


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


class Side:
    def __init__(self, side: str, python: str, documents: Path) -> None:
        self.process = subprocess.Popen(
            [python, __file__, "--serve", side, "--file", str(documents)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, question: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def documents(count: int) -> list[str]:
    sys.path.insert(0, str(ROOT))
    from tests.data.signals.documents import real_documents

    found = real_documents(4200)  # of 60 novels, and all 300 web pages
    novels, pages = found[:-300], found[-300:]
    chance = random.Random(0)
    chosen = chance.sample(novels, count * 7 // 10) + chance.sample(pages, count - count * 7 // 10)
    chance.shuffle(chosen)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datatrove", help="Python of an environment with datatrove 0.10.1 and spaCy")
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the results to this file")
    parser.add_argument("--serve", choices=("datatrove", "ours", "compat"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.file)
    if not options.datatrove:
        parser.error("--datatrove is needed: the Python of an environment that has datatrove and spaCy")
    texts = documents(options.documents)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.json"
        file.write_text(json.dumps(texts), "utf-8")
        pythons = {"datatrove": options.datatrove, "ours": sys.executable, "compat": options.datatrove}
        sides = {name: Side(name, python, file) for name, python in pythons.items()}
        about = {name: side.ask("hello") for name, side in sides.items()}
        assert {found["sha256"] for found in about.values()} == {digest(texts)}, "the sides read other documents"
        rates: dict[tuple[str, str], list[float]] = {}
        kept: dict[tuple[str, str], Answer] = {}
        for turn in range(options.rounds + 1):  # the first warms up
            for rules in SETS:
                for name, side in sides.items():
                    answer = side.ask(rules)
                    kept[rules, name] = answer["kept"]
                    if turn:
                        rates.setdefault((rules, name), []).append(len(texts) / answer["seconds"])
        for side in sides.values():
            side.close()
    version = subprocess.run(
        [options.datatrove, "-c", "import importlib.metadata as m; print(m.version('datatrove'), m.version('spacy'))"],
        check=True, capture_output=True, text=True).stdout.split()
    results = []
    for rules in SETS:
        assert kept[rules, "compat"] == kept[rules, "datatrove"], f"{rules}: compat decides otherwise"
        peer = rates[rules, "datatrove"]
        for name in ("ours", "compat"):
            mine = rates[rules, name]
            results.append({
                "name": rules, "definitions": "ours" if name == "ours" else "datatrove's", "peer": "datatrove",
                "peer_version": version[0], "spacy": version[1], "unit": "documents/s per core",
                "ours": round(statistics.median(mine), 1), "theirs": round(statistics.median(peer), 1),
                "ratio": round(statistics.median(a / b for a, b in zip(mine, peer, strict=True)), 2),
                "ratio_range": [round(f(a / b for a, b in zip(mine, peer, strict=True)), 2) for f in (min, max)],
                "runs": options.rounds, "kept": sum(kept[rules, name]),
                "agreement": round(statistics.mean(a == b for a, b in zip(kept[rules, name], kept[rules, "datatrove"],
                                                                          strict=True)), 4),
            })
    for found in results:
        print(json.dumps(found) if options.json else
              f"{found['name']:18} {found['definitions']:12} {found['ours']:8.1f} documents/s, datatrove "
              f"{found['theirs']:6.1f}, ratio {found['ratio']:6.2f} ({found['ratio_range'][0]}-"
              f"{found['ratio_range'][1]}), kept {found['kept']}, same decision {found['agreement']:.1%}")
    if options.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                                check=False).stdout.strip()
        options.out.write_text(json.dumps({
            "date": datetime.date.today().isoformat(), "commit": commit, "processor": platform.processor(),
            "cores": os.cpu_count(), "documents": len(texts),
            "mean_characters": round(statistics.mean(map(len, texts))), "sides": about, "results": results,
        }, indent=1) + "\n")


if __name__ == "__main__":
    main()
