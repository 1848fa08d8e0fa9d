"""Generation for encoder-decoders: a prompt is read as a whole, the answer is a text of its own.

The engine is that of decoders, with another step: what the encoder made of a prompt lies in a cache of keys and values
of its own, to which every new token looks.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.generation.cache import GRAIN, SlotCache
from gristmill.generation.engine import Engine, TokenEvent, _Request
from gristmill.models.encoder_decoder import EncoderDecoder
from gristmill.models.layers.relative_bias import RelativeBias
from gristmill.tokenizer import Tokenizer

SENTINEL = re.compile(r"(<extra_id_\d+>)")


class TextCache:
    """For each slot the keys and values of the text that was read, and of what has been written of the answer."""

    def __init__(self, model: EncoderDecoder, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        config = model.config
        shape = SimpleNamespace(kv_heads=config.heads, head_dim=config.head_dim, layers=config.decoder_layers)
        self.read, self.written = (
            SlotCache(shape, slots, config.context, device, dtype) for _ in range(2))  # type: ignore[arg-type]

    @property
    def lengths(self) -> Tensor:
        """Tokens written in each slot."""
        return self.written.lengths

    def take(self, slot: int, memory: list[tuple[Tensor, Tensor]]) -> None:
        """Put what was read into a slot: keys and values of every layer, each (1, heads, inputs, head_dim)."""
        count = memory[0][0].shape[2]
        self.read.reserve(count)
        self.read.lengths[slot], self.written.lengths[slot] = count, 0
        for layer, (keys, values) in enumerate(memory):
            self.read.keys[layer][slot, :, :count] = keys[0].to(self.read.keys[layer].dtype)
            self.read.values[layer][slot, :, :count] = values[0].to(self.read.values[layer].dtype)

    def move(self, source: int, target: int, length: int) -> None:
        """Put what slot `source` holds into `target`."""
        for cache in (self.read, self.written):
            cache.move(source, target, int(cache.lengths[source]))


class StepView:
    """One new token in each of the first `rows` slots."""

    def __init__(self, cache: TextCache, bias: RelativeBias, rows: int) -> None:
        self.rows, self.read, self.written = rows, cache.read, cache.written
        self.places = cache.lengths[:rows]
        longest = int(self.places.max()) + 1
        self.written.reserve(longest)
        self.span = min(_rounded(longest), self.written.capacity)
        # An empty slot reads a zero, so that its numbers, which nobody looks at, stay numbers.
        read = cache.read.lengths[:rows].clamp(min=1)
        self.read_span = min(_rounded(int(read.max())), max(cache.read.capacity, 1))
        device = self.places.device
        self.index = torch.arange(rows, device=device)
        distances = torch.arange(self.span, device=device) - self.places[:, None]
        added = bias.at(distances).float().permute(0, 2, 1)[:, :, None]
        self.bias = added.masked_fill((distances > 0)[:, None, None], -math.inf)
        beyond = torch.arange(self.read_span, device=device) >= read[:, None]
        self.mask = torch.zeros(rows, 1, 1, self.read_span, device=device).masked_fill(
            beyond[:, None, None], -math.inf)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention. q, k, v (rows, heads, 1, head_dim) -> like q."""
        keys, values = self.written.keys[layer], self.written.values[layer]
        keys[self.index, :, self.places] = k.squeeze(2).to(keys.dtype)
        values[self.index, :, self.places] = v.squeeze(2).to(values.dtype)
        return _mixed(q, keys[: self.rows, :, : self.span], values[: self.rows, :, : self.span], self.bias)

    def look(self, layer: int, q: Tensor) -> Tensor:
        """Attention to what was read. q (rows, heads, 1, head_dim) -> like q."""
        keys, values = (part[layer][: self.rows, :, : self.read_span] for part in (self.read.keys, self.read.values))
        return _mixed(q, keys, values, self.mask)


class _Runner:
    """The output layer over the tokenizer's tokens."""

    invariant = False

    def __init__(self, model: EncoderDecoder, vocab_size: int) -> None:
        self.head = model.head_weight.detach()[:vocab_size]

    def logits(self, states: Tensor) -> Tensor:
        """(rows, dim) -> (rows, vocab) fp32."""
        return F.linear(states.to(self.head.dtype), self.head).float()


class EncoderDecoderEngine(Engine):
    """The engine for encoder-decoders: `submit`, `step`, `follow` and `generate` as there.

    A prompt may be as long as the model's context, and so may an answer. A repetition penalty counts what was written,
    not the prompt.
    """

    _cache: TextCache  # type: ignore[assignment]
    _runner: _Runner  # type: ignore[assignment]
    model: EncoderDecoder  # type: ignore[assignment]

    def __init__(self, model: EncoderDecoder, *, slots: int = 8, vocab_size: int | None = None) -> None:
        """slots: requests in a running batch. vocab_size: tokens of the tokenizer, where the model has more rows."""
        super().__init__(model, slots=slots, vocab_size=vocab_size)  # type: ignore[arg-type]

    def score(self, sequences: Sequence[Sequence[int]], batch_tokens: int = 2048) -> list[Tensor]:
        """UserError: a text alone has no probability here, only one text given another."""
        raise UserError("an encoder-decoder gives no probability of a text alone", where="score",
                        fix="gristmill.load(MODEL).logits(IDS, decoder_input_ids=IDS) gives those of one text given "
                            "another")

    def _require(self, model: Any) -> None:
        if not isinstance(model, EncoderDecoder):
            raise UserError(f"{model.config.family} is no encoder-decoder", where="engine", fix="use Engine")

    def _new_cache(self) -> TextCache:  # type: ignore[override]
        return TextCache(self.model, self.slots, self.device, self.dtype)

    def _prepare(self) -> None:
        self._runner = _Runner(self.model, self.vocab_size)
        self._stamp = self._changes()

    def _room(self, prompt: Sequence[int]) -> int:
        return self.context if len(prompt) <= self.context else 0

    def _advance(self) -> list[TokenEvent]:
        self._compact()
        self._admit()
        requests = [request for request in self._by_slot if request is not None]
        for request in requests:
            if not request.read:
                self._take(request)
        return self._emit(requests, self._runner.logits(self._decode(requests))) if requests else []

    def _take(self, request: _Request) -> None:
        """Read a prompt, alone: what is made of it depends on nothing else."""
        start = self.model.config.start_id
        memory = self.model.encode(torch.tensor([request.prompt], device=self.device))
        self._cache.take(request.slot, [block.cross.project(memory) for block in self.model.decoder.blocks])  # type: ignore[union-attr, operator]
        self._table.fill(request.slot, request.sampling, [start] if start < self.vocab_size else [])
        self._tokens[request.slot] = start
        request.read = len(request.prompt)

    def _decode(self, requests: list[_Request]) -> Tensor:
        """States (requests, dim) after each request's newest token."""
        rows = self._rows(requests[-1].slot + 1)
        view = StepView(self._cache, self.model.decoder.relative_bias, rows)
        states = self.model.decode(self._tokens[:rows], cache=view)[:, 0]
        index = torch.tensor([request.slot for request in requests], device=self.device)
        self._cache.lengths[index] += 1
        return states[index]


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """What the encoder reads of a prompt: its tokens and the end token, as in training.

    `<extra_id_0>`, `<extra_id_1>`, ... are sentinels; every other special token is only text. A space before a sentinel
    is left out: a word's token brings its own, so that in training it went with the gap.
    """
    known = set(tokenizer.sentinel_ids)
    text = "".join(part.removesuffix(" ") if tokenizer.token_id(after) in known else part
                   for part, after in itertools.pairwise([*SENTINEL.split(text), ""]))
    marked = tokenizer.encode(text, special=True)
    if (tokenizer.special_ids & set(marked)) <= known:
        return [*marked, tokenizer.document_end_id]
    ids: list[int] = []
    for part in SENTINEL.split(text):
        token = tokenizer.token_id(part)
        ids += [token] if token in known else tokenizer.encode(part)  # type: ignore[list-item]
    return [*ids, tokenizer.document_end_id]


def spans_of(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The texts of <extra_id_0>, <extra_id_1>, ... in tokens that a model of span corruption wrote; empty for those of
    which it wrote nothing before it ended."""
    numbers = {token: number for number, token in enumerate(tokenizer.sentinel_ids)}
    written: dict[int, list[int]] = {}
    current: list[int] = []
    for token in ids:
        if token in numbers:
            current = written.setdefault(numbers[token], [])
        elif token in tokenizer.special_ids:
            break
        else:
            current.append(token)
    return [tokenizer.decode(written.get(number, [])) for number in range(max(written, default=-1) + 1)]


def _mixed(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """softmax(q keysᵀ + bias) values; bias -inf where nothing is seen."""
    weights = ((q.to(keys.dtype) @ keys.transpose(-2, -1)).float() + bias).softmax(-1)
    return (weights.to(values.dtype) @ values).to(q.dtype)


def _rounded(length: int) -> int:
    return -(-length // GRAIN) * GRAIN
