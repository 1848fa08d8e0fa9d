"""Which tokens are hidden, and what is put in their place: tokens, whole words or spans of words.

Everything here is a pure function of its arguments and a generator that the caller derives from (seed, row).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gristmill.core.config import config, require
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.tokenizer import Tokenizer

_WORD = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") | frozenset(range(0x80, 0x100))
"""Bytes that belong to words: letters, digits, and all of UTF-8 beyond ASCII."""
_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "…")
WORDPIECE_SHARE = 0.02
"""A vocabulary with this share of `##` pieces is a WordPiece one; others hold a few of them as text."""


@config
class Masking:
    """How many tokens are hidden, in which units, and how (Devlin et al. 2019, section 3.1)."""

    share: float = 0.15
    """Share of a row's tokens that are to be predicted; at least one is."""
    unit: Literal["token", "word", "span"] = "token"
    """What is hidden together: single tokens, whole words (BERT's whole-word masking), or spans of whole words with
    geometric lengths (SpanBERT, arXiv:1907.10529, section 3.1)."""
    masked: float = 0.8
    """Of the hidden tokens, the share that become the mask token."""
    random: float = 0.1
    """The share that become another token at random; the rest stay as they are."""
    span_p: float = 0.2
    """Of span lengths in words: the chance to stop after each word. Spans of up to 10 are 3.8 words long on average."""
    span_longest: int = 10
    """Longest span, in words."""
    refresh: Literal["dynamic", "static"] = "dynamic"
    """dynamic: other tokens are hidden in every epoch (RoBERTa). static: `copies` ways take turns (BERT)."""
    copies: int = 10
    """How many ways of hiding a row static masking has; 1 always hides the same tokens."""

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", "must be above 0 and at most 1")
        for name in ("masked", "random"):
            require(0 <= getattr(self, name) <= 1, name, "must be from 0 to 1")
        require(self.masked + self.random <= 1 + 1e-9, "random", "masked and random together must be at most 1")
        require(0 < self.span_p < 1, "span_p", "must be between 0 and 1")
        require(self.span_longest >= 1, "span_longest", "must be at least 1")
        require(self.copies >= 1, "copies", "must be at least 1")

    def version(self, epoch: int) -> int:
        """Which of a row's masks is used in this epoch."""
        return epoch if self.refresh == "dynamic" else epoch % self.copies


@dataclass(frozen=True)
class Vocabulary:
    """What masking has to know of a tokenizer, as tables over its ids."""

    mask_id: int
    special: np.ndarray
    """(vocab,) of bool: never hidden, and never put in another token's place."""
    ordinary: np.ndarray
    """Ids of the other tokens."""
    begins_inside: np.ndarray
    """(vocab,) of bool: the token goes on with a word where the one before ends inside one."""
    ends_inside: np.ndarray
    """(vocab,) of bool: the token leaves a word open."""
    ends_sentence: np.ndarray
    """(vocab,) of bool: a sentence or a line ends with it."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, mask_id: int) -> Vocabulary:
        """The tables of a tokenizer: byte-level, SentencePiece or WordPiece."""
        size = tokenizer.vocab_size
        special = np.zeros(size, dtype=bool)
        special[sorted(tokenizer.special_ids)] = True
        special[mask_id] = True
        pieces = [tokenizer.token_bytes(i) for i in range(size)]
        continues = np.array([piece.startswith(b"##") for piece in pieces])
        if continues.mean() > WORDPIECE_SHARE:  # a piece says itself that it goes on; words have no spaces between them
            begins, ends = continues, np.ones(size, dtype=bool)
        else:
            begins = np.array([bool(piece) and piece[0] in _WORD for piece in pieces])
            ends = np.array([bool(piece) and piece[-1] in _WORD for piece in pieces])
        sentence = np.array([_ends_sentence(piece) for piece in pieces])
        return cls(mask_id, special, np.flatnonzero(~special), begins & ~special, ends & ~special, sentence & ~special)

    def word_starts(self, ids: np.ndarray, document_ids: np.ndarray | None = None) -> np.ndarray:
        """Whether a word (or what stands between words) begins at each of `ids` (time,); never across documents."""
        starts = np.ones(len(ids), dtype=bool)
        starts[1:] = ~(self.begins_inside[ids[1:]] & self.ends_inside[ids[:-1]])
        if document_ids is not None:
            starts[1:] |= document_ids[1:] != document_ids[:-1]
        return starts


def _ends_sentence(piece: bytes) -> bool:
    text = piece.decode("utf-8", errors="replace")
    return "\n" in text or text.rstrip().endswith(_SENTENCE_ENDS)


def hide(
    masking: Masking, vocabulary: Vocabulary, ids: np.ndarray, document_ids: np.ndarray, rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A row with some of its tokens hidden: (input_ids, targets), both (time,) int64.

    ids (time,); document_ids (time,): -1 is padding. Special tokens and padding are never hidden; where a row has an
    ordinary token at least one is. Targets are -100 but where a token is to be predicted.
    """
    ids = np.asarray(ids, dtype=np.int64)
    able = (document_ids >= 0) & ~vocabulary.special[ids]
    inputs, targets = ids.copy(), np.full(len(ids), IGNORED, dtype=np.int64)
    count = int(able.sum())
    if not count:
        return inputs, targets
    wanted = max(1, round(masking.share * count))
    if masking.unit == "token":
        chosen = np.sort(rng.choice(np.flatnonzero(able), size=wanted, replace=False))
        groups = np.arange(len(chosen))
    else:
        words = _words(able, vocabulary.word_starts(ids, document_ids))
        chosen, groups = (_whole_words if masking.unit == "word" else _spans)(masking, words, wanted, rng)
    targets[chosen] = ids[chosen]
    # SpanBERT treats all of a span alike; elsewhere every token is drawn for itself.
    alike = groups if masking.unit == "span" else np.arange(len(chosen))
    fate = rng.random(len(chosen))[alike]
    inputs[chosen[fate < masking.masked]] = vocabulary.mask_id
    other = chosen[(fate >= masking.masked) & (fate < masking.masked + masking.random)]
    inputs[other] = rng.choice(vocabulary.ordinary, size=len(other))
    return inputs, targets


def _words(able: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    """The places of each word's tokens; what may not be hidden belongs to no word and parts the words around it."""
    places = np.flatnonzero(able)
    broken = starts[places]
    broken[1:] |= np.diff(places) > 1
    return np.split(places, np.flatnonzero(broken[1:]) + 1)


def _whole_words(
    masking: Masking, words: list[np.ndarray], wanted: int, rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Words in random order while they fit into `wanted` tokens; the shortest where none fits."""
    kept: list[int] = []
    room = wanted
    for number in rng.permutation(len(words)).tolist():
        if len(words[number]) <= room:
            kept.append(number)
            room -= len(words[number])
            if not room:
                break
    return _joined(words, [[number] for number in sorted(kept)])


def _spans(
    masking: Masking, words: list[np.ndarray], wanted: int, rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Spans of neighbouring words from random starts, until `wanted` tokens are hidden or nothing fits any more."""
    lengths = np.arange(1, masking.span_longest + 1)
    chances = masking.span_p * (1 - masking.span_p) ** (lengths - 1)
    chances /= chances.sum()
    taken = np.zeros(len(words), dtype=bool)
    spans: list[list[int]] = []
    room = wanted
    # Every word is a start once: the loop ends, and a full row cannot make it try for ever.
    for start in rng.permutation(len(words)).tolist():
        if not room:
            break
        span: list[int] = []
        for number in range(start, min(start + int(rng.choice(lengths, p=chances)), len(words))):
            near = not span or words[number][0] == words[number - 1][-1] + 1
            if taken[number] or not near or len(words[number]) > room:
                break
            span.append(number)
            taken[number] = True
            room -= len(words[number])
        if span:
            spans.append(span)
    return _joined(words, sorted(spans))


def _joined(words: list[np.ndarray], groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The places of all words in `groups` (the shortest word where there is none), and the group of each place."""
    if not groups:
        groups = [[min(range(len(words)), key=lambda number: len(words[number]))]]
    places = [np.concatenate([words[number] for number in group]) for group in groups]
    return np.concatenate(places), np.repeat(np.arange(len(groups)), [len(part) for part in places])
