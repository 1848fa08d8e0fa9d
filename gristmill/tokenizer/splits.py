"""How text is split into pieces before BPE: the pre-tokenizers of known tokenizers, by their GGUF names.

BPE never merges across pieces, so a vocabulary only works with the split that it was trained with.
"""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

from gristmill.core.errors import UserError

SINGLE_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""GPT-4-like, every digit alone. The split of Qwen2, so vLLM, llama.cpp and fast encoders know it."""

TRIPLE_DIGITS = SINGLE_DIGITS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
"""The split of Llama 3: digits in groups of up to three."""


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
    "gpt-2": _gpt2,
    "smollm": _gpt2_single_digits,
}
"""Name -> function that makes the pre-tokenizer. The names are those of `tokenizer.ggml.pre` in GGUF files."""


def split_named(name: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer called `name`; an unknown name is a UserError that lists the known ones."""
    if name not in SPLITS:
        raise UserError(f"unknown pre-tokenizer {name!r}", fix=f"use one of: {', '.join(sorted(SPLITS))}")
    return SPLITS[name]()
