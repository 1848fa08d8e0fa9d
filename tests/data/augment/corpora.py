"""A corpus as the data stage leaves one."""

from __future__ import annotations

import random
from pathlib import Path

from gristmill.core.artifact import Artifact
from gristmill.core.files import write_json
from gristmill.data.documents import Document, row, write_shard

SENTENCES = [
    "The old mill stood by the river and nobody had worked in it for years.",
    "A physician bought a quick automobile and drove it to the village.",
    "She said that she would open the large window before the guests came.",
    "He told his brother that he had lost his hat on the way to the town.",
    "Children played in the garden while their parents talked about the weather.",
    "The teacher explained the difficult problem once more to the whole class.",
]


def text(number: int, sentences: int = 4) -> str:
    """A text of its own: every number another."""
    chance = random.Random(number)
    chosen = [chance.choice(SENTENCES) for _ in range(sentences)]
    names = " ".join(chance.choice(["amber", "birch", "cedar", "daisy", "elder", "fern", "ginger", "hazel", "iris"])
                     for _ in range(12))
    return " ".join(chosen) + f" They spoke of {names} all day long.\n"


def write_corpus(folder: Path, train: int = 40, shards: int = 3, held_out: int = 4) -> Artifact:
    """A corpus folder with several training shards, one of them with code."""
    licence = {"license": "CC0-1.0", "url": "https://example.org/a"}
    for shard in range(shards):
        rows = [row(Document(f"src/{n}.txt", text(n), "src", "prose", "en", licence), cluster=f"c{n}", split="train")
                for n in range(shard, train, shards)]
        if shard == 0:
            rows.append(row(Document("src/code.py", "def f(x):\n    return x + 1  # the old value\n" * 5, "src", "code",
                                     "python"), split="train"))
        write_shard(folder / "documents" / f"train-{shard:05d}.parquet", rows)
    for split in ("valid", "test"):
        write_shard(folder / "documents" / f"{split}-00000.parquet", [
            row(Document(f"src/{split}{n}.txt", text(1000 + n + 50 * (split == "test")), "src", "prose", "en", licence),
                split=split) for n in range(held_out)])
    write_json(folder / "funnel.json", {"clusters": {"largest": 1}, "leakage": {"sampled": 16}})
    write_json(folder / "card.json", {"sources": [{"name": "src", "config": {"kind": "files"}}], "limits": ["old"],
                                      "processing": {"filter": {}, "order": ["collect"]}})
    return Artifact.from_folder(folder, "corpus")
