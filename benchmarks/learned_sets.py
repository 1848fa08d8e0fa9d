"""Labelled texts, prose, web pages, sentences of known language for `data_learned.py`; a peer in another Python."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gristmill.core.seeds import fraction
from gristmill.data.signals.language import language_v1
from gristmill.data.text_rows import passages

Rows = list[tuple[str, str, str]]
"""(text, label, group)"""


class Peer:
    """A program in another Python that answers each line with a line."""

    def __init__(self, python: str, program: str, *arguments: str) -> None:
        self.process = subprocess.Popen([python, "-c", program, *arguments], stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert self.process.stdout
        self.version = self.process.stdout.readline().strip()

    def ask(self, value: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def opened(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(gzip.open(path), "utf-8", newline="")


def tweets(data: Path) -> Rows:
    csv.field_size_limit(1 << 30)
    with opened(data / "toxicity/davidson_tweets.csv.gz") as file:
        return [(row["tweet"], ("hate", "offensive", "neither")[int(row["class"])], row[""])
                for row in csv.DictReader(file)]


def sms(data: Path) -> Rows:
    with opened(data / "classification/sms_spam.tsv.gz") as file:
        rows = [line.rstrip("\n").split("\t", 1) for line in file]
    return [(text, label, text) for label, text in rows]


def news(data: Path) -> Rows:
    with opened(data / "classification/ag_news_test_7600.csv.gz") as file:
        return [(f"{title}. {text}", label, text) for label, title, text in csv.reader(file)]


def reviews(data: Path) -> Rows:
    with zipfile.ZipFile(data / "classification/movie_reviews.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt") and "/cv" in name)
        return [(archive.read(name).decode("utf-8", "replace"), name.split("/")[1], name) for name in names]


def members(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() and member.name.endswith(suffix) else None
            if file:
                yield member.name, file.read()


def good_and_web(data: Path, size: int = 1000) -> dict[str, Rows]:
    """source -> passages of `size` characters, with their document."""
    from gristmill.data.extract import main_text

    documents: dict[str, list[tuple[str, str]]] = {
        "novels": [(name, raw.decode("utf-8-sig", "replace").replace("\r\n", "\n")[20_000:60_000])
                   for name, raw in members(data / "text/novels_60.tar.xz", ".txt")],
        "textbooks": [], "encyclopedia": [], "crawl": [], "pages": []}
    with opened(data / "text/openstax_3books.jsonl.gz") as file:
        rows = [json.loads(line) for line in file.read().split("\n") if line]
        documents["textbooks"] = [(row["module"], row["text"][:8000]) for row in rows]
    with opened(data / "text/wiki_demo.txt.gz") as file:
        documents["encyclopedia"] = [(str(n), line[:20_000]) for n, line in enumerate(file.read().split("\n")) if line]
    with opened(data / "text/c4_demo_300.jsonl.gz") as file:
        lines = [line for line in file.read().split("\n") if line]
        documents["crawl"] = [(str(n), json.loads(line)["text"]) for n, line in enumerate(lines)]
    documents["pages"] = [(name, main_text(raw.decode("utf-8", "replace")))
                          for name, raw in members(data / "web/html_pages_144.tar.xz", ".html")]
    return {source: [(piece, "web" if source in ("crawl", "pages") else "good", f"{source}/{name}")
                     for name, text in found for piece in passages(" ".join(text.split()), size)
                     if len(piece) > 200 and language_v1(piece) == "en"] for source, found in documents.items()}


def part_of(group: str) -> str:
    point = fraction(0, "benchmark", group)
    return "test" if point < 0.2 else "valid" if point < 0.3 else "train"


def mentions(data: Path) -> dict[str, list[str]]:
    """Harmless sentences about people of groups (descriptors that are not marked as dispreferred), by axis."""
    path = data / "bias/holistic_bias_v1.1.tar.xz"
    files = {Path(name).stem: json.loads(raw) for name, raw in members(path, ".json")}
    found: dict[str, list[str]] = {}
    for axis, groups in files["descriptors"].items():
        for one in (one for bucket in groups.values() for one in bucket):
            one = one if isinstance(one, dict) else {"descriptor": one}
            if one.get("preference") != "dispreferred" and "polarizing" not in str(one.get("preference")):
                who = f"{'an' if one['descriptor'][0].lower() in 'aeiou' else 'a'} {one['descriptor']} person"
                found.setdefault(axis, []).extend(
                    [f"I'm {who}.", f"I love being {who}.", f"My best friend is {who}."])
    return found


def sentences(data: Path) -> list[tuple[str, str, str]]:
    """(set, language, text): different ones."""
    found = set()
    for kind, names in (("gnome_help", ("de", "fr", "es")), ("tldr", ("de", "fr", "es", "pt_BR"))):
        for name in names:
            with opened(data / f"translation/{kind}_en-{name}.tsv.gz") as file:
                for line in file.read().split("\n"):
                    if line:
                        english, other = line.split("\t")
                        found |= {(kind, "en", english), (kind, name[:2], other)}
    for name in ("en", "de", "es", "zh"):
        with gzip.open(data / f"qa/xquad_{name}_36articles.json.gz") as raw:
            for paragraph in (p for article in json.load(raw)["data"] for p in article["paragraphs"]):
                found |= {("articles", name, paragraph["context"])}
                found |= {("questions", name, one["question"]) for one in paragraph["qas"]}
    return sorted(found)
