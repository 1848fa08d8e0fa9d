"""Methods by a model: `paraphrase`, `back_translation`, `variations`.

Back-translation: Sennrich, Haddow and Birch 2016, "Improving Neural Machine Translation Models with Monolingual Data";
as augmentation Yu et al. 2018, "QANet". Variations: Maini et al. 2024, "Rephrasing the Web" (WRAP), and Cosmopedia (Ben
Allal et al. 2024).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gristmill.core.config import ModelRef, config, require
from gristmill.core.hashing import digest
from gristmill.core.seeds import derive_seed
from gristmill.core.writer import Answer, Request
from gristmill.data.augment import prompts
from gristmill.data.augment.answers import problem, text_of
from gristmill.data.augment.gates import JUDGED, detect
from gristmill.data.augment.method import Made, Original, check_method
from gristmill.data.augment.pieces import cut
from gristmill.data.augment.server import Server
from gristmill.data.normalise import normalise
from gristmill.data.signals.language import UNDETERMINED


@config
class LocalModel:
    """A model of the recipe, or in a folder, that runs in this process."""

    kind: Literal["local"] = "local"
    """local."""
    model: ModelRef
    """The model. One without a chat template goes on with the prompt as a text."""


AnyWriter = Annotated[Server | LocalModel, Field(discriminator="kind")]


@config
class Paraphrase:
    """Texts said in other words by a model."""

    kind: Literal["paraphrase"] = "paraphrase"
    """paraphrase."""
    name: str = ""
    """What the made documents are called after; default `paraphrase`."""
    share: float = 1.0
    """Share of the documents that it takes, above 0 to 1; chosen by the hash of their ids."""
    copies: int = 1
    """Texts made of each document."""
    languages: list[str] = field(default_factory=list)
    """Only documents in these languages (en, de, ...); empty takes all but code."""
    writer: AnyWriter
    """The model: `{kind: server, base_url: ..., model: ...}` or `{kind: local, model: ...}`."""
    prompt: str = prompts.PARAPHRASE
    """What is asked; {text} is the text, {language} the name of its language."""
    temperature: float = 0.8
    """Sampling temperature, 0 to 2."""
    top_p: float = 0.95
    """Nucleus sampling, above 0 to 1."""
    max_tokens: int = 2048
    """Tokens of an answer at most; longer ones are cut and therefore rejected."""
    piece: int = 4000
    """Characters that are asked for at once; longer documents are cut between paragraphs."""
    most_pieces: int = 16
    """Documents of more pieces than this are not taken."""
    most_similar: float = 0.9
    """A text with at least this Jaccard similarity of word 5-grams to its original is a copy and is rejected."""
    most_requests: int | None = None
    """Requests at most, in the order of the documents' hashes; null is no limit."""
    most_tokens: int | None = None
    """Tokens of prompts and answers at most; null is no limit."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_writing(self)
        prompts.check_template(self.prompt, "prompt")

    def steps(self, language: str) -> list[Step]:
        """What is asked, one after the other, of a text in this language."""
        return [Step(0, self.prompt, language)]


@config
class BackTranslation:
    """Texts translated into another language and back by a model, or by two."""

    kind: Literal["back_translation"] = "back_translation"
    """back_translation."""
    name: str = ""
    """What the made documents are called after; default `back_translation`."""
    share: float = 1.0
    """Share of the documents that it takes, above 0 to 1; chosen by the hash of their ids."""
    copies: int = 1
    """Texts made of each document."""
    languages: list[str] = field(default_factory=list)
    """Only documents in these languages (en, de, ...); empty takes all but code."""
    pivot: str = "de"
    """The language in between (ISO 639-1); documents in it, or in no language that is known, are rejected."""
    writer: AnyWriter
    """The model: `{kind: server, base_url: ..., model: ...}` or `{kind: local, model: ...}`."""
    back_writer: AnyWriter | None = None
    """The model for the way back; null takes the same."""
    prompt: str = prompts.TRANSLATE
    """What is asked for the way there; {text} is the text, {language} the language that is wanted."""
    back_prompt: str = prompts.TRANSLATE
    """What is asked for the way back."""
    temperature: float = 0.7
    """Sampling temperature, 0 to 2."""
    top_p: float = 0.95
    """Nucleus sampling, above 0 to 1."""
    max_tokens: int = 2048
    """Tokens of an answer at most; longer ones are cut and therefore rejected."""
    piece: int = 4000
    """Characters that are asked for at once; longer documents are cut between paragraphs."""
    most_pieces: int = 16
    """Documents of more pieces than this are not taken."""
    most_similar: float = 0.9
    """A text with at least this Jaccard similarity of word 5-grams to its original is a copy and is rejected."""
    most_requests: int | None = None
    """Requests at most, in the order of the documents' hashes; null is no limit."""
    most_tokens: int | None = None
    """Tokens of prompts and answers at most; null is no limit."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_writing(self)
        for name in ("prompt", "back_prompt"):
            prompts.check_template(getattr(self, name), name)
        require(self.pivot in prompts.LANGUAGES, "pivot", f"choose one of {', '.join(prompts.LANGUAGES)}")

    def steps(self, language: str) -> list[Step]:
        """What is asked, one after the other, of a text in this language."""
        back = 1 if self.back_writer is not None else 0
        return [Step(0, self.prompt, self.pivot), Step(back, self.back_prompt, language)]


@config
class Variations:
    """Texts written anew in another style by a model."""

    kind: Literal["variations"] = "variations"
    """variations."""
    name: str = ""
    """What the made documents are called after; default `variations`."""
    share: float = 1.0
    """Share of the documents that it takes, above 0 to 1; chosen by the hash of their ids."""
    copies: int = 1
    """Texts made of each document."""
    languages: list[str] = field(default_factory=list)
    """Only documents in these languages (en, de, ...); empty takes all but code."""
    style: Literal["encyclopedia", "question_answer", "easy", "textbook", "story"] = "encyclopedia"
    """The style, where `prompt` is empty."""
    writer: AnyWriter
    """The model: `{kind: server, base_url: ..., model: ...}` or `{kind: local, model: ...}`."""
    prompt: str = ""
    """What is asked in place of the style's own prompt; {text} is the text, {language} the name of its language."""
    temperature: float = 0.8
    """Sampling temperature, 0 to 2."""
    top_p: float = 0.95
    """Nucleus sampling, above 0 to 1."""
    max_tokens: int = 2048
    """Tokens of an answer at most; longer ones are cut and therefore rejected."""
    piece: int = 4000
    """Characters that are asked for at once; longer documents are cut between paragraphs."""
    most_pieces: int = 16
    """Documents of more pieces than this are not taken."""
    most_similar: float = 0.9
    """A text with at least this Jaccard similarity of word 5-grams to its original is a copy and is rejected."""
    most_requests: int | None = None
    """Requests at most, in the order of the documents' hashes; null is no limit."""
    most_tokens: int | None = None
    """Tokens of prompts and answers at most; null is no limit."""

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_writing(self)
        if self.prompt:
            prompts.check_template(self.prompt, "prompt")

    def steps(self, language: str) -> list[Step]:
        """What is asked, one after the other, of a text in this language."""
        return [Step(0, self.prompt or prompts.STYLES[self.style], language)]


Writing = Paraphrase | BackTranslation | Variations
WRITING = ("paraphrase", "back_translation", "variations")


@dataclass(frozen=True)
class Step:
    """One request about a text. writer: 0 the method's writer, 1 its back_writer. language: of the answer."""

    writer: int
    template: str
    language: str


@dataclass(frozen=True)
class Call:
    """A request and whom it goes to."""

    writer: int
    request: Request


def check_writing(method: Any) -> None:
    """The checks that methods by a model share."""
    check_method(method)
    require(0 <= method.temperature <= 2, "temperature", "must be from 0 to 2")
    require(0 < method.top_p <= 1, "top_p", "must be above 0 and at most 1")
    require(1 <= method.max_tokens <= 1_000_000, "max_tokens", "must be from 1 to 1000000")
    require(100 <= method.piece <= 1_000_000, "piece", "must be from 100 to 1000000 characters")
    require(method.most_pieces >= 1, "most_pieces", "must be at least 1")
    require(0 < method.most_similar <= 1, "most_similar", "must be above 0 and at most 1")
    for name in ("most_requests", "most_tokens"):
        require(getattr(method, name) is None or getattr(method, name) >= 1, name, "must be at least 1, or null")


def writing(original: Original, method: Writing, name: str, copy: int, seed: int) -> Generator[Call, Answer, Made]:
    """The requests for one made text, each sent the answer to it; returns the text, or why there is none.

    The requests depend on the arguments and the answers only, so the same answers make the same text again.
    """
    pieces = cut(original.text, method.piece)
    language = original.language if original.language != UNDETERMINED else detect(original.text)
    steps = method.steps(language)
    about: dict[str, Any] = {"prompt": digest([step.template for step in steps])[:16]}
    models: dict[str, None] = {}
    if isinstance(method, BackTranslation):
        about["pivot"] = method.pivot
    elif isinstance(method, Variations) and not method.prompt:
        about["style"] = method.style

    made: list[str] = []

    def rejected(reason: str, detail: str, answer: str = "") -> Made:
        text = normalise("\n\n".join([*made, text_of(answer)]))
        return Made(original.id, copy, text, reason, detail, {**about, "model": ", ".join(models)})

    if len(pieces) > method.most_pieces:
        return rejected("too_many_pieces", f"{len(pieces)} pieces, above {method.most_pieces}")
    if isinstance(method, BackTranslation) and language == UNDETERMINED:
        return rejected("unknown_language", "it cannot be translated back")
    if isinstance(method, BackTranslation) and language == method.pivot:
        return rejected("in_the_pivot_language", f"it is in {prompts.language_name(method.pivot)} already")
    for number, piece in enumerate(pieces):
        text = piece
        for place, step in enumerate(steps):
            prompt = prompts.filled(step.template, text, prompts.language_name(step.language))
            # Servers take seeds of 31 bits.
            drawn = derive_seed(seed, "augment", name, original.id, copy, number, place) & 0x7FFFFFFF
            request = Request(prompt, drawn, method.max_tokens, method.temperature, method.top_p)
            answer = yield Call(step.writer, request)
            if answer.model:
                models[answer.model] = None
            if found := problem(answer, text):
                return rejected(*found, answer.text)
            text = text_of(answer.text)
            if place + 1 < len(steps) and len(text) >= JUDGED and detect(text) == language:
                return rejected("other_language", f"the translation is in {language} in place of {step.language}", text)
        made.append(text)
    return Made(original.id, copy, normalise("\n\n".join(made)), about={**about, "model": ", ".join(models)})


def most_tokens(original: Original, method: Writing, count: Any) -> tuple[int, int]:
    """(requests, tokens) that one made text takes at most. count: a writer's `most_prompt_tokens`."""
    requests = tokens = 0
    pieces = cut(original.text, method.piece)
    if len(pieces) > method.most_pieces:
        return 0, 0
    for piece in pieces:
        for place, step in enumerate(method.steps(original.language)):
            text = piece if place == 0 else ""
            tokens += count(prompts.filled(step.template, text, "")) + (method.max_tokens if place else 0)
            tokens += method.max_tokens
            requests += 1
    return requests, tokens
