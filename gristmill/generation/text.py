"""Text above the engine: a model with its tokenizer, completions, and text that streams safely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.generation.engine import Engine, Output
from gristmill.generation.sampling import Sampling
from gristmill.models.decoder import Decoder
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
    def open(cls, folder: Path | str, *, device: str = "auto", dtype: str | torch.dtype | None = None) -> LanguageModel:
        """Open a model folder with its tokenizer.

        device: cpu, cuda or auto. dtype: fp32, bf16 or a torch dtype; None is fp32, in which results are exact.
        """
        folder = Path(folder)
        if isinstance(dtype, str):
            if dtype not in DTYPES:
                raise UserError(f"unknown dtype {dtype!r}", where="dtype", fix=f"choose one of {', '.join(DTYPES)}")
            dtype = DTYPES[dtype]
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = Tokenizer.load(folder)
        model = load_model(folder, device=device, dtype=dtype or torch.float32)
        return cls(model, tokenizer, name=folder.resolve().name)

    @property
    def engine(self) -> Engine:
        """The engine that `generate` and `chat` run on, made when it is first needed."""
        if self._engine is None:
            self._engine = Engine(self.model, slots=self._slots, vocab_size=self.tokenizer.vocab_size)
        return self._engine

    @torch.no_grad()
    def logits(self, input_ids: Any, attention_mask: Any = None, position_ids: Any = None) -> Tensor:
        """Logits (batch, time, vocab) of input_ids (batch, time) or (time,).

        attention_mask (batch, time): 0 marks padding, on either side; its logits have no meaning.
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
            if position_ids is None:
                position_ids = ((document_ids + 1).cumsum(-1) - 1).clamp(min=0)
        if position_ids is not None:
            position_ids = torch.as_tensor(position_ids, device=device)
            position_ids = position_ids[None] if position_ids.ndim == 1 else position_ids
        return self.model(ids, document_ids=document_ids, position_ids=position_ids)

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
        """Continue one text or several. An empty prompt begins a new document. greedy is temperature 0."""
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0 if greedy else temperature, top_k=top_k, top_p=top_p,
                            repetition_penalty=repetition_penalty, seed=seed, logprobs=logprobs,
                            stop_ids=tuple(sorted(self.tokenizer.stop_ids)))
        done = self._complete([self._prompt_ids(text) for text in texts], sampling, _stops(stop))
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

    def save(self, folder: Path | str) -> None:
        """Write a public folder: config.json, model.safetensors, generation_config.json, the tokenizer's files."""
        save_model(self.model, folder, tokenizer=self.tokenizer)

    def _prompt_ids(self, text: str) -> list[int]:
        ids = self.tokenizer.encode_prompt(text)
        if not ids:
            start = self.tokenizer.document_start_id
            ids = [self.tokenizer.eos_id if start is None else start]
        return ids

    def _complete(self, prompts: list[list[int]], sampling: Sampling, stop: list[str]) -> list[Completion]:
        engine = self.engine
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
