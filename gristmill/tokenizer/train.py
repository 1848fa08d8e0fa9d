"""Training a tokenizer on text: byte-level BPE, Unigram, WordPiece, words, characters; or just the bytes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from gristmill.core.errors import MachineError, UserError
from gristmill.tokenizer.alphabet import CHARACTER_OF, piece_of
from gristmill.tokenizer.chat import DEFAULT_TEMPLATE
from gristmill.tokenizer.splits import PATTERNS, split_named, training_split
from gristmill.tokenizer.tokenizer import Tokenizer, configuration

PAD, BOS, EOS, END, MASK, UNK = "<|pad|>", "<|bos|>", "<|eos|>", "<|end|>", "<|mask|>", "<|unk|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, "<|system|>", "<|user|>", "<|assistant|>", END)
"""Ids 0 to 6 of every tokenizer of ours, in this order."""

BYTES = 256

MOST_CHARACTERS = 1000
"""Characters that a WordPiece vocabulary holds at most, the commonest; others make a word unknown (BERT has 997)."""

Method = Literal["bpe", "unigram", "wordpiece", "word", "character", "byte"]
BYTE_LEVEL: tuple[Method, ...] = ("bpe", "unigram", "character", "byte")
"""Methods whose vocabulary holds all 256 bytes: they know no unknown text, and give every text back exactly."""


@dataclass(frozen=True)
class Normalization:
    """What is changed in a text before it is split; what is changed does not come back."""

    form: Literal["none", "nfc", "nfkc"] = "none"
    lowercase: bool = False
    strip_accents: bool = False

    def build(self) -> normalizers.Normalizer | None:
        """The normalizer of the library, or None where nothing is changed."""
        steps: list[normalizers.Normalizer] = []
        if self.form != "none":
            steps.append(normalizers.NFC() if self.form == "nfc" else normalizers.NFKC())
        if self.strip_accents:
            steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
        if self.lowercase:
            steps.append(normalizers.Lowercase())
        return (steps[0] if len(steps) == 1 else normalizers.Sequence(steps)) if steps else None


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    split: name of the pre-tokenizer, see splits.SPLITS. finer: rules of splits.FINER that hold while training.
    min_count: a pair (or word) seen less often makes no entry. fast: count and merge with rustbpe where it can.
    """

    vocab_size: int
    method: Method = "bpe"
    extra_special_tokens: tuple[str, ...] = ()
    split: str = "qwen2"
    finer: tuple[str, ...] = ()
    min_count: int = 2
    normalization: Normalization = field(default_factory=Normalization)
    chat_template: str | None = DEFAULT_TEMPLATE
    fast: bool = False

    @property
    def special_tokens(self) -> list[str]:
        """All special tokens in the order of their ids; those without bytes need one for unknown text."""
        unknown = [] if self.method in BYTE_LEVEL else [UNK]
        return [*SPECIAL_TOKENS, *unknown, *self.extra_special_tokens]


def smallest_vocabulary(special_tokens: int, method: Method = "bpe") -> int:
    """Special tokens, the 256 bytes of a byte-level method, and one entry that is learned."""
    return special_tokens + (BYTES if method in BYTE_LEVEL else 0) + (method != "byte")


def train_bpe(
    texts: Iterable[list[str]],
    *,
    vocab_size: int,
    extra_special_tokens: Iterable[str] = (),
    chat_template: str | None = DEFAULT_TEMPLATE,
    split: str = "qwen2",
    min_count: int = 2,
) -> Tokenizer:
    """Byte-level BPE with exactly `vocab_size` entries; see `train`. texts: batches of texts."""
    return train(texts, Plan(vocab_size=vocab_size, extra_special_tokens=tuple(extra_special_tokens),
                             chat_template=chat_template, split=split, min_count=min_count))


def train(texts: Iterable[list[str]], plan: Plan) -> Tokenizer:
    """Train a tokenizer on batches of texts; only counts of the pieces of text are held in memory.

    bpe: byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; bytes: GPT-2). unigram: a unigram
    language model (Kudo 2018, arXiv:1804.10959), over bytes. wordpiece: Schuster and Nakajima 2012, as BERT has
    it; these two hold the texts in memory.
    word: the commonest words. character: the commonest characters, bytes for the others. byte: the 256 bytes.
    The public tokenizer puts BOS before a text by default, as a document of ours begins.
    Raises UserError where the text allows fewer entries than wanted (character, wordpiece and word take what there is).
    """
    specials = plan.special_tokens
    if len(set(specials)) != len(specials):
        raise UserError("a special token is named twice", where="special_tokens")
    least = smallest_vocabulary(len(specials), plan.method)
    if plan.vocab_size < least:
        held = " and 256 bytes" if plan.method in BYTE_LEVEL else ""
        raise UserError(f"a vocabulary of {plan.vocab_size} has no room for {len(specials)} special tokens{held}",
                        where="vocab_size", fix=f"set at least {least}")
    backend = BUILDERS[plan.method](texts, plan)
    made = backend.get_vocab_size(with_added_tokens=True)
    if made < plan.vocab_size and plan.method in ("bpe", "unigram"):
        learned = made - len(specials) - BYTES
        what = (f"{learned} merges of pairs seen at least {plan.min_count} times" if plan.method == "bpe"
                else f"{learned} pieces of words")
        raise UserError(f"the text allows only {what}, but a vocabulary of {plan.vocab_size} needs "
                        f"{plan.vocab_size - len(specials) - BYTES}", where="vocab_size",
                        fix=f"set vocab_size to {made} or less, or train on more text")
    bos = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)])
    return Tokenizer(backend.to_str(), configuration(
        bos_token=BOS, eos_token=EOS, pad_token=PAD, mask_token=MASK if MASK in specials else None,
        unk_token=UNK if UNK in specials else None, chat_template=plan.chat_template))


def _bpe(texts: Iterable[list[str]], plan: Plan) -> tokenizers.Tokenizer:
    if plan.fast:
        made = _fast_bpe(texts, plan)
        if made is not None:
            return made
    backend = _byte_level(models.BPE(), plan)
    backend.pre_tokenizer = training_split(plan.split, plan.finer)
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=plan.vocab_size, min_frequency=plan.min_count, special_tokens=_added(plan),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    backend.pre_tokenizer = split_named(plan.split)
    return backend


def _fast_bpe(texts: Iterable[list[str]], plan: Plan) -> tokenizers.Tokenizer | None:
    """BPE by rustbpe, which counts and merges 3 to 5 times faster; pairs seen equally often come in another order."""
    try:
        import rustbpe
    except ImportError as error:
        raise MachineError("trainer: fast needs the package rustbpe", fix="pip install rustbpe, or leave trainer out"
                           ) from error
    trainer = rustbpe.Tokenizer()
    wanted = plan.vocab_size - len(plan.special_tokens)
    trainer.train_from_iterator(itertools.chain.from_iterable(texts), wanted, pattern=PATTERNS[plan.split])
    ranks = sorted(((bytes(token), rank) for token, rank in trainer.get_mergeable_ranks()), key=lambda item: item[1])
    return from_ranks([token for token, _ in ranks], plan)


def from_ranks(tokens: list[bytes], plan: Plan) -> tokenizers.Tokenizer:
    """Byte-level BPE from its tokens in the order in which they were made, the 256 bytes first.

    Each token's merge is what the merges before it leave of its bytes: two parts. Raises UserError where a token was
    made twice or cannot be made, which a trained vocabulary never has.
    """
    made: dict[bytes, int] = {token: rank for rank, token in enumerate(tokens)}
    if len(made) != len(tokens):
        raise UserError("the fast trainer made one token twice", fix="set trainer: tokenizers")
    merges = []
    for token in tokens[BYTES:]:
        parts = [token[i:i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [made.get(left + right, len(tokens)) for left, right in itertools.pairwise(parts)]
            best = min(pairs)
            if best >= made[token]:
                break
            at = pairs.index(best)
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) != 2:
            raise UserError("the fast trainer made a token that no merge gives", fix="set trainer: tokenizers")
        merges.append((piece_of(parts[0]), piece_of(parts[1])))
    # The bytes in the order that the library's trainer gives them, so that equal merges give equal files.
    alphabet = sorted(CHARACTER_OF.values())
    pieces = [*plan.special_tokens, *alphabet, *(piece_of(token) for token in tokens[BYTES:])]
    backend = _byte_level(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges), plan)
    backend.add_special_tokens(_added(plan))
    return backend


def _characters(texts: Iterable[list[str]], plan: Plan) -> tokenizers.Tokenizer:
    """BPE that merges only inside characters: its entries are characters and the beginnings that they share."""
    backend = _byte_level(models.BPE(), plan)
    backend.pre_tokenizer = training_split(plan.split, ("characters",))
    backend.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=plan.vocab_size, min_frequency=plan.min_count, special_tokens=_added(plan),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    backend.pre_tokenizer = split_named(plan.split)
    return backend


def _bytes(texts: Iterable[list[str]], plan: Plan) -> tokenizers.Tokenizer:
    return from_ranks([bytes([byte]) for byte in range(BYTES)], plan)


def _unigram(texts: Iterable[list[str]], plan: Plan) -> tokenizers.Tokenizer:
    """A unigram language model by Viterbi training: the pieces of a BPE vocabulary a third too large are counted in the
    likeliest splits of the text, the least used are dropped, and so again. Unlike the library's own trainer, whose sums
    follow the order of a hash table, it gives the same result every time.
    """
    held = list(texts)
    learned = plan.vocab_size - len(plan.special_tokens) - BYTES
    seeds = _bpe(held, replace(plan, vocab_size=plan.vocab_size + learned // 3 + 64, fast=False))
    vocabulary = sorted(seeds.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    pieces = [piece for piece, _ in vocabulary if piece not in plan.special_tokens]
    alphabet = set(CHARACTER_OF.values())
    scores = dict(zip(pieces, (-math.log(rank + 2) for rank in range(len(pieces))), strict=True))
    backend = _byte_level(models.Unigram(), plan)
    for size in (learned + learned // 6, learned, learned, learned):
        backend.model = models.Unigram(list(scores.items()), None, False)
        backend.pre_tokenizer = training_split(plan.split, plan.finer)
        counts = np.zeros(len(scores), dtype=np.int64)
        for batch in held:
            for found in backend.encode_batch_fast(batch, add_special_tokens=False):
                counts += np.bincount(np.array(found.ids, dtype=np.int64), minlength=len(counts))
        used = dict(zip(scores, counts.tolist(), strict=True))
        kept = sorted((one for one in used if one not in alphabet), key=lambda one: (-used[one], one))[:size]
        total = sum(used.values()) + len(used) / 2
        scores = {one: math.log((used[one] + 0.5) / total) for one in [*sorted(alphabet), *kept]}
    entries = [*((token, 0.0) for token in plan.special_tokens), *scores.items()]
    backend = _byte_level(models.Unigram(entries, None, False), plan)
    backend.add_special_tokens(_added(plan))
    return backend


def _wordpiece(texts: Iterable[list[str]], plan: Plan) -> tokenizers.Tokenizer:
    """The library numbers the inner characters (##a) in the order of a hash table, so they are found first, and then
    given to it in order: the same text gives the same entries."""
    held = list(texts)
    counts: Counter[str] = Counter()
    change = plan.normalization.build()
    for batch in held:
        for text in batch:
            counts.update(text if change is None else change.normalize_str(text))
    common = sorted(counts, key=lambda one: (-counts[one], one))[:MOST_CHARACTERS]
    settings: dict[str, Any] = {
        "min_frequency": plan.min_count, "initial_alphabet": [c for c in common if not c.isspace()],
        "limit_alphabet": MOST_CHARACTERS, "show_progress": False}
    inner: list[str] = []
    for size in (1, plan.vocab_size):
        backend = tokenizers.Tokenizer(models.WordPiece(unk_token=UNK))
        _prepare_words(backend, plan)
        backend.train_from_iterator(held, trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=[*plan.special_tokens, *inner], **settings))
        vocabulary = backend.get_vocab(with_added_tokens=False)
        inner = sorted(token for token in vocabulary if len(token) == 3 and token.startswith("##"))
    if len(vocabulary) > plan.vocab_size:
        raise UserError(f"the text has so many characters that a vocabulary of {plan.vocab_size} has no room for words",
                        where="vocab_size", fix=f"set more than {len(vocabulary)}")
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=UNK))
    _prepare_words(backend, plan)
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    backend.add_special_tokens(_added(plan))
    return backend


def _words(texts: Iterable[list[str]], plan: Plan) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token=UNK))
    _prepare_words(backend, plan)
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # joins words by a space; none begins with ##
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(
        vocab_size=plan.vocab_size, min_frequency=plan.min_count, special_tokens=_added(plan), show_progress=False))
    return backend


def _byte_level(model: Any, plan: Plan) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    if (normalizer := plan.normalization.build()) is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = split_named(plan.split)
    backend.decoder = decoders.ByteLevel()
    return backend


def _prepare_words(backend: tokenizers.Tokenizer, plan: Plan) -> None:
    if (normalizer := plan.normalization.build()) is not None:
        backend.normalizer = normalizer
    words: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.BertPreTokenizer()]
    if "digits" in plan.finer:
        words.append(pre_tokenizers.Digits(individual_digits=True))
    backend.pre_tokenizer = words[0] if len(words) == 1 else pre_tokenizers.Sequence(words)


def _added(plan: Plan) -> list[tokenizers.AddedToken]:
    return [tokenizers.AddedToken(token, special=True, normalized=False) for token in plan.special_tokens]


BUILDERS = {"bpe": _bpe, "unigram": _unigram, "wordpiece": _wordpiece, "word": _words, "character": _characters,
            "byte": _bytes}
