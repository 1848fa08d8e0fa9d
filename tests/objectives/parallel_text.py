"""A tokenizer with a mask token, and shards of a few small texts, some of them in two languages."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.train import MASK, train_bpe
from gristmill.tokens import ShardWriter, TokenShards

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = ("eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn")


@cache
def masking_tokenizer() -> Tokenizer:
    source = (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_text()
    return train_bpe([[source, " ".join(WORDS) * 30, " ".join(NUMBERS) * 30]], vocab_size=600,
                     extra_special_tokens=[MASK])


def shards_of(folder: Path, documents: Sequence[tuple[str, str, str]]) -> TokenShards:
    """documents: (text, language, pair)."""
    tokenizer = masking_tokenizer()
    with ShardWriter(folder, tokenizer.vocab_size) as writer:
        for number, (text, language, pair) in enumerate(documents):
            ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
            writer.add(np.array(ids), f"doc-{number}", len(text.encode()), language=language, pair=pair)
        return writer.finish()


def prose(count: int, language: str = "en") -> list[tuple[str, str, str]]:
    """Documents of three to eight sentences, every one with a number that is its own."""
    made = []
    for i in range(count):
        sentences = [f"Sentence {j} of text {i} tells of {WORDS[(i + j) % 10]} things." for j in range(3 + i % 6)]
        made.append((" ".join(sentences), language, ""))
    return made


def translated(count: int) -> list[tuple[str, str, str]]:
    """Pairs of counting rhymes in English and German, the languages taking turns to come first."""
    made = []
    for i in range(count):
        numbers = [(3 * i + j) % 10 for j in range(2 + i % 5)]
        sides = [(" ".join(names[n] for n in numbers), language, f"rhyme {i}")
                 for names, language in ((WORDS, "en"), (NUMBERS, "de"))]
        made += sides if i % 2 else sides[::-1]
    return made
