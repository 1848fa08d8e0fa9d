"""Preference pairs: sampled from the model itself, ordered by a program, matched in length."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gristmill.core.artifact import Artifact
from gristmill.core.config import CorpusRef, config, require
from gristmill.core.files import read_json, write_json
from gristmill.core.seeds import derive_seed, fraction
from gristmill.core.stage import StageContext
from gristmill.data.documented import documented_functions
from gristmill.data.python_pairs import complete_pair
from gristmill.evaluation.python_answers import Verdict
from gristmill.evaluation.python_answers import judge as judge_body
from gristmill.generation import Engine, Sampling
from gristmill.tokenizer import Tokenizer

CHUNK = 64
PER_DOCUMENT = 8
MATCHED_TOKENS, MATCHED_SHARE = 4, 0.25
"""A pair's lengths differ by at most so many tokens, or this share of the chosen answer's."""


@dataclass(frozen=True)
class Preference:
    """One prompt with a better and a worse answer, as token ids; the answers end with the end-of-turn token where
    the model ended them itself."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    signature: str


@config
class SelfSampled:
    """Sample bodies for documented functions from the model and prefer those that Python can parse."""

    corpus: CorpusRef
    """Python documents; only their train split is used."""
    prompts: int = 384
    """How many functions to ask for."""
    samples: int = 4
    """Answers a prompt."""
    max_tokens: int = 96
    """Longest answer."""
    temperature: float = 1.0
    """Of the sampling."""
    pairs_per_prompt: int = 2
    """Most pairs taken from one prompt."""
    valid: float = 0.1
    """Share of the prompts, by hash, whose pairs are held out."""

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "prompts", "must be at least 1")
        require(self.samples >= 2, "samples", "a pair needs at least 2 answers to the same prompt")
        require(self.max_tokens >= 1, "max_tokens", "must be at least 1")
        require(self.temperature > 0, "temperature", "must be positive, or all samples are the same")
        require(0 < self.valid < 1, "valid", "is a share between 0 and 1")


@dataclass(frozen=True)
class Ask:
    """A function to be written."""

    signature: str
    ids: list[int]
    held_out: bool


def asks(settings: SelfSampled, corpus: Artifact, tokenizer: Tokenizer, seed: int, room: int) -> list[Ask]:
    """The prompts: documented functions of the train split, in the order of a hash; `room` tokens at most."""
    found: list[Ask] = []
    for key, function in documented_functions(corpus.path, "train", seed, per_document=PER_DOCUMENT):
        ids = tokenizer.encode_chat(complete_pair(function).messages, add_generation_prompt=True)
        if len(ids) <= room:
            found.append(Ask(function.signature, ids, fraction(seed, "valid", key) < settings.valid))
        if len(found) == settings.prompts:
            break
    return found


def sample(context: StageContext, engine: Engine, tokenizer: Tokenizer, settings: SelfSampled,
           prompts: list[Ask]) -> list[dict[str, Any]]:
    """Answers to every prompt with their verdicts; done in chunks that survive an interruption."""
    records: list[dict[str, Any]] = []
    stop = tuple(i for i in (tokenizer.end_of_turn_id, tokenizer.eos_id) if i is not None)
    with context.progress.bar("sampling answers", len(prompts) * settings.samples, "answers") as bar:
        for start in range(0, len(prompts), CHUNK):
            path = context.scratch / f"samples-{start:06d}.json"
            if not path.exists():
                chunk = prompts[start : start + CHUNK]
                jobs = [(ask, n) for ask in chunk for n in range(settings.samples)]
                outputs = engine.generate(
                    [ask.ids for ask, _ in jobs],
                    [Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature, stop_ids=stop,
                              seed=derive_seed(context.seed, "sample", start + i // settings.samples, n))
                     for i, (_, n) in enumerate(jobs)],
                    on_progress=lambda: bar.advance(0),
                )
                write_json(path, [
                    {"prompt": start + i // settings.samples, "tokens": list(output.tokens), "finish": output.finish,
                     **asdict(judge(ask, output.tokens, output.finish, tokenizer))}
                    for i, ((ask, _), output) in enumerate(zip(jobs, outputs, strict=True))
                ])
            done = read_json(path)
            records += done
            bar.advance(len(done), f"{sum(r['accepted'] for r in records) / len(records):.0%} parse")
    return records


def judge(ask: Ask, tokens: list[int], finish: str, tokenizer: Tokenizer) -> Verdict:
    """An answer that was cut off by the length limit cannot be good, whatever its beginning looks like."""
    if finish != "stop":
        return Verdict(False, False, "did not end by itself")
    return judge_body(ask.signature, tokenizer.decode(list(tokens), skip_special=True))


def pair_up(settings: SelfSampled, prompts: list[Ask],
            records: list[dict[str, Any]]) -> tuple[list[Preference], list[Preference]]:
    """(train, valid) pairs. Within a prompt each good, non-trivial answer is matched with the bad answer nearest in
    length, and only if that is near enough, so that what is learned is not length; every answer is used once."""
    train: list[Preference] = []
    valid: list[Preference] = []
    by_prompt: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        by_prompt.setdefault(record["prompt"], []).append(record)
    for number, answers in sorted(by_prompt.items()):
        ask = prompts[number]
        good = [a for a in answers if a["accepted"] and not a["trivial"]]
        bad = [a for a in answers if not a["accepted"] and a["tokens"]]
        for chosen in good[: settings.pairs_per_prompt]:
            if not bad:
                break
            length = len(chosen["tokens"])
            rejected = min(bad, key=lambda a, length=length: abs(len(a["tokens"]) - length))  # type: ignore[misc]
            if abs(len(rejected["tokens"]) - length) > max(MATCHED_TOKENS, MATCHED_SHARE * length):
                continue
            bad.remove(rejected)
            (valid if ask.held_out else train).append(
                Preference(ask.ids, chosen["tokens"], rejected["tokens"], ask.signature))
    return train, valid
