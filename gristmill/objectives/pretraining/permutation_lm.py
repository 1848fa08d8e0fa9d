"""Permutation language modelling: which tokens of a row are predicted, and in which order (Yang et al. 2019,
arXiv:1906.08237, sections 2.2, 2.3 and 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.core.seeds import derive_seed
from gristmill.models.config import TwoStreamConfig
from gristmill.models.config.two_stream import PREDICTED
from gristmill.objectives.permutation_lm import PermutationLM
from gristmill.objectives.pretraining.rewritten import gathered
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import EvaluationBatches, PackedBatches, TokenShards
from gristmill.tokens.batches import IGNORED, PADDING


@config
class PermutationLanguageModelling:
    """Predict spans of tokens in a random order, each token from its context and from those before it."""

    kind: Literal["permutation_lm"] = "permutation_lm"
    one_in: int = PREDICTED
    """One token in so many is predicted (K of the paper); the others are context that everybody sees. 1 predicts
    all."""
    longest_span: int = 5
    """Predicted tokens come in spans of 1 to so many, all lengths being equally likely."""
    memory: int = 0
    """Tokens before each row that the model reads first and remembers, without gradient (segment recurrence); 0 for
    none. The paper takes as many as a row has."""

    def __post_init__(self) -> None:
        require(self.one_in >= 1, "one_in", "must be at least 1")
        require(self.longest_span >= 1, "longest_span", "must be at least 1")
        require(self.memory >= 0, "memory", "must not be negative")

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        """UserError for a body without queries, or one that would not remember what it is given."""
        if not isinstance(model_config, TwoStreamConfig):
            raise UserError(f"permutation_lm trains two-stream models; {model_config.family} is none",
                            where="objective", fix="use model.family xlnet, or leave `objective` out")
        if model_config.causal:
            raise UserError("permutation_lm needs a model that looks both ways, this one is causal", where="objective",
                            fix="leave out the model's option `causal`")
        if self.memory and (model_config.reuse is not None or self.memory > (model_config.memory or self.memory)):
            raise UserError(
                f"the model forgets part of the {self.memory} tokens before a row (its memory is "
                f"{model_config.memory}, its reuse {model_config.reuse})", where="objective.memory",
                fix="ask for no more than the model's memory, and leave out its option `reuse`")

    def loss(self, model_config: Any) -> PermutationLM:
        return PermutationLM()

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> PermutedBatches:
        return PermutedBatches(PackedBatches(shards, context=context, batch=batch, seed=seed), self,
                               unscored(tokenizer), seed)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> HeldOutPermuted:
        return HeldOutPermuted(EvaluationBatches(shards, context, batch, limit_tokens=limit_tokens), self,
                               unscored(tokenizer), seed)

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        ids = ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(before)
        time = len(ids) + 1
        # Nobody sees the last place; what stands there is of no matter.
        device = model.head_weight.device
        hidden = torch.zeros((1, time, time), dtype=torch.bool, device=device)
        hidden[:, :, -1] = True
        target = torch.zeros((1, 1, time), device=device)
        target[:, :, -1] = 1
        logits = model(torch.tensor([[*ids, tokenizer.eos_id]], device=device), perm_mask=hidden,
                       target_mapping=target)[0, 0]
        return logits.float().log_softmax(-1), tokenizer.encode(true)[0]


class PermutedBatches:
    """Training batches: rows of text as for causal models, with predicted tokens and their order drawn for each row.

    Every row has the same number of targets, so that shapes never change.
    """

    def __init__(self, text: PackedBatches, options: PermutationLanguageModelling, unscored: int | None,
                 seed: int) -> None:
        """unscored: a token that is never scored, because its place gives it away."""
        self.text, self.options, self.unscored, self.seed = text, options, unscored, seed

    @property
    def steps(self) -> int | None:
        """Batches in all, or None without an end."""
        return self.text.steps

    @property
    def tokens_per_batch(self) -> int:
        return self.text.tokens_per_batch

    @property
    def epoch_rows(self) -> int:
        """Rows after which each has come once."""
        return self.text.epoch_rows

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of `step`, a pure function of (seed, step)."""
        starts = (self.text.order.at(step) * self.text.context).tolist()
        whole = self.text.batch(step)
        return with_targets(whole["input_ids"], whole["document_ids"], self.options, self.unscored,
                        (self.seed, step)) | remembered(self.text.shards, starts, self.options.memory)

    def rows(self, places: np.ndarray) -> dict[str, Tensor]:
        """The rows at these places of training, as the batches have them."""
        return gathered(self.batch, self.text.batch_size, places)

    def documents(self, place: int) -> list[str]:
        """The documents of the row at this place of training."""
        return self.text.documents(place)


class HeldOutPermuted:
    """The first whole documents in order, always with the same tokens predicted in the same order."""

    total_bytes = None

    def __init__(self, rows: EvaluationBatches, options: PermutationLanguageModelling, unscored: int | None,
                 seed: int) -> None:
        self.rows, self.options, self.unscored, self.seed = rows, options, unscored, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step, whole in enumerate(self.rows):
            size = self.rows.batch_size
            starts = [row * self.rows.context for row in range(step * size, (step + 1) * size)]
            yield with_targets(whole["input_ids"], whole["document_ids"], self.options, self.unscored,
                           (self.seed, "held out", step)) | remembered(
                               self.rows.shards, starts, self.options.memory)


def unscored(tokenizer: Tokenizer) -> int | None:
    """The token that begins every document, where it does nothing else: its place gives it away."""
    start = tokenizer.document_start_id
    return None if start == tokenizer.document_end_id else start


def with_targets(
    input_ids: Tensor, document_ids: Tensor, options: PermutationLanguageModelling, unscored: int | None,
    seed: tuple[int | str, ...],
) -> dict[str, Tensor]:
    """A batch for `PermutationLM` from rows of text, both (batch, time); padding (document -1) is at their ends. The
    draws of a row are a pure function of the seed and its number."""
    rows, time = input_ids.shape
    ids = input_ids.numpy()
    lengths = (document_ids != PADDING).sum(1).tolist()
    ranks = np.full((rows, time), -1, dtype=np.int32)
    places = np.full((rows, max(1, time // options.one_in)), -1, dtype=np.int64)
    targets = np.full(places.shape, IGNORED, dtype=np.int64)
    for row, length in enumerate(lengths):
        if not length:
            continue
        generator = np.random.Generator(np.random.Philox(key=derive_seed(*seed, row)))
        chosen = spans(length, options, generator)
        ranks[row, chosen] = generator.permutation(len(chosen))
        places[row, :len(chosen)] = chosen
        found = ids[row, chosen]
        targets[row, :len(chosen)] = found if unscored is None else np.where(found == unscored, IGNORED, found)
    return {"input_ids": input_ids, "document_ids": document_ids, "ranks": torch.from_numpy(ranks),
            "target_positions": torch.from_numpy(places), "targets": torch.from_numpy(targets)}


def spans(length: int, options: PermutationLanguageModelling, generator: np.random.Generator) -> np.ndarray:
    """The places that are predicted in a row of `length` tokens, ascending: always length // one_in, at least one.

    Lengths of spans are drawn until they add up; each span of n tokens lies somewhere in a stretch of one_in * n tokens
    of its own (arXiv:1906.08237, section 3.1). What the stretches leave over is at both ends of the row.
    """
    wanted, one_in = max(1, length // options.one_in), min(options.one_in, length)
    sizes: list[int] = []
    while (missing := wanted - sum(sizes)) > 0:
        sizes.append(min(missing, int(generator.integers(1, options.longest_span + 1))))
    begin = int(generator.integers(0, length - wanted * one_in + 1))
    places = []
    for size in sizes:
        first = begin + int(generator.integers(0, (one_in - 1) * size + 1))
        places.append(np.arange(first, first + size))
        begin += one_in * size
    return np.concatenate(places)


def remembered(shards: TokenShards, starts: list[int], memory: int) -> dict[str, Tensor]:
    """The `memory` tokens before each row, (batch, memory), and their documents, numbered as in the row; padding where
    the text has not begun or the row is empty. starts: the place in the shards of each row's first token."""
    if not memory:
        return {}
    ids = np.zeros((len(starts), memory), dtype=np.int64)
    documents = np.full(ids.shape, PADDING, dtype=np.int32)
    for row, start in enumerate(starts):
        first = max(0, start - memory)
        if first == start or start >= shards.total_tokens:
            continue
        ids[row, first - start:] = shards.slice(first, start)
        index = shards.document_index(first, start + 1)
        # A row counts its documents from 0, so the one that it goes on with is 0; those before it get other numbers.
        documents[row, first - start:] = np.where(index[:-1] == index[-1], 0, index[:-1] - index[-1] + PADDING)
    return {"memory_ids": torch.from_numpy(ids), "memory_document_ids": torch.from_numpy(documents)}
