"""Learned signals on real data: classifiers beside fastText, toxicity beside word lists, n-gram models beside KenLM,
language identification by length of text.

    python benchmarks/data_learned.py [--parts classifier quality toxicity ngram language] [--peer VENV/bin/python]
        [--data shared/data] [--rounds 5] [--json] [--store]

classifier: accuracy, macro F1 and speed on four sets, one split, ours and fastText (word bigrams; the better of its own
defaults and of rate 0.5 with 25 passes, judged on the test part, in its favour). quality: good prose against web pages,
also on sources that it was not trained on. toxicity: tweets; classifiers, a public word list and learned ones, and what
each says of ordinary prose and of harmless sentences that mention groups of people. ngram: the same probabilities as
KenLM from the same model, and speed; what perplexity says of good and of web text. language: errors by length of text.

--peer needs a virtual environment with `fasttext-community` (0.11.9) and `kenlm` (0.3.0). CPU seconds of one thread.
Prints no text of the sets: some of it is offensive.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from learned_sets import (
    Peer,
    Rows,
    good_and_web,
    members,
    mentions,
    news,
    part_of,
    reviews,
    sentences,
    sms,
    tweets,
)

from gristmill.core.progress import Silent
from gristmill.data.classifier.examples import Examples
from gristmill.data.classifier.features import Features
from gristmill.data.classifier.measure import area_under_curve, confusion
from gristmill.data.classifier.model import Classifier
from gristmill.data.classifier.stage import TrainClassifier, train_on
from gristmill.data.classifier.words import WordCounts, learned_list
from gristmill.data.dedup.words import split_words
from gristmill.data.ngram.model import NgramModel
from gristmill.data.ngram.tokens import UNKNOWN, Windows, rows_of
from gristmill.data.ngram.training import train as train_ngram
from gristmill.data.signals import Batch, bad_words_v1
from gristmill.data.signals.language import language_paragraphs_v1, language_v1
from gristmill.data.split import Split
from gristmill.data.text_rows import passages

RESULTS = Path(__file__).parent / "results" / "data_learned.json"
FASTTEXT = '''
import json, sys, tempfile, time, fasttext
from importlib.metadata import version
print(version("fasttext-community"), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"__label__{label} {text}\\n" for text, label in asked["train"])
        file.flush()
        began = time.process_time()
        model = fasttext.train_supervised(file.name, wordNgrams=2, thread=1, verbose=0, seed=1, **asked["options"])
        trained = time.process_time() - began
    began = time.process_time()
    labels, _ = model.predict(asked["test"])
    spent = time.process_time() - began
    print(json.dumps([trained, spent, [one[0].removeprefix("__label__") for one in labels]]), flush=True)
'''
KENLM = '''
import json, sys, time, kenlm
from importlib.metadata import version
model = kenlm.Model(sys.argv[1])
print(version("kenlm"), flush=True)
for line in sys.stdin:
    texts = json.loads(line)
    began = time.process_time()
    scores = [model.score(text) for text in texts]
    print(json.dumps([time.process_time() - began, scores]), flush=True)
'''


# -- ours -------------------------------------------------------------------------------------------------------------


def trained(rows: Rows, work: Path, characters: Sequence[int] = ()) -> tuple[Classifier, dict[str, Any], float]:
    """A classifier of these rows, its report, and the CPU seconds that it took from a JSONL file."""
    path = work / "rows.jsonl"
    plain = [{"text": text, "label": label, "group": group} for text, label, group in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in plain), "utf-8")
    config = TrainClassifier(examples=[Examples(path=str(path), label_column="label", group_column="group")],
                             features=Features(characters=list(characters)), split=Split(valid=0.125, test=0.0))
    began = time.process_time()
    report = train_on(config, {}, seed=1, work=work, scratch=work, progress=Silent())
    return Classifier.open(work), report, time.process_time() - began


def macro_f1(decided: Sequence[str], truth: Sequence[str]) -> float:
    scores = []
    for label in sorted(set(truth)):
        both = sum(a == b == label for a, b in zip(decided, truth, strict=True))
        scores.append(2 * both / max(list(decided).count(label) + list(truth).count(label), 1))
    return statistics.fmean(scores)


def classifier(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """fastText sees words in lower case without punctuation, which is what ours sees too; splitting is in ours' time
    only. It is given the texts for calibration as well."""
    peer = Peer(options.peer, FASTTEXT)
    for name, load, characters in (("tweets: hate, offensive, neither", tweets, (3,)), ("SMS: spam, ham", sms, (3,)),
                                   ("news: 4 topics", news, ()), ("film reviews: good, bad", reviews, ())):
        rows = load(options.data)
        test = [row for row in rows if part_of(row[2]) == "test"]
        rest = [row for row in rows if part_of(row[2]) != "test"]
        texts, truth = [text for text, *_ in test], [label for _, label, _ in test]

        def plain(text: str) -> str:
            words = split_words([text], positions=True)
            assert words.begins is not None
            assert words.ends is not None
            return " ".join(text[a:b].lower() for a, b in zip(words.begins, words.ends, strict=True))

        asked = {"train": [(plain(text), label) for text, label, _ in rest], "test": [plain(text) for text in texts]}
        speeds, found = [], {}
        settings = ({}, {"lr": 0.5, "epoch": 25})
        runs = [peer.ask({**asked, "options": one}) for one in settings]
        best = max(range(2), key=lambda n: np.mean(np.array(runs[n][2]) == truth))
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                model, report, spent = trained(rest, Path(folder))
            began = time.process_time()
            said = [model.labels[n] for n in model.probabilities(texts).argmax(axis=1)]
            scoring = time.process_time() - began
            theirs = peer.ask({**asked, "options": settings[best]})
            speeds.append((spent, theirs[0], len(texts) / scoring, len(texts) / theirs[1]))
        found["ours"] = said
        if characters:
            with tempfile.TemporaryDirectory() as folder:
                more, _, _ = trained(rest, Path(folder), characters)
            found["ours_with_characters"] = [more.labels[n] for n in more.probabilities(texts).argmax(axis=1)]
        found["theirs"] = theirs[2]
        accuracy = {side: round(float(np.mean(np.array(one) == truth)), 4) for side, one in found.items()}
        spread = [float(np.mean((np.array(found["ours"]) == truth).astype(float)[pick]
                                - (np.array(found["theirs"]) == truth).astype(float)[pick]))
                  for pick in np.random.default_rng(0).integers(0, len(truth), (1000, len(truth)))]
        train, their_train, score, their_score = (statistics.median(side) for side in zip(*speeds, strict=True))
        yield {
            "name": f"{name}: {len(rest)} to learn from, {len(test)} to test", "peer": "fasttext-community",
            "peer_version": peer.version, "ours": accuracy["ours"], "theirs": accuracy["theirs"], "unit": "accuracy",
            "ratio": round(accuracy["ours"] / accuracy["theirs"], 4), "runs": options.rounds, "accuracy": accuracy,
            "difference": [round(float(v), 4) for v in np.quantile(spread, (0.025, 0.975))],
            "macro_f1": {side: round(macro_f1(one, truth), 4) for side, one in found.items()},
            "train_seconds": {"ours, from JSONL to report": round(train, 2), "theirs": round(their_train, 2)},
            "texts_per_second": {"ours, from raw text": round(score), "theirs, from words": round(their_score)},
            "characters_a_text": sum(map(len, texts)) // len(texts), "their_settings": settings[best],
            "passes": report["passes"],
        }
    peer.close()
    with tempfile.TemporaryDirectory() as folder:
        rows = good_and_web(options.data, 3000)
        model, _, _ = trained([row for one in rows.values() for row in one], Path(folder))
        texts = [text for one in rows.values() for text, *_ in one][:1000]
        spent = []
        for _ in range(options.rounds + 1):
            began = time.process_time()
            for start in range(0, len(texts), 256):
                model.probabilities(texts[start : start + 256])
            spent.append(len(texts) / (time.process_time() - began))
    yield {"name": f"documents of {sum(map(len, texts)) // len(texts)} characters, words and pairs, 2 labels",
           "ours": round(statistics.median(spent[1:])), "unit": "documents/s of CPU", "runs": options.rounds}


def held_out(model: Classifier, rows: Rows, label: str) -> dict[str, Any]:
    p = model.probabilities([text for text, *_ in rows])[:, model.labels.index(label)]
    truth = np.array([own == label for _, own, _ in rows])
    found = confusion(p >= 0.5, truth, np.ones((1, len(rows))))
    return {"passages": len(rows), "documents": len({group for *_, group in rows}),
            "auc": round(area_under_curve(p, truth), 4),
            **{name: round(one["value"], 4) for name, one in found.items() if one["value"] is not None}}


def quality(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Documents, not passages, are held out; then whole sources."""
    rows = good_and_web(options.data)
    every = [row for one in rows.values() for row in one]
    with tempfile.TemporaryDirectory() as folder:
        model, report, _ = trained([row for row in every if part_of(row[2]) != "test"], Path(folder))
    yield {"name": "good or web, other documents of the same sources", "passages_by_source": {
        source: len(one) for source, one in rows.items()}, **held_out(model, [
            row for row in every if part_of(row[2]) == "test"], "good"),
        "telling": {label: [one["entry"] for one in words[:12]] for label, words in report["telling"].items()}}
    for good in ("novels", "textbooks", "encyclopedia"):
        for web in ("crawl", "pages"):
            unseen = [*rows[good], *rows[web]]
            seen = [row for source, one in rows.items() if source not in (good, web) for row in one]
            with tempfile.TemporaryDirectory() as folder:
                model, _, _ = trained(seen, Path(folder))
            yield {"name": f"good or web, on {good} and {web} that it has not seen", **held_out(model, unseen, "good")}


# -- toxicity ---------------------------------------------------------------------------------------------------------


def toxicity(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Offensive or hateful against neither; then hate alone."""
    rows = tweets(options.data)
    test = [row for row in rows if part_of(row[2]) == "test"]
    rest = [row for row in rows if part_of(row[2]) != "test"]
    texts = [text for text, *_ in test]
    truth = {"toxic": np.array([label != "neither" for _, label, _ in test]),
             "hate": np.array([label == "hate" for _, label, _ in test])}
    entries = (options.data / "toxicity/ldnoobw_en.txt").read_text("utf-8").split("\n")
    prose = [(text, "neither", group) for source in ("novels", "encyclopedia")
             for text, _, group in good_and_web(options.data)[source]]
    ordinary = [row for row in prose if part_of(row[2]) != "test"]
    harmless = {"mentions of groups": [text for one in mentions(options.data).values() for text in one],
                **{source: [text for text, _, group in prose if group.startswith(source) and part_of(group) == "test"]
                   for source in ("novels", "encyclopedia")}}
    judges: dict[str, Any] = {}
    lists = {"public list": [entry for entry in entries if entry]}
    for added, name in (([], ""), (ordinary, ", ordinary prose added as neither")):
        every = [(text, "neither" if label == "neither" else "toxic", group) for text, label, group in [*rest, *added]]
        counts = WordCounts(("toxic",), 1)
        counts.add([text for text, *_ in every], [(label,) for _, label, _ in every])
        learned = learned_list(counts, "toxic", size=len(entries), precision=0.9)
        lists[f"learned list{name}"] = [entry for entry, *_ in learned]
        with tempfile.TemporaryDirectory() as folder:
            judges[f"classifier{name}"], _, _ = trained(every, Path(folder), (3,))
    sizes = {name: len(one) for name, one in lists.items()}
    judges = {**{name: bad_words_v1(one) for name, one in lists.items()}, **judges}

    def judged(name: str, some: Sequence[str]) -> np.ndarray:
        judge = judges[name]
        if isinstance(judge, Classifier):
            return judge.probabilities(some)[:, judge.labels.index("toxic")]
        return judge.columns(Batch(some))["entries"].astype(float)

    for name in judges:
        score, bound = judged(name, texts), 1 if name in sizes else 0.5
        found = confusion(score >= bound, truth["toxic"], np.ones((1, len(texts))))
        yield {"name": f"offensive or hateful tweets, {name}", "texts": len(texts), "toxic": int(truth["toxic"].sum()),
               "entries": sizes.get(name), **{key: round(one["value"], 4) for key, one in found.items()},
               "auc": round(area_under_curve(score, truth["toxic"]), 4),
               "false_positives": {where: round(float(np.mean(judged(name, some) >= bound)), 4)
                                   for where, some in harmless.items()}}
    with tempfile.TemporaryDirectory() as folder:
        three, report, _ = trained(rest, Path(folder), (3,))
    for name in ("classifier", "classifier, ordinary prose added as neither"):
        yield {"name": f"harmless mentions that it calls toxic, by axis, {name}", **{
            axis: round(float(np.mean(judged(name, some) >= 0.5)), 3)
            for axis, some in mentions(options.data).items()}}
    p = three.probabilities(texts)[:, three.labels.index("hate")]
    hateful = {"likeliest label": three.probabilities(texts).argmax(axis=1) == three.labels.index("hate")}
    hateful |= {f"at {bound}": p >= bound for bound in (0.2, 0.3)}
    for name, decided in hateful.items():
        found = confusion(decided, truth["hate"], np.ones((1, len(texts))))
        yield {"name": f"hateful tweets, classifier of three labels, {name}", "hate": int(truth["hate"].sum()),
               **{key: round(one["value"], 4) for key, one in found.items()},
               "auc": round(area_under_curve(p, truth["hate"]), 4), "passes": report["passes"]}


# -- n-grams ----------------------------------------------------------------------------------------------------------


def write_arpa(model: NgramModel, texts: Sequence[str], path: Path) -> int:
    """The model in the format of other tools: every n-gram of the texts with log10 of its probability and of its
    weight as a context. Probabilities of ours are -log2."""
    names: dict[int, dict[int, str]] = {n: {} for n in range(1, len(model.orders) + 1)}
    for text in texts:
        words = split_words([text], positions=True)
        assert words.begins is not None
        assert words.ends is not None
        rows = rows_of([text], "word", words)
        known = model.orders[0].table.find(rows.tokens) >= 0
        windows = Windows(np.where(known, rows.tokens, UNKNOWN))
        spelled = ["<s>", *(text[a:b].lower() for a, b in zip(words.begins, words.ends, strict=True)), "</s>"]
        spelled = [word if seen else "<unk>" for word, seen in zip(spelled, known.tolist(), strict=True)]
        for n, found in names.items():
            at = np.arange(n - 1, len(spelled))
            place = model.orders[n - 1].table.find(windows.ending(at, n))
            for end, number in zip(at.tolist(), place.tolist(), strict=True):
                if number >= 0:
                    found.setdefault(number, " ".join(spelled[end - n + 1 : end + 1]))
    missing = set(range(len(model.orders[0].table))) - set(names[1])
    names[1] |= dict.fromkeys(missing, "<unk>")
    with path.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n" + "".join(f"ngram {n}={len(found)}\n" for n, found in names.items()))
        for n, found in names.items():
            order = model.orders[n - 1]
            file.write(f"\n\\{n}-grams:\n")
            for number, name in found.items():
                bits = 99.0 / np.log10(2) if name == "<s>" else float(order.bits[number])
                last = f"\t{-float(order.weights[number]) * np.log10(2):.7f}" if len(order.weights) else ""
                file.write(f"{-bits * np.log10(2):.7f}\t{name}{last}\n")
        file.write("\n\\end\\\n")
    return sum(map(len, names.values()))


def ngram(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The model is ours; KenLM reads it from an ARPA file and is given words that are split already."""
    novels = [passages(raw.decode("utf-8-sig", "replace").replace("\r\n", "\n"), 3000)
              for _, raw in members(options.data / "text/novels_60.tar.xz", ".txt")]
    good = [piece for one in novels[:20] for piece in one]
    unseen = [piece for one in novels[45:] for piece in one][:1000]
    small = good[: 700]
    with tempfile.TemporaryDirectory() as folder:
        model = train_ngram([small], "word", 5, min_count=2, keep_count=2, scratch=Path(folder, "small"))
        arpa = Path(folder, "model.arpa")
        grams = write_arpa(model, small, arpa)
        peer = Peer(options.peer, KENLM, str(arpa))
        spelled = []
        for text in unseen:
            words = split_words([text], positions=True)
            assert words.begins is not None
            assert words.ends is not None
            spelled.append(" ".join(text[a:b].lower() for a, b in zip(words.begins, words.ends, strict=True)))
        times = []
        for _ in range(options.rounds + 1):
            began = time.process_time()
            parts = [model.measure(unseen[start : start + 128]) for start in range(0, len(unseen), 128)]
            mine = time.process_time() - began
            theirs, scores = peer.ask(spelled)
            times.append((len(unseen) / mine, len(unseen) / theirs))
        bits = np.concatenate([part.bits for part in parts])
        tokens = np.concatenate([part.tokens for part in parts])
        apart = np.abs(bits / np.log2(10) + np.array(scores)) / tokens
        peer.close()
        ours, kenlm = (statistics.median(side) for side in zip(*times[1:], strict=True))
        yield {"name": f"perplexity of {len(unseen)} texts of 3,000 characters, 5-grams, {grams} of them",
               "peer": "kenlm", "peer_version": peer.version, "ours": round(ours), "theirs": round(kenlm),
               "unit": "documents/s of CPU (ours from raw text, KenLM's probing from words)",
               "ratio": round(statistics.median(a / b for a, b in times[1:]), 2), "runs": options.rounds,
               "largest_difference_log10_a_token": float(f"{apart.max():.2g}")}
        web = good_and_web(options.data, 3000)
        other = {"unseen novels": unseen, "textbooks": [t for t, *_ in web["textbooks"]],
                 "encyclopedia": [t for t, *_ in web["encyclopedia"]], "crawl": [t for t, *_ in web["crawl"]],
                 "pages": [t for t, *_ in web["pages"]],
                 "novels with words shuffled": [shuffled(t, n) for n, t in enumerate(unseen[:300])]}
        for unit, order, keep, texts in (("word", 5, 2, good), ("word", 5, 1, good),
                                         ("character", 5, 2, good[::3])):
            began = time.process_time()
            model = train_ngram((texts[start : start + 256] for start in range(0, len(texts), 256)), unit, order,
                                min_count=2, keep_count=keep, scratch=Path(folder, "scratch"))
            spent = time.process_time() - began
            model.save(Path(folder))
            stored = sum(path.stat().st_size for path in Path(folder).glob("*.npy"))
            found = {where: model.measure(some) for where, some in other.items()}
            began = time.process_time()
            for start in range(0, len(unseen), 128):
                model.measure(unseen[start : start + 128])
            speed = len(unseen) / (time.process_time() - began)
            yield {"name": f"{unit} {order}-grams seen at least {keep} times, of {len(texts)} passages of novels",
                   "train_mb": round(sum(map(len, texts)) / 1e6, 1), "train_seconds": round(spent, 1),
                   "stored_mb": round(stored / 1e6, 1), "documents_per_second": round(speed),
                   "median_perplexity": {w: round(float(np.median(f.perplexity)), 1) for w, f in found.items()},
                   "bits_per_byte": {w: round(float((f.bits + f.spelled).sum() / f.text_bytes.sum()), 3)
                                     for w, f in found.items()},
                   "auc_against_unseen_novels": {w: round(area_under_curve(
                       np.concatenate((f.perplexity, found["unseen novels"].perplexity)),
                       np.arange(len(f.bits) + len(unseen)) < len(f.bits)), 3)
                       for w, f in found.items() if w != "unseen novels"}}


def shuffled(text: str, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).permutation(text.split()).tolist())


# -- language ---------------------------------------------------------------------------------------------------------

LENGTHS = (20, 50, 100, 300)


def language(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every text by the detector; what its own mark of doubt (`reliable`) would leave; and text that is no language."""
    import eldc

    rows = sentences(options.data)
    edges, names = (0, *LENGTHS, 1 << 40), [f"below {LENGTHS[0]}", *(
        f"{a} to {b - 1}" for a, b in pairwise(LENGTHS)), f"{LENGTHS[-1]} and more"]
    said = [(kind, own, language_v1(text), eldc.detect_details(text).reliable, len(text)) for kind, own, text in rows]
    for (low, high), name in zip(pairwise(edges), names, strict=True):
        here = [one for one in said if low <= one[4] < high]
        sure = [one for one in here if one[3]]
        yield {"name": f"language, {name} characters", "texts": len(here),
               "right": round(sum(one[1] == one[2] for one in here) / len(here), 4),
               "by_set": {kind: round(statistics.fmean(one[1] == one[2] for one in here if one[0] == kind), 4)
                          for kind in sorted({one[0] for one in here})},
               "sure": round(len(sure) / len(here), 4),
               "right_where_sure": round(sum(one[1] == one[2] for one in sure) / len(sure), 4)}
    table: dict[str, Counter[str]] = {}
    for _, own, found, _, _ in said:
        table.setdefault(own, Counter())[found] += 1
    yield {"name": "language, confusion", **{own: dict(found.most_common(8)) for own, found in sorted(table.items())}}
    code = [line.strip() for line in Path(statistics.__file__).read_text("utf-8").split("\n") if line.strip()]
    numbers = [" ".join(str(n * 7919 % 10**k) for k in range(2, 9)) for n in range(1, 500)]
    addresses = [f"https://www.example.com/p/{n:05d}?id={n * 31}&ref=x{n % 7}" for n in range(500)]
    for name, lines in (("lines of a program", code), ("numbers", numbers), ("addresses", addresses)):
        details = [eldc.detect_details(line) for line in lines]
        yield {"name": f"language, {name}", "texts": len(lines),
               "und": round(statistics.fmean(one.language == "und" for one in details), 3),
               "sure": round(statistics.fmean(one.reliable and one.language != "und" for one in details), 3)}
    texts = [text for kind, _, text in rows if kind == "articles"]
    mixed = ["\n".join(texts[at : at + 4]) for at in range(0, len(texts) - 4, 4)]
    spent: dict[str, list[float]] = {"document": [], "paragraphs": []}
    for _ in range(options.rounds):
        for name, judge in (("document", lambda: [language_v1(text) for text in mixed]),
                            ("paragraphs", lambda: language_paragraphs_v1.columns(Batch(mixed)))):
            began = time.process_time()
            judge()
            spent[name].append(sum(len(text.encode()) for text in mixed) / 1e6 / (time.process_time() - began))
    yield {"name": "language, speed", "unit": "MB/s of CPU",
           **{name: round(statistics.median(found)) for name, found in spent.items()}}


PARTS = {"classifier": classifier, "quality": quality, "toxicity": toxicity, "ngram": ngram, "language": language}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--peer", default="python", help="the Python that has fasttext-community and kenlm")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get(
        "GRISTMILL_SHARED_DATA", Path(__file__).parents[2] / "shared/data")))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--store", action="store_true", help=f"write {RESULTS.name}; parts that are not run are kept")
    options = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if options.store and RESULTS.exists() else {}
    for part in options.parts:
        stored[part] = []
        for found in PARTS[part](options):
            stored[part].append(found)
            print(json.dumps(found, ensure_ascii=False) if options.json else ", ".join(
                f"{k}: {v}" for k, v in found.items()), flush=True)
    if options.store:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, cwd=RESULTS.parent)
        stored |= {"date": datetime.date.today().isoformat(), "commit": commit.stdout.strip()}
        RESULTS.write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
