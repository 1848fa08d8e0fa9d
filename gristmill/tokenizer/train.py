"""Training a byte-level BPE tokenizer on text."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from gristmill.core.errors import UserError
from gristmill.tokenizer.chat import DEFAULT_TEMPLATE
from gristmill.tokenizer.splits import split_named
from gristmill.tokenizer.tokenizer import Tokenizer, configuration

PAD, BOS, EOS, END, MASK = "<|pad|>", "<|bos|>", "<|eos|>", "<|end|>", "<|mask|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, "<|system|>", "<|user|>", "<|assistant|>", END)
"""Ids 0 to 6 of every tokenizer of ours, in this order."""

BYTES = 256


def smallest_vocabulary(special_tokens: int) -> int:
    """Special tokens, the 256 bytes, and one merge."""
    return special_tokens + BYTES + 1


def train_bpe(
    texts: Iterable[list[str]],
    *,
    vocab_size: int,
    extra_special_tokens: Iterable[str] = (),
    chat_template: str | None = DEFAULT_TEMPLATE,
    split: str = "qwen2",
    min_count: int = 2,
) -> Tokenizer:
    """Train byte-level BPE with exactly `vocab_size` entries (Sennrich et al. 2016, arXiv:1508.07909; bytes: GPT-2).

    texts: batches of texts. min_count: a pair seen less often is no merge. The public tokenizer puts BOS before a
    text by default, as a document of ours begins. Raises UserError where the text allows fewer merges than wanted.
    """
    specials = [*SPECIAL_TOKENS, *extra_special_tokens]
    if len(set(specials)) != len(specials):
        raise UserError("a special token is named twice", where="special_tokens")
    if vocab_size < smallest_vocabulary(len(specials)):
        raise UserError(f"a vocabulary of {vocab_size} has no room for {len(specials)} special tokens and 256 bytes",
                        where="vocab_size", fix=f"set at least {smallest_vocabulary(len(specials))}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = split_named(split)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=[tokenizers.AddedToken(t, special=True, normalized=False) for t in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    made = backend.get_vocab_size(with_added_tokens=True)
    if made < vocab_size:
        merges = made - len(specials) - BYTES
        raise UserError(
            f"the text allows only {merges} merges of pairs seen at least {min_count} times, "
            f"but a vocabulary of {vocab_size} needs {vocab_size - len(specials) - BYTES}",
            where="vocab_size", fix=f"set vocab_size to {made} or less, or train on more text")
    bos = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)])
    return Tokenizer(backend.to_str(), configuration(
        bos_token=BOS, eos_token=EOS, pad_token=PAD, mask_token=MASK if MASK in specials else None,
        chat_template=chat_template))
