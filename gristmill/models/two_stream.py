"""The two-stream body: XLNet (Yang et al. 2019, arXiv:1906.08237) over the relative positions and the memory of
Transformer-XL (Dai et al. 2019, arXiv:1901.02860).

The content stream h of a token knows its own word, the query stream g of a target only its place. Both look at the
same keys and values, which come from the content stream, through the same weights. A target may therefore be
predicted from any set of other tokens: `perm_mask` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.core.errors import UserError
from gristmill.models.body import Body
from gristmill.models.config import TwoStreamConfig
from gristmill.models.layers.masks import CAUSAL, Pattern
from gristmill.models.layers.mlp import ACTIVATIONS, MLP
from gristmill.models.layers.relative import RelativeAttention, Scene, queried, sinusoids


class Memory(NamedTuple):
    """What is remembered of earlier segments; carries no gradient."""

    states: tuple[Tensor, ...]
    """What each block was given, (batch, remembered, dim), one a block."""
    document_ids: Tensor | None = None
    """(batch, remembered); None where all of it is document 0."""


class Streams(NamedTuple):
    """What the blocks make of a segment."""

    output: Tensor
    """The states that the head reads: of the targets (batch, targets, dim), else of all tokens (batch, time, dim)."""
    memory: Memory
    """For the next segment."""


class Embedding(nn.Module):
    """A vector for each token, and the one from which every query starts."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.dim)
        self.query = nn.Parameter(torch.zeros(config.dim))


class Block(nn.Module):
    """norm(x + attention(x)), then norm(x + mlp(x)), for both streams."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention = RelativeAttention(config)
        self.attention_norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config.dim, config.mlp_dim, config.mlp)
        self.mlp_norm = nn.LayerNorm(config.dim, config.norm_eps)

    def forward(
        self, h: Tensor, g: Tensor | None, memory: Tensor | None, scene: Scene, content: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """h (batch, time, dim), g (batch, targets, dim), memory (batch, remembered, dim) -> h and g anew.

        content: False leaves h as it is, without its graph; for the last block, where only the queries are read.
        """
        for_h, for_g = self.attention(h, g, memory, scene, content)
        # Nothing goes back from an h that nobody reads: FSDP2 would wait for it, and warn.
        h = h.detach() if for_h is None else self._rest(h, for_h)
        if g is not None and for_g is not None:
            g = self._rest(g, for_g)
        return h, g

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.attention_norm(x + self._dropped(attended))
        inner = self._dropped(ACTIVATIONS[self.mlp.activation](self.mlp.up(x)))
        return self.mlp_norm(x + self._dropped(self.mlp.down(inner)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Head(nn.Module):
    """The output matrix, where it is not the embedding, and its bias."""

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__()
        self.weight = None if config.tied_head else nn.Parameter(torch.empty(config.vocab_size, config.dim))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if self.weight is not None:
            nn.init.normal_(self.weight, std=config.dim**-0.5)


class TwoStream(Body):
    """Token ids in, logits out: of the targets where there are some, else of every token."""

    def __init__(self, config: TwoStreamConfig) -> None:
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
        self, input_ids: Tensor, *, document_ids: Tensor | None = None, token_type_ids: Tensor | None = None,
        perm_mask: Tensor | None = None, targets: Tensor | None = None, mems: Memory | None = None,
        content: bool = True,
    ) -> Streams:
        """The states that the head reads, and the memory for the next segment.

        input_ids (batch, time). document_ids (batch, time): attention stays within equal ids, memory included.
        token_type_ids (batch, time): the segment of each token; what is remembered is of segment 0. perm_mask (batch,
        time, time): where it is not 0, token i does not see token j; the content stream sees its own word all the
        same. targets (batch, targets): the place of each query, -1 for a query of nothing; without a perm_mask a query
        sees every word, its own included. mems: from the segment before. content: whether the content stream of the
        last block is wanted besides; without targets it is the output.
        """
        h = self._dropped(F.embedding(input_ids, self.embedding.tokens.weight))
        remembered = mems.states[0].shape[1] if mems is not None else 0
        seen, seen_strictly, mem_documents = self._visible(input_ids, document_ids, perm_mask, mems)
        scene = Scene(self._positions(h, remembered), seen, self._segments(token_type_ids, remembered))
        g = None
        if targets is not None:
            g = self._dropped(self.embedding.query.to(h.dtype).expand(*targets.shape, -1))
            scene = queried(scene, targets, seen_strictly)
        given: list[Tensor] = []
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            given.append(h)
            h, g = block(h, g, None if mems is None else mems.states[number], scene,
                         content or g is None or number < last)
        memory = self._remembered(given, mems, document_ids, mem_documents)
        return Streams(self._dropped(h if g is None else g), memory)

    @torch.no_grad()
    def remember(
        self, input_ids: Tensor, *, document_ids: Tensor | None = None, token_type_ids: Tensor | None = None,
        mems: Memory | None = None,
    ) -> Memory:
        """What the next segment needs of this one (arXiv:1906.08237, section 2.4), without gradients; arguments as in
        `encode`. A memory holds what blocks are given, so that the last block need not run."""
        h = self._dropped(F.embedding(input_ids, self.embedding.tokens.weight))
        remembered = mems.states[0].shape[1] if mems is not None else 0
        seen, _, mem_documents = self._visible(input_ids, document_ids, None, mems)
        scene = Scene(self._positions(h, remembered), seen, self._segments(token_type_ids, remembered))
        given = [h]
        for number in range(len(self.blocks) - 1):
            h, _ = self.blocks[number](h, None, None if mems is None else mems.states[number], scene)
            given.append(h)
        return self._remembered(given, mems, document_ids, mem_documents)

    def hidden(
        self, input_ids: Tensor, *, document_ids: Tensor | None = None, token_type_ids: Tensor | None = None,
        perm_mask: Tensor | None = None, target_mapping: Tensor | None = None, mems: Memory | None = None,
    ) -> Tensor:
        """The states that the output matrix reads, (batch, targets or time, dim); arguments as in `forward`."""
        places = None if target_mapping is None else target_places(target_mapping)
        return self.encode(input_ids, document_ids=document_ids, token_type_ids=token_type_ids, perm_mask=perm_mask,
                           targets=places, mems=mems).output

    def forward(
        self, input_ids: Tensor, *, document_ids: Tensor | None = None, token_type_ids: Tensor | None = None,
        perm_mask: Tensor | None = None, target_mapping: Tensor | None = None, mems: Memory | None = None,
    ) -> Tensor:
        """Logits (batch, targets, vocab) where there is a target_mapping, else (batch, time, vocab).

        target_mapping (batch, targets, time): 1 at the place of each target, 0 elsewhere. The rest as in `encode`.
        """
        states = self.hidden(input_ids, document_ids=document_ids, token_type_ids=token_type_ids, perm_mask=perm_mask,
                             target_mapping=target_mapping, mems=mems)
        return F.linear(states, self.head_weight, self.head_bias)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fresh weights: normal with deviation 1/sqrt(fan_in) for matrices and 1/sqrt(dim) for embeddings, zero for
        what writes into the residual stream, for biases and for the vectors of segments."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name == "embedding.query":
                parameter.normal_(0.0, parameter.shape[0] ** -0.5, generator=generator)
            elif parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            elif name.endswith(("attention.output.weight", "mlp.down.weight")):
                parameter.zero_()
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)

    def _positions(self, h: Tensor, remembered: int) -> Tensor:
        time = h.shape[1]
        keys = remembered + time
        distances = keys - torch.arange(time + keys, device=h.device)
        if self.config.clamp is not None:
            distances = distances.clamp(-self.config.clamp, self.config.clamp)
        return self._dropped(sinusoids(distances, self.config.dim).to(h.dtype))

    def _segments(self, token_type_ids: Tensor | None, remembered: int) -> Tensor | None:
        """Which keys are of another segment, (batch, 1, time, keys)."""
        if token_type_ids is None:
            return None
        of_keys = F.pad(token_type_ids, (remembered, 0))
        return (token_type_ids[:, :, None] != of_keys[:, None])[:, None]

    def _visible(
        self, input_ids: Tensor, document_ids: Tensor | None, perm_mask: Tensor | None, mems: Memory | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What content streams and what queries see, each (batch or 1, 1, time, keys) or None for everything; and the
        documents of what is remembered."""
        (rows, time), device = input_ids.shape, input_ids.device
        remembered = mems.states[0].shape[1] if mems is not None else 0
        mem_documents = mems.document_ids if mems is not None else None
        strictly: Tensor | None = None
        if self.config.causal:
            places = torch.arange(remembered + time, device=device)
            # Everyone sees as many: the window is what is remembered, and oneself.
            pattern = Pattern(window=remembered + 1) if self.config.same_length else CAUSAL
            strictly = pattern.visible(places[remembered:], places)[None]
        if document_ids is not None or mem_documents is not None:
            if document_ids is None:
                document_ids = torch.zeros_like(input_ids)
            if mem_documents is None:
                mem_documents = document_ids.new_zeros((rows, remembered))
            of_keys = torch.cat([mem_documents.to(document_ids.dtype), document_ids], dim=1)
            same = document_ids[:, :, None] == of_keys[:, None]
            strictly = same if strictly is None else strictly & same
        if perm_mask is not None:
            free = F.pad(perm_mask == 0, (remembered, 0), value=True)
            strictly = free if strictly is None else strictly & free
        if strictly is None:
            return None, None, None
        own = torch.eye(time, dtype=torch.bool, device=device)
        seen = strictly | F.pad(own, (remembered, 0))
        return seen[:, None], strictly[:, None], mem_documents

    def _remembered(
        self, given: Sequence[Tensor], mems: Memory | None, document_ids: Tensor | None, mem_documents: Tensor | None,
    ) -> Memory:
        """The memory with this segment at its end, as long as the config allows."""
        def joined(before: Tensor | None, now: Tensor) -> Tensor:
            now = now[:, :self.config.reuse].detach()
            whole = now if before is None else torch.cat([before.to(now.dtype), now], dim=1)
            return whole if self.config.memory is None else whole[:, -self.config.memory:]

        states = tuple(joined(None if mems is None else mems.states[i], h) for i, h in enumerate(given))
        if document_ids is None and mem_documents is None:
            return Memory(states)
        if document_ids is None:
            document_ids = torch.zeros(given[0].shape[:2], dtype=torch.int64, device=given[0].device)
        return Memory(states, joined(mem_documents if mems is not None else None, document_ids))


def permutation_mask(ranks: Tensor) -> Tensor:
    """The perm_mask (batch, time, time) of a factorisation order: True where token i does not see token j.

    ranks (batch, time): when each token is predicted, counted from 0; -1 for context, which everyone sees. A token sees
    those that come before it, and not itself (arXiv:1906.08237, section 2.2).
    """
    return (ranks[:, :, None] <= ranks[:, None]) & (ranks >= 0)[:, None]


def target_places(target_mapping: Tensor) -> Tensor:
    """The place of each target, (batch, targets), -1 where its row is empty.

    UserError where a row is no place: public code mixes the queries of several places, which we do not compute.
    """
    marked = target_mapping != 0
    count = marked.sum(-1)
    if bool((count > 1).any()) or bool((target_mapping[marked] != 1).any()):
        raise UserError("a target is more than one place", where="target_mapping",
                        fix="give every row a single 1, or none")
    return torch.where(count > 0, marked.int().argmax(-1), -1)
