"""How text is split into pieces before BPE: the pre-tokenizers of known tokenizers, and our own options.

BPE never merges across pieces, so a vocabulary only works with the split that it was trained with, or with a coarser
one whose further merges it does not hold. The options for white space and identifiers use that: while training, text
is split more finely (`FINER`), but the tokenizer that is saved carries a split that every fast encoder and inference
server knows. The rules look at two neighbouring characters only, so no entry of the vocabulary holds such a border
(parts of characters of several bytes aside), and the coarser split gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, pre_tokenizers

from gristmill.core.errors import UserError

SINGLE_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""GPT-4-like, every digit alone. The split of Qwen2, so vLLM, llama.cpp and fast encoders know it."""

TRIPLE_DIGITS = SINGLE_DIGITS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
"""The split of Llama 3: digits in groups of up to three."""

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The split of GPT-2, which `ByteLevel` of the tokenizers library has built in."""

CL100K = TRIPLE_DIGITS.replace(r"\s*[\r\n]+", r"\s*[\r\n]")
"""The split of GPT-4 (cl100k)."""

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
IDENTIFIERS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The split of GPT-4o (o200k): words also end where lower case turns into upper case; digits in groups of three."""

Digits = Literal["single", "groups", "runs"]
Words = Literal["words", "identifiers", "gpt2"]
Whitespace = Literal["runs", "single"]

NAMES: dict[tuple[Words, Digits], str] = {
    ("words", "single"): "qwen2", ("words", "groups"): "llama-bpe", ("identifiers", "single"): "qwen2",
    ("identifiers", "groups"): "llama-bpe", ("gpt2", "runs"): "gpt-2", ("gpt2", "single"): "gpt-2",
}
"""(words, digits) -> the name of the split that the tokenizer carries."""


def _regex(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _gpt2_single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


SPLITS = {
    "qwen2": lambda: _regex(SINGLE_DIGITS),
    "llama-bpe": lambda: _regex(TRIPLE_DIGITS),
    "gpt-4o": lambda: _regex(IDENTIFIERS),
    "cl100k": lambda: _regex(CL100K),
    "gpt-2": _gpt2,
    "smollm": _gpt2_single_digits,
}
"""Name -> function that makes the pre-tokenizer. The names are those of `tokenizer.ggml.pre` in GGUF files (`cl100k` is
tiktoken's)."""

PATTERNS = {"qwen2": SINGLE_DIGITS, "llama-bpe": TRIPLE_DIGITS, "gpt-4o": IDENTIFIERS, "gpt-2": GPT2}
"""The splits that are one pattern and nothing else."""

FINER = {
    "digits": r"(?<=\p{N})(?=\p{N})|(?<= )(?=\p{N})",
    "whitespace": r"(?<=\s)(?=\s)",
    "identifiers": r"(?<=\p{Ll})(?=\p{Lu})|(?<=[\p{L}\p{N}])(?=_)|(?<=_)(?=\p{L})",
    "characters": r"(?m:.)",
}
"""Rules that split more finely while training: around every digit, between two white spaces, where case changes and
around underscores in identifiers, and between any two characters."""


def split_named(name: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer called `name`; an unknown name is a UserError that lists the known ones."""
    if name not in SPLITS:
        raise UserError(f"unknown pre-tokenizer {name!r}", fix=f"use one of: {', '.join(sorted(SPLITS))}")
    return SPLITS[name]()


def training_split(name: str, finer: Iterable[str] = ()) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer called `name`, with more borders by rules of `FINER`: for training only."""
    rules = [FINER[rule] for rule in finer]
    if not rules:
        return split_named(name)
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERNS[name]), behavior="isolated"),
        *(pre_tokenizers.Split(Regex(rule), behavior="isolated") for rule in rules),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
