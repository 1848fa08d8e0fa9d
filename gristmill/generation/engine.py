"""The engine: token ids in, token ids out, many requests in one running batch.

A request waits for a slot, its prompt is read in pieces (prefill), then it gets one token a step together with all
others (decode), and leaves when it stops, reaches its limit or is cancelled. Its tokens and log-probabilities depend
on the weights, its prompt and its sampling only, never on who else is in the batch. One thread drives an engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.generation.cache import DecodeView, PrefillView, Segment, SlotCache
from gristmill.generation.packing import prepare
from gristmill.generation.sampling import Sampling, SamplingTable
from gristmill.models.decoder import Decoder
from gristmill.models.require import require_decoder

Finish = Literal["stop", "length"]

PREFILL_TOKENS = 512
"""Prompts are read in pieces that end at multiples of this, about so many tokens a step, so that a long prompt does
not hold up the others. The cuts depend on the prompt alone."""


@dataclass(frozen=True)
class TokenEvent:
    """One token of one request."""

    request: int
    token: int
    logprob: float
    """ln p of the token under the model itself (before temperature, penalty and truncation), fp32."""
    top: list[tuple[int, float]]
    """The likeliest tokens here with their log-probabilities, as many as `Sampling.logprobs` asked for."""
    finish: Finish | None
    """Set on the request's last token: "stop" if it is one of the stop tokens, "length" at a limit."""


@dataclass
class Output:
    """A whole answer; the stop token, where there is one, is its last token."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Finish = "length"
    top: list[list[tuple[int, float]]] = field(default_factory=list)

    def take(self, event: TokenEvent) -> None:
        """Append what `event` tells."""
        self.tokens.append(event.token)
        self.logprobs.append(event.logprob)
        self.top.append(event.top)
        self.finish = event.finish or self.finish


@dataclass
class _Request:
    id: int
    prompt: list[int]
    sampling: Sampling
    stop: frozenset[int]
    slot: int = -1
    read: int = 0
    """Prompt tokens in the cache."""
    made: int = 0
    last: int = 0

    @property
    def length(self) -> int:
        """Tokens in the cache: the newest one is not there yet."""
        return self.read + max(0, self.made - 1)


class Engine:
    """Generates and scores for up to `slots` requests at once; more of them wait."""

    def __init__(self, model: Decoder, *, slots: int = 8, context: int | None = None,
                 dtype: torch.dtype | None = None, vocab_size: int | None = None) -> None:
        """context: most tokens of prompt and answer together; default and upper limit is the model's own.

        dtype: of matrix products; default that of the weights, or of the autocast region in which the engine is made.
        vocab_size: tokens of the tokenizer, where the model has more rows than that: the others are never sampled.
        """
        self._require(model)
        if slots < 1:
            raise UserError("an engine needs at least one slot", where="slots")
        if context is not None and not 2 <= context <= model.config.context:
            raise UserError(f"context {context} is outside 2 to {model.config.context}, the model's own",
                            where="context", fix="lower it")
        self.model, self.slots = model, slots
        self.context: int = context or model.config.context
        self.weights_version = 0
        self.vocab_size: int = min(vocab_size or model.config.vocab_size, model.config.vocab_size)
        weight = model.head_weight
        self.device: torch.device = weight.device
        mixed = torch.is_autocast_enabled(self.device.type)
        self.dtype = dtype or (torch.get_autocast_dtype(self.device.type) if mixed else weight.dtype)
        self._prepare()
        self._cache = self._new_cache()
        self._table = SamplingTable(slots, self.vocab_size, self.device)
        self._tokens = torch.zeros(slots, 1, dtype=torch.int64, device=self.device)
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}
        self._by_slot: list[_Request | None] = [None] * slots
        self._next = 0
        self._undelivered: list[TokenEvent] = []

    def _require(self, model: Any) -> None:
        """UserError for a body that this engine does not run."""
        require_decoder(model, "engine")

    def _new_cache(self) -> SlotCache:
        return SlotCache(self.model.config, self.slots, self.context, self.device, self.dtype)

    # Requests

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do or to tell."""
        return bool(self._waiting or self._running or self._undelivered)

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling | None = None) -> int:
        """Queue a request and give its number. UserError for an empty or too long prompt and ids out of range."""
        prompt = self._checked(prompt_ids, "prompt")
        if not prompt:
            raise UserError("the prompt is empty", where="prompt", fix="begin with the tokenizer's BOS token")
        if self._room(prompt) < 1:
            raise UserError(f"the prompt has {len(prompt)} tokens, which leaves no room for an answer in a context of "
                            f"{self.context}", where="prompt", fix="shorten the prompt")
        sampling = sampling or Sampling()
        request = _Request(self._next, prompt, sampling, frozenset(sampling.stop_ids))
        self._next += 1
        self._waiting.append(request)
        return request.id

    def _room(self, prompt: Sequence[int]) -> int:
        """Most tokens that an answer to this prompt may have."""
        return self.context - len(prompt)

    def cancel(self, request: int) -> None:
        """Forget a request and free its slot at once; unknown and finished ones are ignored."""
        self._undelivered = [event for event in self._undelivered if event.request != request]
        running = self._running.get(request)
        if running is not None:
            self._release(running)
        else:
            self._waiting = deque(r for r in self._waiting if r.id != request)

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """Admit, read prompts, and give every request that is past its prompt one token."""
        events, self._undelivered = self._undelivered, []
        if not (self._waiting or self._running):
            return events
        with torch.autocast(self.device.type, enabled=False):  # precision was settled when the engine was made
            return events + self._advance()

    def _advance(self) -> list[TokenEvent]:
        self._compact()
        self._admit()
        decoding = [r for r in self._by_slot if r is not None and r.made]
        reading = [r for r in self._by_slot if r is not None and not r.made]
        states: list[Tensor] = []
        ready: list[_Request] = []
        if decoding:
            states.append(self._decode(decoding))
            ready += decoding
        if reading:
            ended, last = self._prefill(reading)
            if ended:
                states.append(last)
                ready += ended
        if ready:
            logits = self._runner.logits(torch.cat(states) if len(states) > 1 else states[0])
            return self._emit(ready, logits)
        return []

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling] | None = None,
        on_progress: Callable[[], None] | None = None,
    ) -> list[Output]:
        """Answers to all prompts, in order. on_progress is called after every token."""
        if isinstance(sampling, Sampling) or sampling is None:
            sampling = [sampling or Sampling()] * len(prompts)
        if len(sampling) != len(prompts):
            raise UserError(f"{len(prompts)} prompts, but {len(sampling)} samplings", where="sampling")
        outputs: dict[int, Output] = {}
        try:
            for prompt, one in zip(prompts, sampling, strict=True):
                outputs[self.submit(prompt, one)] = Output()
            for event in self.follow(outputs):
                outputs[event.request].take(event)
                if on_progress:
                    on_progress()
        finally:
            for number in outputs:
                self.cancel(number)
        return list(outputs.values())

    def follow(self, requests: Iterable[int]) -> Iterator[TokenEvent]:
        """The events of these requests until all have finished or been cancelled.

        Other requests in the batch go on as well; their events are kept for the next `step`.
        """
        wanted, foreign = set(requests), self._undelivered
        self._undelivered = []
        try:
            while any(number in self._running for number in wanted) or any(r.id in wanted for r in self._waiting):
                events = self.step()
                foreign += [event for event in events if event.request not in wanted]
                yield from (event for event in events if event.request in wanted)
        finally:
            self._undelivered = foreign

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]], batch_tokens: int = 2048) -> list[Tensor]:
        """ln p of every token given the ones before it: for each sequence of n tokens, (n - 1,) fp32 on the CPU.

        Raises UserError for a sequence longer than the context or with ids out of range.
        """
        self._refresh()
        checked = [self._checked(sequence, f"sequence {i}") for i, sequence in enumerate(sequences)]
        for i, sequence in enumerate(checked):
            if len(sequence) > self.context:
                raise UserError(f"{len(sequence)} tokens do not fit into a context of {self.context}",
                                where=f"sequence {i}", fix="cut it")
        results = [torch.zeros(0)] * len(checked)
        batches: list[list[int]] = [[]]
        for i in [i for i, sequence in enumerate(checked) if len(sequence) > 1]:
            if sum(len(checked[j]) for j in batches[-1]) + len(checked[i]) > batch_tokens:
                batches.append([])
            batches[-1].append(i)
        with torch.autocast(self.device.type, enabled=False):
            for batch in filter(None, batches):
                self._score_batch(checked, batch, results)
        return results

    # Weights

    def load_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Take new weights of the same shapes. UserError while requests run: their caches belong to the old ones."""
        if self._waiting or self._running:
            raise UserError("requests are running; new weights must wait for them", where="load_weights",
                            fix="finish or cancel them first")
        with torch.no_grad():
            self.model.load_state_dict(dict(state))
        self._prepare()
        self.weights_version = version

    def _prepare(self) -> None:
        self._runner = prepare(self.model, self.dtype, self.vocab_size)
        self._stamp = self._changes()

    def _refresh(self) -> None:
        """Follow weights that were changed in place since, e.g. by an optimizer."""
        if not self._running and self._changes() != self._stamp:
            self._prepare()

    def _changes(self) -> int:
        return sum(p._version + id(p) for p in self.model.parameters() if not p.is_inference())

    # One step

    def _admit(self) -> None:
        if not self._running:
            self._refresh()
        for slot in range(self.slots):
            if not self._waiting:
                return
            if self._by_slot[slot] is None:
                request = self._waiting.popleft()
                request.slot = slot
                self._by_slot[slot] = request
                self._running[request.id] = request
                self._cache.lengths[slot] = 0
                self._table.fill(slot, request.sampling, request.prompt)

    def _release(self, request: _Request) -> None:
        del self._running[request.id]
        self._by_slot[request.slot] = None
        self._cache.lengths[request.slot] = 0

    def _compact(self) -> None:
        """Close gaps, so that the rows of a decode step are those of running requests."""
        free = 0
        for slot in range(self.slots - 1, -1, -1):
            request = self._by_slot[slot]
            if request is None:
                continue
            while free < slot and self._by_slot[free] is not None:
                free += 1
            if free >= slot:
                return
            self._cache.move(slot, free, request.length)
            self._table.move(slot, free)
            self._tokens[free] = self._tokens[slot]
            self._by_slot[free], self._by_slot[slot] = request, None
            self._cache.lengths[slot] = 0
            request.slot = free

    def _decode(self, requests: list[_Request]) -> Tensor:
        """States (requests, dim) after each request's newest token."""
        rows = self._rows(requests[-1].slot + 1)
        view = DecodeView(self._cache, rows, 1 + max(r.length for r in self._by_slot[:rows] if r is not None))
        positions = self._cache.lengths[:rows, None]
        states = self._runner.hidden(self._tokens[:rows], positions, view)[:, 0]
        index = torch.tensor([request.slot for request in requests], device=self.device)
        self._cache.lengths[index] += 1
        return states[index]

    def _rows(self, needed: int) -> int:
        """Rows of a decode step. Where kernels round differently for different row counts, these are few."""
        if self._runner.invariant:
            return needed
        rows = 8
        while rows < needed:
            rows *= 2
        return min(rows, self.slots)

    def _prefill(self, requests: list[_Request]) -> tuple[list[_Request], Tensor]:
        """Read prompt pieces; gives the requests whose prompt ended, with the states of their last tokens."""
        segments: list[Segment] = []
        chosen: list[_Request] = []
        budget = PREFILL_TOKENS
        for request in sorted(requests, key=lambda r: r.id):
            count = min(len(request.prompt), (request.read // PREFILL_TOKENS + 1) * PREFILL_TOKENS) - request.read
            if segments and count > budget:
                break
            budget -= count
            segments.append(Segment(request.slot, request.read, count))
            chosen.append(request)
        ids = [token for r, s in zip(chosen, segments, strict=True) for token in r.prompt[s.start : s.start + s.count]]
        states = self._read(ids, segments, self._cache)
        ended, ends, at = [], [], 0
        for request, segment in zip(chosen, segments, strict=True):
            at += segment.count
            request.read += segment.count
            self._cache.lengths[request.slot] = request.read
            if request.read == len(request.prompt):
                ended.append(request)
                ends.append(at - 1)
        return ended, states[torch.tensor(ends, dtype=torch.int64, device=self.device)]

    def _read(self, ids: list[int], segments: list[Segment], cache: SlotCache | None) -> Tensor:
        """States (tokens, dim) of several pieces of text, one after the other."""
        positions = torch.cat([torch.arange(s.start, s.start + s.count) for s in segments]).to(self.device)
        tokens = torch.tensor(ids, device=self.device)
        return self._runner.hidden(tokens[None], positions[None], PrefillView(cache, segments))[0]

    def _emit(self, requests: list[_Request], logits: Tensor) -> list[TokenEvent]:
        slots = [request.slot for request in requests]
        tokens, logprobs, tops = self._table.choose(logits, slots)
        self._tokens[torch.tensor(slots, device=self.device), 0] = torch.tensor(tokens, device=self.device)
        events = []
        for request, token, logprob, top in zip(requests, tokens, logprobs, tops, strict=True):
            request.made += 1
            finish: Finish | None = None
            if token in request.stop:
                finish = "stop"
            elif request.made >= min(request.sampling.max_tokens, self._room(request.prompt)):
                finish = "length"
            if finish:
                self._release(request)
            events.append(TokenEvent(request.id, token, logprob, top, finish))
        return events

    def _score_batch(self, sequences: list[list[int]], batch: list[int], results: list[Tensor]) -> None:
        segments = [Segment(-1, 0, len(sequences[i])) for i in batch]
        ids = [token for i in batch for token in sequences[i]]
        states, targets = self._read(ids, segments, None), torch.tensor(ids, device=self.device)
        at = 0
        for i, segment in zip(batch, segments, strict=True):
            rows, wanted = states[at : at + segment.count - 1], targets[at + 1 : at + segment.count]
            pieces = []
            for start in range(0, len(rows), 256):  # logits of a few rows at a time: vocabularies are large
                logits = self._runner.logits(rows[start : start + 256])
                chosen = logits.gather(-1, wanted[start : start + 256, None])[:, 0]
                pieces.append(chosen - logits.logsumexp(-1))
            results[i] = torch.cat(pieces).cpu()
            at += segment.count

    def _checked(self, ids: Sequence[int], where: str) -> list[int]:
        ids, vocab = [int(i) for i in ids], self.vocab_size
        if ids and not (min(ids) >= 0 and max(ids) < vocab):
            wrong = next(i for i in ids if not 0 <= i < vocab)
            raise UserError(f"token id {wrong} is outside the vocabulary of {vocab}", where=where,
                            fix="use the tokenizer that the model was trained with")
        return ids
