"""The encoder body: every token sees all of its document; BERT, RoBERTa, XLM and XLM-R."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.core.errors import UserError
from gristmill.models.body import Body
from gristmill.models.config import EncoderConfig
from gristmill.models.decoder import positions_in_documents
from gristmill.models.layers import flex
from gristmill.models.layers.attention import attention
from gristmill.models.layers.linear import joined_linear
from gristmill.models.layers.masks import FULL
from gristmill.models.layers.mlp import ACTIVATIONS, MLP


class Embedding(nn.Module):
    """Tokens, positions, segments and languages: a vector of each, summed and normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.tokens = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.first_position + config.context, config.dim)
        # A fixed table is a weight all the same, because the public format stores it.
        self.positions.weight.requires_grad_(config.positions == "learned")
        self.segments = nn.Embedding(config.segments, config.dim) if config.segments else None
        self.languages = nn.Embedding(len(config.languages), config.dim) if config.languages else None
        self.norm = nn.LayerNorm(config.dim, config.norm_eps)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None, langs: Tensor | None,
    ) -> Tensor:
        x = self.tokens(input_ids) + self.positions(position_ids)
        if self.segments is not None:
            x = x + (self.segments.weight[0] if token_type_ids is None else self.segments(token_type_ids))
        if self.languages is not None and langs is not None:
            x = x + self.languages(langs)
        return dropped(self.norm(x), self.dropout, self.training)


class Attention(nn.Module):
    """Self-attention in both directions."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.head_dim, self.dropout = config.head_dim, config.attention_dropout
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.output = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, document_ids: Tensor | None = None, mask: Any = None) -> Tensor:
        """x (batch, time, dim) -> (batch, time, dim); mask: see `attention`."""
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                   for part in joined_linear(x, self.query, self.key, self.value))
        mixed = attention(q, k, v, document_ids, pattern=FULL, dropout=self.dropout if self.training else 0.0,
                          mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)): the norms come after the sums (Vaswani et al. 2017)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config.dim, config.mlp_dim, config.mlp)
        self.mlp_norm = nn.LayerNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, document_ids: Tensor | None = None, mask: Any = None) -> Tensor:
        x = self.attention_norm(x + dropped(self.attention(x, document_ids, mask), self.dropout, self.training))
        return self.mlp_norm(x + dropped(self.mlp(x), self.dropout, self.training))


class Head(nn.Module):
    """What stands between the last block and the predictions; which parts there are follows from the config."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation = config.transform
        self.transform = nn.Linear(config.dim, config.dim) if config.transform else None
        self.norm = nn.LayerNorm(config.dim, config.norm_eps) if config.transform else None
        self.weight = None if config.tied_head else nn.Parameter(torch.empty(config.vocab_size, config.dim))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.pooler = nn.Linear(config.dim, config.dim) if config.next_sentence else None
        self.pair = nn.Linear(config.dim, 2) if config.next_sentence else None
        if self.weight is not None:
            nn.init.normal_(self.weight, std=config.dim**-0.5)

    def forward(self, states: Tensor) -> Tensor:
        """States of the last block (..., dim) -> the states that the output matrix reads (..., dim)."""
        if self.transform is None or self.norm is None or self.activation is None:
            return states
        return self.norm(ACTIVATIONS[self.activation](self.transform(states)))


class Encoder(Body):
    """Token ids in, logits out: position t holds what the model thinks stands at t itself."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)

    @property
    def head_weight(self) -> Tensor:
        """The matrix that turns the states of `hidden` into logits, (vocab, dim)."""
        return self.embedding.tokens.weight if self.head.weight is None else self.head.weight

    @property
    def head_bias(self) -> Tensor:
        """What is added to every position's logits, (vocab,)."""
        return self.head.bias

    def encode(
        self, input_ids: Tensor, *, document_ids: Tensor | None = None, position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None, langs: Tensor | None = None,
    ) -> Tensor:
        """States of the last block, (batch, time, dim).

        input_ids (batch, time); document_ids (batch, time): attention stays within equal ids; position_ids (batch or 1,
        time): rows of the position table, default `config.first_position` and on, anew in every document;
        token_type_ids (batch, time): the segment of each token, default 0; langs (batch, time): the number of its
        language in `config.languages`, default none is added. UserError for a row longer than the context.
        """
        time = input_ids.shape[1]
        if time > self.config.context:
            raise UserError(f"a row of {time} tokens does not fit the context of {self.config.context}",
                            where=self.config.family, fix="cut the text, or use a model with a longer context")
        if position_ids is None:
            position_ids = torch.arange(time, device=input_ids.device)[None]
            if document_ids is not None:
                position_ids = positions_in_documents(document_ids)
            position_ids = position_ids + self.config.first_position
        x = self.embedding(input_ids, position_ids, token_type_ids, langs)
        drops = self.config.attention_dropout and self.training
        mask = None if drops else flex.layer_masks(
            [FULL], input_ids, self.config.head_dim, document_ids).get(FULL)
        for block in self.blocks:
            x = block(x, document_ids, mask)
        return x

    def hidden(
        self, input_ids: Tensor, *, document_ids: Tensor | None = None, position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None, langs: Tensor | None = None,
    ) -> Tensor:
        """The states that the output matrix reads, (batch, time, dim); arguments as in `encode`."""
        return self.head(self.encode(input_ids, document_ids=document_ids, position_ids=position_ids,
                                     token_type_ids=token_type_ids, langs=langs))

    def forward(
        self, input_ids: Tensor, *, document_ids: Tensor | None = None, position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None, langs: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, time, vocab); arguments as in `encode`."""
        states = self.hidden(input_ids, document_ids=document_ids, position_ids=position_ids,
                             token_type_ids=token_type_ids, langs=langs)
        return F.linear(states, self.head_weight, self.head_bias)

    def pair_logits(self, states: Tensor) -> Tensor:
        """Logits (batch, 2) that the second text of each row follows the first (0) or does not (1).

        states (batch, time, dim): of `encode`; the first position of a row is read.
        """
        if self.head.pooler is None or self.head.pair is None:
            raise UserError("this model has no head for pairs of texts", where=self.config.family,
                            fix="use a model of the family bert with the option next_sentence: true")
        return self.head.pair(torch.tanh(self.head.pooler(states[:, 0])))

    def log_probabilities(self, input_ids: Tensor, *, language: str | None = None) -> Tensor:
        """What stands at each place of one text, (time, vocab) in nats, fp32.

        input_ids (time,); language: one of `config.languages`. Where the model has languages and none is named, each is
        as likely as the others. UserError for a language that it does not know.
        """
        known = self.config.languages
        if language is not None and language not in known:
            raise UserError(f"this model has no language {language!r}", where="language",
                            fix=f"it has {', '.join(known)}" if known else "leave it out: it has none")
        if not known:
            return self(input_ids[None])[0].float().log_softmax(-1)
        numbers = torch.tensor([known.index(language)] if language else range(len(known)), device=input_ids.device)
        rows = input_ids.expand(len(numbers), -1)
        logs = self(rows, langs=numbers[:, None].expand_as(rows)).float().log_softmax(-1)
        return logs.logsumexp(0) - math.log(len(numbers))

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fresh weights: normal with deviation 1/sqrt(fan_in) for matrices and 1/sqrt(dim) for embeddings, zero for
        what writes into the residual stream and for biases; a fixed position table gets its sines and cosines."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name == "embedding.positions.weight" and not parameter.requires_grad:
                parameter.copy_(sinusoids(*parameter.shape))
            elif name.endswith(("attention.output.weight", "mlp.down.weight")):
                parameter.zero_()
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)


def sinusoids(positions: int, dim: int) -> Tensor:
    """Fixed position vectors, (positions, dim): sines in even channels, cosines in odd ones, wavelengths from 2 pi to
    10000 times as much (Vaswani et al. 2017, section 3.5)."""
    channels = torch.arange(dim, dtype=torch.float64)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] / 10_000 ** (2 * (channels // 2) / dim)
    return torch.where(channels % 2 == 0, angles.sin(), angles.cos()).float()


def dropped(x: Tensor, share: float, training: bool) -> Tensor:
    """x with a share of its values dropped, in training."""
    return F.dropout(x, share) if share and training else x
