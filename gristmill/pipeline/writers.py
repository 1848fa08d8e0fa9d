"""Local models as writers: what rooms that stand before the models get by `StageContext.open_writer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.hashing import digest
from gristmill.core.stage import Runtime
from gristmill.core.writer import Answer, Request, Writer

if TYPE_CHECKING:
    from gristmill.generation import LanguageModel

BATCH = 8
"""Requests that are answered together; fixed, so that no run-time choice can change an answer."""


def writer_opener(runtime: Runtime) -> Callable[[Artifact], Writer]:
    """Opens artifacts and public folders of models where `runtime` says."""
    return lambda artifact: LocalWriter(artifact, runtime)


class LocalWriter:
    """A model of ours that answers: by its chat template where it has one, else by going on with the prompt."""

    concurrency, batch = 1, BATCH

    def __init__(self, artifact: Artifact, runtime: Runtime) -> None:
        self.artifact, self.name, self.device = artifact, artifact.name, runtime.device
        self.identity = digest(["local", artifact.digest])
        self._model: LanguageModel | None = None

    @property
    def model(self) -> LanguageModel:
        """The model, opened when it is first needed."""
        if self._model is None:
            from gristmill.generation import LanguageModel

            self._model = LanguageModel.open(self.artifact.path, device=self.device)
        return self._model

    def write(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in the order of the requests; `does_not_fit` for a prompt that leaves no room for an answer."""
        from gristmill.generation.sampling import Sampling

        tokenizer, engine = self.model.tokenizer, self.model.engine
        prompts = [self._ids(request.prompt) for request in requests]
        fitting = [i for i, ids in enumerate(prompts) if 0 < len(ids) < engine.context]
        outputs = engine.generate([prompts[i] for i in fitting], [
            Sampling(max_tokens=requests[i].max_tokens, temperature=requests[i].temperature, top_p=requests[i].top_p,
                     seed=requests[i].seed, stop_ids=tuple(sorted(tokenizer.stop_ids))) for i in fitting])
        answers = [Answer("", "does_not_fit", len(ids), 0, self.name,
                          f"{len(ids)} tokens in a context of {engine.context}") for ids in prompts]
        for i, output in zip(fitting, outputs, strict=True):
            text = tokenizer.decode(output.tokens, skip_special=True)
            answers[i] = Answer(text, output.finish, len(prompts[i]), len(output.tokens), self.name)
        return answers

    def most_prompt_tokens(self, prompt: str) -> int:
        """Exactly as many as it has."""
        return len(self._ids(prompt))

    def words(self) -> tuple[list[str], Any]:
        """Tokens that are whole lower-case words, and their rows of the input embeddings, float32 (words, dim)."""
        from gristmill.models.decoder import Decoder

        model, tokenizer = self.model.model, self.model.tokenizer
        if not isinstance(model, Decoder):
            raise UserError("only decoders have word embeddings that are read here", where=self.name,
                            fix="name a decoder, or a file of word vectors (kind: vectors)")
        found: dict[str, int] = {}
        for token in range(tokenizer.vocab_size):
            text = tokenizer.token_bytes(token).decode("utf-8", "replace")
            if text.startswith(" ") and len(text) > 2 and text[1:].isalpha() and text[1:].islower():
                found.setdefault(text[1:], token)
        rows = model.embedding.weight.detach().float().cpu()[list(found.values())]
        return list(found), rows.numpy()

    def _ids(self, prompt: str) -> list[int]:
        tokenizer = self.model.tokenizer
        if tokenizer.chat_template is not None:
            return tokenizer.encode_chat([{"role": "user", "content": prompt}], add_generation_prompt=True)
        return tokenizer.encode_prompt(prompt)
