"""Fill in the middle: a span is moved to the end, so that a causal model learns to write what lies between two texts
(Bavarian et al. 2022, arXiv:2207.14255)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.objectives.base import Batch
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.pretraining.causal_lm import check_decoder, check_regularisation, guess_next
from gristmill.objectives.pretraining.rewritten import Rewritten, pieces
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import EvaluationBatches, TokenShards, text_batches
from gristmill.tokens.batches import empty_batch

ADDED = 4
"""Tokens that a rewritten piece has more than its text: three sentinels, and the end of the middle."""


@config
class FillInTheMiddle:
    """Some pieces of documents are cut in three and read as prefix, suffix, middle; the others as they are.

    Cuts fall between tokens. (The paper cuts between characters, which helps when a prompt ends inside a token; a
    prompt that is encoded as it stands ends between tokens.) Evaluation is on plain text, so that bits per byte stay
    comparable. """

    best_fit: ClassVar[bool] = True

    kind: Literal["fill_in_the_middle"] = "fill_in_the_middle"
    rate: float = 0.5
    """Share of the pieces that are rewritten; the paper finds up to 0.9 free for left-to-right loss."""
    suffix_first: float = 0.5
    """Of those, the share in the order suffix, prefix, middle (SPM) instead of prefix, suffix, middle (PSM)."""
    prefix_token: str = "<|fim_prefix|>"
    """Special token before the prefix, by its name in the tokenizer."""
    suffix_token: str = "<|fim_suffix|>"
    """Special token before the suffix."""
    middle_token: str = "<|fim_middle|>"
    """Special token before the middle."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over the whole vocabulary. `loss` is reported without it."""
    z_loss: float = 0.0
    """Weight of log(Z)². `loss` is reported without it."""

    def __post_init__(self) -> None:
        for name in ("rate", "suffix_first"):
            require(0 <= getattr(self, name) <= 1, name, "must be from 0 to 1")
        require(len({self.prefix_token, self.suffix_token, self.middle_token}) == 3, "middle_token",
                "the three tokens must differ")
        check_regularisation(self.label_smoothing, self.z_loss)

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        """A decoder, and a tokenizer with the three tokens."""
        check_decoder(self.kind, model_config)
        Sentinels.of(self, tokenizer)

    def loss(self, model_config: Any) -> CausalLM:
        return CausalLM(label_smoothing=self.label_smoothing, z_loss=self.z_loss)

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> Rewritten:
        sentinels = Sentinels.of(self, tokenizer)

        def rewrite(whole: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
            return rearrange(whole, rng, sentinels, self.rate, self.suffix_first)

        return Rewritten(text_batches(shards, context=context, batch=batch, seed=seed), rewrite, seed)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> EvaluationBatches:
        return EvaluationBatches(shards, context, batch, limit_tokens=limit_tokens)

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        return guess_next(model, tokenizer, before, true)


@dataclass(frozen=True)
class Sentinels:
    """Ids of the tokens around the three parts, and of those around a document."""

    prefix: int
    suffix: int
    middle: int
    start: int | None
    end: int

    @classmethod
    def of(cls, settings: FillInTheMiddle, tokenizer: Tokenizer) -> Sentinels:
        """UserError where the tokenizer lacks one."""
        names = (settings.prefix_token, settings.suffix_token, settings.middle_token)
        ids = [tokenizer.token_id(name) for name in names]
        missing = [name for name, found in zip(names, ids, strict=True) if found is None]
        if missing:
            listed = ", ".join(f'"{name}"' for name in names)
            raise UserError(f"the tokenizer has no token {' and no token '.join(missing)}", where="objective",
                            fix=f"give the tokenizer stage `special_tokens: [{listed}]`, or name the tokens that it "
                                "has as prefix_token, suffix_token and middle_token")
        prefix, suffix, middle = (found for found in ids if found is not None)
        return cls(prefix, suffix, middle, tokenizer.document_start_id, tokenizer.document_end_id)


def rearrange(batch: Batch, rng: np.random.Generator, sentinels: Sentinels, rate: float,
              suffix_first: float) -> dict[str, Tensor]:
    """The batch with a share `rate` of its pieces of documents rewritten; each stays a document of its own.

    A rewritten piece is 3 or 4 tokens longer, so the last tokens of a row fall off at its end. Every token is scored
    but the first of a document, as in the paper.
    """
    inputs, targets, documents = (batch[name].numpy() for name in ("input_ids", "targets", "document_ids"))
    rows, time = inputs.shape
    result = empty_batch(rows, time)
    made: list[list[np.ndarray]] = [[] for _ in range(rows)]
    for row, start, stop in pieces(documents):
        tokens = inputs[row, start:stop]
        if targets[row, stop - 1] != IGNORED:  # the window ends within the document
            tokens = np.append(tokens, targets[row, stop - 1])
        room = time + 1 - sum(map(len, made[row]))
        if rng.random() < rate:
            tokens = moved(tokens, rng, sentinels, room, rng.random() < suffix_first)
        made[row].append(tokens[:room])
    for row, parts in enumerate(made):
        tokens = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        length = max(min(len(tokens) - 1, time), 0)
        out = (result[name].numpy()[row, :length] for name in ("input_ids", "targets", "document_ids"))  # type: ignore[literal-required]
        same = numbers[1:] == numbers[:-1]
        for target, values in zip(out, (tokens[:-1], np.where(same, tokens[1:], IGNORED), numbers[:-1]), strict=True):
            target[:] = values
    return dict(result)  # type: ignore[arg-type]


def moved(tokens: np.ndarray, rng: np.random.Generator, sentinels: Sentinels, room: int,
          suffix_first: bool) -> np.ndarray:
    """A piece of a document, (tokens,), with a random span of it at the end: at most `room` tokens.

    start, <prefix> prefix <suffix> suffix <middle> middle, end (PSM); or start, <prefix> <suffix> suffix <middle>
    prefix middle, end (SPM, the paper's second form, which shares its sentinels with PSM). Both cuts are uniform over
    the places between tokens. Returned as it is where no two tokens of text would fit.
    """
    starts = int(sentinels.start is not None and tokens[0] == sentinels.start)
    ends = int(tokens[-1] == sentinels.end and len(tokens) > starts)
    text = tokens[starts:len(tokens) - ends][:max(room - starts - ADDED, 0)]
    if len(text) < 2:
        return tokens
    first, second = np.sort(rng.integers(0, len(text) + 1, size=2))
    prefix, middle, suffix = text[:first], text[first:second], text[second:]
    marks = (np.array([mark]) for mark in (sentinels.prefix, sentinels.suffix, sentinels.middle))
    before, after, between = marks
    order = (before, after, suffix, between, prefix, middle) if suffix_first else (
        before, prefix, after, suffix, between, middle)
    return np.concatenate([tokens[:starts], *order, np.array([sentinels.end])])
