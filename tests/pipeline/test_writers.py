"""Local models as writers, and the stage that asks them, in a recipe and through a server."""

import json
from pathlib import Path

import numpy as np
import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.stage import Runtime
from gristmill.core.writer import Request
from gristmill.data.documents import iterate_documents
from gristmill.generation import LanguageModel
from gristmill.pipeline.runner import run
from gristmill.pipeline.writers import writer_opener
from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.alphabet import BYTE_OF
from tests.models.random_models import random_decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model whose tokens are bytes and a few words."""
    letters = sorted(BYTE_OF, key=lambda letter: BYTE_OF[letter])
    words = ["Ġa", "Ġab", "Ġabc", "Ġac", "ab", "bc"]
    merges = ["Ġ a", "a b", "Ġa b", "Ġab c", "Ġa c", "b c"]
    tokenizer = Tokenizer.from_bpe(["<|bos|>", "<|eos|>", *letters, *words], merges, split="gpt-2",
                                   special=["<|bos|>", "<|eos|>"], bos="<|bos|>", eos="<|eos|>")
    path = tmp_path_factory.mktemp("model")
    LanguageModel(random_decoder(vocab_size=320, context=512), tokenizer).save(path)
    return path


def request(prompt: str, seed: int = 1, max_tokens: int = 12, temperature: float = 0.8) -> Request:
    return Request(prompt, seed, max_tokens, temperature)


def test_each_answer_is_that_of_the_model_alone(folder):
    writer = writer_opener(Runtime(device="cpu"))(Artifact.from_folder(folder, "model"))
    requests = [request("abc ab"), request("bc", seed=7), request("abc ab", seed=2), request("a", temperature=0.0)]
    answers = writer.write(requests)
    lm = LanguageModel.open(folder, device="cpu")
    for one, answer in zip(requests, answers, strict=True):
        alone = lm.generate(one.prompt, max_tokens=12, temperature=one.temperature, seed=one.seed)
        assert answer.text == lm.tokenizer.decode(alone.token_ids, skip_special=True)
        assert answer.finish == alone.finish_reason
        assert (answer.prompt_tokens, answer.completion_tokens) == (alone.prompt_tokens, alone.completion_tokens)
        assert answer.model == folder.name
    assert writer.most_prompt_tokens("abc ab") == answers[0].prompt_tokens
    assert answers[0].text != answers[2].text


def test_a_prompt_that_leaves_no_room_is_told_and_the_others_are_answered(folder):
    writer = writer_opener(Runtime(device="cpu"))(Artifact.from_folder(folder, "model"))
    answers = writer.write([request("x" * 5000), request("abc"), request("")])
    assert [answer.finish != "does_not_fit" for answer in answers] == [False, True, answers[2].finish != "does_not_fit"]
    assert "tokens in a context of" in answers[0].detail


def test_words_and_their_embeddings(folder):
    writer = writer_opener(Runtime(device="cpu"))(Artifact.from_folder(folder, "model"))
    words, vectors = writer.words()
    assert sorted(words) == ["ab", "abc", "ac"]
    model = LanguageModel.open(folder, device="cpu")
    token = model.tokenizer.encode(" abc")
    assert len(token) == 1
    assert np.array_equal(vectors[words.index("abc")], model.model.embedding.weight[token[0]].detach().numpy())


def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    names = ["amber", "birch", "cedar", "daisy", "elder", "fern", "ginger", "hazel", "iris", "jasmine", "kelp", "lily"]
    path.write_text("".join(json.dumps({"id": name, "language": "en", "text": (
        f"The {name} stood by the river for {i} years and nobody had looked at its leaves. In the end {name} and "
        f"{names[i - 1]} went to the town together, and there they stayed.")}) + "\n" for i, name in enumerate(names)))
    return path


def recipe(tmp_path: Path, *methods: dict) -> dict:
    return {"name": "more", "seed": 2, "stages": {
        "corpus": {"uses": "data", "sources": [{"kind": "files", "path": str(corpus(tmp_path))}],
                   "filter": {"preset": "none"}, "split": {"valid": 0.2, "test": 0.2}},
        "larger": {"uses": "augment", "corpus": "corpus", "methods": list(methods),
                   "gates": {"language": False, "least_length": 0.0, "most_length": 100}}}}


@pytest.mark.slow
def test_a_recipe_with_a_local_model(folder, tmp_path):
    writer = {"kind": "local", "model": str(folder)}
    given = recipe(tmp_path, {"kind": "edits"}, {"kind": "paraphrase", "prompt": "{text}", "max_tokens": 4,
                                                 "share": 0.9, "writer": writer})
    done = run(given, runs_dir=tmp_path / "runs", runtime=Runtime(device="cpu"))
    made = [d for d in iterate_documents(done["larger"].path, "train") if "augmented" in d["metadata"]]
    metrics = done["larger"].metrics
    assert {d["metadata"]["augmented"]["kind"] for d in made} == {"edits"}  # it babbles to the end of its tokens
    assert metrics["reasons"]["cut_off"]["documents"] == metrics["requests"] > 3
    assert metrics["tokens"] > 4 * metrics["requests"]
    assert str(done["larger"].record["inputs"][str(folder)]["kind"]) == "model"
    assert "cut off" in done.report.read_text(encoding="utf-8")
    again = run(given, runs_dir=tmp_path / "runs", runtime=Runtime(device="cpu"))
    assert again.reused == ["corpus", "larger"]
