"""A model under evaluation: its name, its tokenizer, how it is asked, and its weights when they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from gristmill.core.artifact import Artifact
from gristmill.core.errors import InternalError
from gristmill.core.progress import Bar
from gristmill.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gristmill.generation import Engine, Sampling
    from gristmill.generation.engine import TokenEvent
    from gristmill.models import Decoder, DecoderConfig
    from gristmill.training.device import Compute

Prompting = Literal["chat", "plain"]
LONGEST = 1024
"""Evaluation reads text through windows of at most this many tokens, whatever the model could."""
ENGINE_SLOTS = 64


@dataclass(frozen=True)
class Written:
    """What a model wrote: text without special tokens, number of tokens, and whether it stopped by itself."""

    text: str
    tokens: int
    ended: bool


@dataclass
class Subject:
    """A model to evaluate. prompting: chat asks through the chat template, plain lets it continue a module's text."""

    name: str
    reference: str
    artifact: Artifact
    prompting: Prompting
    compute: Compute
    _model: Decoder | None = None
    _engine: Engine | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.artifact.path)

    @property
    def model(self) -> Decoder:
        """The weights, loaded when first needed; fp32, reduced precision is up to `compute`."""
        if self._model is None:
            from gristmill.models.loading import load_model
            from gristmill.models.require import require_decoder

            self._model = require_decoder(
                load_model(self.artifact.path, device=self.compute.device, dtype=torch.float32), self.reference)
        return self._model

    @cached_property
    def context(self) -> int:
        """Tokens it may read at once, at most 1,024."""
        return min(self._config.context, LONGEST)

    @cached_property
    def parameters(self) -> int:
        """Numbers in its weights; a tied head counts once."""
        from gristmill.models.loading import count_parameters

        return count_parameters(self._config)

    @cached_property
    def _config(self) -> DecoderConfig:
        if self._model is not None:
            return self._model.config
        from gristmill.models.loading import read_config

        return read_config(self.artifact.path)[1]

    def release(self) -> None:
        """Forget the weights."""
        self._model = self._engine = None

    def ask(self, messages: list[dict[str, str]], plain: str) -> list[int]:
        """The prompt as token ids: the conversation for a chat model, the text `plain` for the others."""
        if self.prompting == "chat":
            return self.tokenizer.encode_chat(messages, add_generation_prompt=True)
        return self.document_prefix + self.tokenizer.encode(plain)

    @property
    def document_prefix(self) -> list[int]:
        """What stands before the text of a document."""
        start = self.tokenizer.document_start_id
        return [self.tokenizer.document_end_id if start is None else start]

    def document(self, text: str) -> list[int]:
        """A whole document as token ids: start, text, end."""
        return [*self.document_prefix, *self.tokenizer.encode(text), self.tokenizer.document_end_id]

    def write(self, prompts: Sequence[list[int]], samplings: Sequence[Sampling], bar: Bar | None = None,
              over: Callable[[str], bool] | None = None) -> list[Written]:
        """Continuations of the prompts, one sampling each, in order.

        over: told the text so far after every token, says whether the answer is over: such a one ended by itself.
        Raises InternalError naming the model where its logits are not finite.
        """
        from gristmill.generation import Engine

        if self._engine is None:
            with self.compute.autocast():
                self._engine = Engine(self.model, slots=ENGINE_SLOTS, vocab_size=self.tokenizer.vocab_size)
        engine: Engine = self._engine
        stops = self.tokenizer.stop_ids
        numbers = [engine.submit(prompt, sampling) for prompt, sampling in zip(prompts, samplings, strict=True)]
        ids: dict[int, list[int]] = {number: [] for number in numbers}
        ended: set[int] = set()
        while engine.busy:
            for event in self._step(engine):
                if event.token not in stops:
                    ids[event.request].append(event.token)
                if event.finish == "stop":
                    ended.add(event.request)
                elif over is not None and over(self.tokenizer.decode(ids[event.request], skip_special=True)):
                    ended.add(event.request)
                    engine.cancel(event.request)
                elif event.finish is None:
                    continue
                if bar is not None:
                    bar.advance()
        return [Written(self.tokenizer.decode(ids[n], skip_special=True), len(ids[n]), n in ended) for n in numbers]

    def _step(self, engine: Engine) -> list[TokenEvent]:
        try:
            with self.compute.autocast():
                events = engine.step()
        except InternalError as error:
            raise InternalError(f"{self.name}: {error.what}", where=self.name, fix=error.fix) from error
        if any(math.isnan(event.logprob) for event in events):
            raise InternalError(f"{self.name} gives probabilities that are not numbers", where=self.name,
                                fix="train again with a lower learning rate; if the weights were read from elsewhere, "
                                    "check that they are whole")
        return events

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens at which an answer ends, sorted."""
        return tuple(sorted(self.tokenizer.stop_ids))


def prompting_of(artifact: Artifact) -> Prompting:
    """How a model wants to be asked: ours as a conversation once they were tuned on answers (`finetune`, `align`),
    others if they have a chat template."""
    made_by = artifact.record.get("uses")
    if made_by in ("pretrain", "finetune", "align"):
        return "plain" if made_by == "pretrain" else "chat"
    return "chat" if Tokenizer.load(artifact.path).chat_template is not None else "plain"
