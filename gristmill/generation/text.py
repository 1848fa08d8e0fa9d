"""Text above the engine: a model with its tokenizer, completions, and text that streams safely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.generation.encoder_decoder import EncoderDecoderEngine, prompt_ids, spans_of
from gristmill.generation.engine import Engine, Output
from gristmill.generation.sampling import Sampling
from gristmill.models.decoder import Decoder
from gristmill.models.encoder import Encoder
from gristmill.models.encoder_decoder import EncoderDecoder
from gristmill.models.loading import load_model
from gristmill.models.saving import save_model
from gristmill.tokenizer import StreamDecoder, Tokenizer

DTYPES = {"fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16}


class TextStream:
    """The text of an answer as it comes: whole characters only, never a stop string nor what may become one.

    An answer is cut before the stop string that is complete first; which tokens brought it does not matter.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decoder = StreamDecoder(tokenizer)
        self._stops = [text for text in stop if text]
        self._held = ""

    def push(self, token_id: int) -> str:
        """The text that `token_id` makes safe to show; nothing after a stop string."""
        return "" if self.stopped else self._take(self._decoder.push(token_id))

    def flush(self) -> str:
        """The rest, when the answer has ended for another reason than a stop string."""
        if self.stopped:
            return ""
        text = self._take(self._decoder.flush())
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _take(self, delta: str) -> str:
        text = self._held + delta
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        hold = max((self._overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` with which `stop` begins."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its log-probability (nats), and the likeliest tokens in its place."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Completion:
    """An answer."""

    text: str
    """Without special tokens and without the stop string."""
    token_ids: list[int]
    """All tokens that were generated, the end-of-text token included."""
    finish_reason: str
    """ "stop" (end-of-text token or stop string) or "length"."""
    prompt_tokens: int
    completion_tokens: int
    logprobs: list[TokenLogprob] | None = None
    """One for every token, if they were asked for."""


@dataclass(frozen=True)
class Filling:
    """A token that may stand in a gap."""

    token_id: int
    text: str
    probability: float


class LanguageModel:
    """A model with its tokenizer: what `gristmill.load` gives."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer, name: str = "model", slots: int = 8) -> None:
        if model.config.vocab_size < tokenizer.vocab_size:
            raise UserError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}",
                            where=name, fix="use the tokenizer that the model was trained with")
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self._slots = slots
        self._engine: Engine | None = None

    @classmethod
    def open(
        cls, folder: Path | str, *, device: str = "auto", dtype: str | torch.dtype | None = None,
        context: int | None = None, rope_scaling: str | Mapping[str, Any] | None = None,
    ) -> LanguageModel:
        """Open a model folder with its tokenizer.

        device: cpu, cuda or auto. dtype: fp32, bf16 or a torch dtype; None is fp32, in which results are exact.
        context, rope_scaling: a longer context than the model was trained with, e.g. context=4096 (scaled by yarn), or
        rope_scaling="linear" beside it (models/extension.py).
        """
        folder = Path(folder)
        if isinstance(dtype, str):
            if dtype not in DTYPES:
                raise UserError(f"unknown dtype {dtype!r}", where="dtype", fix=f"choose one of {', '.join(DTYPES)}")
            dtype = DTYPES[dtype]
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = Tokenizer.load(folder)
        model = load_model(folder, device=device, dtype=dtype or torch.float32, context=context,
                           rope_scaling=rope_scaling)
        return cls(model, tokenizer, name=folder.resolve().name)

    @property
    def engine(self) -> Engine:
        """The engine that `generate` and `chat` run on, made when it is first needed."""
        if not isinstance(self.model, Decoder):
            fills = isinstance(self.model, Encoder)
            raise UserError(f"{self.name} ({self.model.config.family}) is no decoder: it cannot go on with a text",
                            where=self.name, fix="gristmill.load(MODEL)." + (
                                "fill(TEXT) says what stands at the mask tokens of a text" if fills
                                else "logits(IDS) gives its predictions" if self.continues
                                else "generate(TEXT) answers a text with another"))
        if self._engine is None:
            self._engine = Engine(self.model, slots=self._slots, vocab_size=self.tokenizer.vocab_size)
        return self._engine

    @property
    def _writer(self) -> Engine:
        """The engine of `generate`: `engine`, or that of an encoder-decoder."""
        if not isinstance(self.model, EncoderDecoder):
            return self.engine
        if self._engine is None:
            self._engine = EncoderDecoderEngine(self.model, slots=self._slots, vocab_size=self.tokenizer.vocab_size)
        return self._engine

    @property
    def continues(self) -> bool:
        """Whether what is generated goes on with the prompt; an encoder-decoder answers with a text of its own."""
        return not isinstance(self.model, EncoderDecoder)

    @torch.no_grad()
    def logits(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None,
               decoder_input_ids: Any = None) -> Tensor:
        """Logits (batch, time, vocab) of input_ids (batch, time) or (time,).

        attention_mask (batch, time): 0 marks padding, on either side; its logits have no meaning. decoder_input_ids
        (batch, written) or (written,): for encoder-decoders, whose logits are those of this second text, (batch,
        written, vocab); it begins with the model's `start_id`.
        """
        device = self.model.head_weight.device
        ids = torch.as_tensor(input_ids, device=device).long()
        ids = ids[None] if ids.ndim == 1 else ids
        if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < self.model.config.vocab_size):
            raise UserError(f"token ids must lie from 0 to {self.model.config.vocab_size - 1}", where="input_ids")
        document_ids = None
        if attention_mask is not None:
            mask = torch.as_tensor(attention_mask, device=device).to(torch.int32)
            document_ids = (mask[None] if mask.ndim == 1 else mask) - 1
            if position_ids is None and isinstance(self.model, (Decoder, Encoder)):
                position_ids = ((document_ids + 1).cumsum(-1) - 1).clamp(min=0)
                position_ids = position_ids + getattr(self.model.config, "first_position", 0)
        if position_ids is not None:
            position_ids = torch.as_tensor(position_ids, device=device)
            position_ids = position_ids[None] if position_ids.ndim == 1 else position_ids
        where = {} if position_ids is None else {"position_ids": position_ids}
        if isinstance(self.model, EncoderDecoder) != (decoder_input_ids is not None):
            raise UserError("encoder-decoders need decoder_input_ids, other models take none",
                            where="decoder_input_ids")
        if decoder_input_ids is not None:
            written = torch.as_tensor(decoder_input_ids, device=device).long()
            where["decoder_input_ids"] = written[None] if written.ndim == 1 else written
        return self.model(ids, document_ids=document_ids, **where)

    @torch.no_grad()
    def fill(self, text: str, *, top: int = 5, language: str | None = None) -> list[list[Filling]]:
        """What a masked language model thinks stands at each mask token of `text`, the likeliest first.

        Gaps are written as the tokenizer's mask token, `<|mask|>` in our own. language: that of the text, where the
        model has languages (xlm); otherwise each is as likely as the others. UserError where the text has no gap or is
        longer than the context, where the model is no masked one, or for a language that it does not know.
        """
        if not isinstance(self.model, Encoder):
            raise UserError(f"{self.name} ({self.model.config.family}) fills no gaps: it is no masked language model",
                            where=self.name, fix="use `generate`, or a model of bert, roberta, xlm or xlm-roberta")
        tokenizer = self.tokenizer
        name = tokenizer.special_tokens.get("mask_token")
        if name is None or tokenizer.mask_id is None or name not in text:
            raise UserError("the text has no gap to fill", where="text",
                            fix=f"write {name} where a token is wanted" if name
                            else "use a tokenizer with a mask token")
        if top < 1:
            raise UserError(f"top is {top}", where="top", fix="ask for at least one token")
        parts = _encoded_around_gaps(text.split(name), tokenizer)
        start = tokenizer.document_start_id
        ids = [] if start is None else [start]
        for number, part in enumerate(parts):
            ids += ([tokenizer.mask_id] if number else []) + part
        ids.append(tokenizer.document_end_id)
        logs = self.model.log_probabilities(torch.tensor(ids, device=self.model.head_weight.device), language=language)
        gaps = logs[[i for i, token in enumerate(ids) if token == tokenizer.mask_id], :tokenizer.vocab_size]
        found = gaps.softmax(-1).topk(min(top, tokenizer.vocab_size))
        return [[Filling(int(i), tokenizer.decode([int(i)]), float(p)) for i, p in zip(row_ids, row, strict=True)]
                for row_ids, row in zip(found.indices, found.values, strict=True)]

    @overload
    def generate(
        self, prompt: str, *, max_tokens: int = ..., temperature: float = ..., top_k: int = ..., top_p: float = ...,
        repetition_penalty: float = ..., stop: str | Sequence[str] = ..., seed: int | None = ..., logprobs: int = ...,
        greedy: bool = ...,
    ) -> Completion: ...
    @overload
    def generate(
        self, prompt: list[str], *, max_tokens: int = ..., temperature: float = ..., top_k: int = ...,
        top_p: float = ..., repetition_penalty: float = ..., stop: str | Sequence[str] = ..., seed: int | None = ...,
        logprobs: int = ..., greedy: bool = ...,
    ) -> list[Completion]: ...
    def generate(
        self, prompt: str | list[str], *, max_tokens: int = 128, temperature: float = 1.0, top_k: int = 0,
        top_p: float = 1.0, repetition_penalty: float = 1.0, stop: str | Sequence[str] = (), seed: int | None = None,
        logprobs: int = 0, greedy: bool = False,
    ) -> Completion | list[Completion]:
        """Continue one text or several. An empty prompt begins a new document. greedy is temperature 0.

        An encoder-decoder reads the prompt, in which <extra_id_0>, <extra_id_1>, ... are gaps, and answers with a text
        of its own.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0 if greedy else temperature, top_k=top_k, top_p=top_p,
                            repetition_penalty=repetition_penalty, seed=seed, logprobs=logprobs,
                            stop_ids=tuple(sorted(self.tokenizer.stop_ids)))
        done = self._complete([self._prompt_ids(text) for text in texts], sampling, _stops(stop), self._writer)
        return done[0] if isinstance(prompt, str) else done

    def chat(
        self, messages: Sequence[dict[str, Any]], *, max_tokens: int = 128, temperature: float = 1.0, top_k: int = 0,
        top_p: float = 1.0, repetition_penalty: float = 1.0, stop: str | Sequence[str] = (), seed: int | None = None,
        logprobs: int = 0, greedy: bool = False,
    ) -> Completion:
        """The assistant's next message. messages: {"role": ..., "content": ...}, the last one of the user."""
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0 if greedy else temperature, top_k=top_k, top_p=top_p,
                            repetition_penalty=repetition_penalty, seed=seed, logprobs=logprobs,
                            stop_ids=tuple(sorted(self.tokenizer.stop_ids)))
        ids = self.tokenizer.encode_chat(list(messages), add_generation_prompt=True)
        return self._complete([ids], sampling, _stops(stop))[0]

    def fill_spans(self, text: str, *, max_tokens: int = 128) -> list[str]:
        """What an encoder-decoder that learnt span corruption writes for each gap <extra_id_0>, <extra_id_1>, ... of
        `text`, always its likeliest tokens. UserError for other models."""
        if self.continues:
            raise UserError(f"{self.name} ({self.model.config.family}) is no encoder-decoder", where=self.name,
                            fix="use `generate`, or `fill` for a masked language model")
        return spans_of(self.tokenizer, self.generate(text, max_tokens=max_tokens, greedy=True).token_ids)

    def save(self, folder: Path | str) -> None:
        """Write a public folder: config.json, model.safetensors, generation_config.json, the tokenizer's files."""
        save_model(self.model, folder, tokenizer=self.tokenizer)

    def _prompt_ids(self, text: str) -> list[int]:
        if not self.continues:
            return prompt_ids(self.tokenizer, text)
        ids = self.tokenizer.encode_prompt(text)
        if not ids:
            start = self.tokenizer.document_start_id
            ids = [self.tokenizer.eos_id if start is None else start]
        return ids

    def _complete(self, prompts: list[list[int]], sampling: Sampling, stop: list[str],
                  engine: Engine | None = None) -> list[Completion]:
        engine = engine or self.engine
        outputs = [Output() for _ in prompts]
        streams = [TextStream(self.tokenizer, stop) for _ in prompts]
        texts = [""] * len(prompts)
        numbers: dict[int, int] = {}
        try:
            for i, ids in enumerate(prompts):
                numbers[engine.submit(ids, sampling)] = i
            for event in engine.follow(numbers):
                i = numbers[event.request]
                output, stream = outputs[i], streams[i]
                if stream.stopped:
                    continue
                output.take(event)
                texts[i] += stream.push(event.token)
                if event.finish:
                    texts[i] += stream.flush()
                if stream.stopped:
                    output.finish = "stop"
                    engine.cancel(event.request)
        finally:
            for number in numbers:
                engine.cancel(number)
        wanted = sampling.logprobs > 0
        return [
            Completion(text, output.tokens, output.finish, len(ids), len(output.tokens),
                       [TokenLogprob(*row) for row in zip(output.tokens, output.logprobs, output.top, strict=True)]
                       if wanted else None)
            for text, output, ids in zip(texts, outputs, prompts, strict=True)
        ]


def _stops(stop: str | Sequence[str]) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop)


def _encoded_around_gaps(parts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of the texts between the gaps; white space that belongs to the mask token is left out."""
    before, after = tokenizer.mask_takes_space
    encoded = []
    for number, part in enumerate(parts):
        part = part.rstrip() if before and number + 1 < len(parts) else part
        encoded.append(tokenizer.encode(part.lstrip() if after and number else part))
    return encoded
