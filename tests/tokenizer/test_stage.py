"""The stage `tokenizer`: a small corpus in, a folder out; refusals that say what to set."""

from __future__ import annotations

import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.files import read_json
from gristmill.core.hashing import digest_folder
from gristmill.core.stage import StageContext
from gristmill.data.documents import Document, row, write_shard
from gristmill.tokenizer import Tokenizer, TrainTokenizer
from gristmill.tokenizer.sample import choose_documents


def corpus_of(folder, texts, split="train", start=0):
    rows = [row(Document(id=f"doc-{i:04d}", text=text, source="s"), split=split)
            for i, text in enumerate(texts, start)]
    write_shard(folder / "documents" / f"{split}-00000.parquet", rows)
    return Artifact(folder, {"kind": "corpus", "name": "corpus", "digest": "d", "version": 1})


def run(stage, corpus, work):
    work.mkdir(parents=True)
    metrics = stage.run(StageContext(name="r/t@1", seed=7, work=work, cache=work, inputs={"corpus": corpus}))
    return dict(metrics)


def test_the_stage_trains_measures_and_repeats_itself(tmp_path, texts):
    corpus = corpus_of(tmp_path / "c", texts[:6])
    corpus_of(tmp_path / "c", texts[6:], split="valid", start=6)
    stage = TrainTokenizer(corpus="corpus", vocab_size=1000, special_tokens=["<|tool|>"])
    metrics = run(stage, corpus, tmp_path / "a")
    assert run(stage, corpus, tmp_path / "b") == metrics == read_json(tmp_path / "a" / "metrics.json")
    assert digest_folder(tmp_path / "a") == digest_folder(tmp_path / "b")
    tokenizer = Tokenizer.load(tmp_path / "a")
    assert metrics["vocab_size"] == tokenizer.vocab_size == 1000
    assert metrics["special_tokens"]["<|tool|>"] == 7
    held_out = sum(len(t.encode()) for t in texts[6:]) / sum(map(len, tokenizer.encode_batch(texts[6:])))
    assert metrics["valid_bytes_per_token"] == pytest.approx(held_out, abs=1e-3)
    assert metrics["train_bytes_per_token"] > held_out > 2
    used = {i for ids in tokenizer.encode_batch(texts[:6]) for i in ids}
    assert metrics["unused_entries"] == 1000 - 8 - len(used)
    longest = [token["bytes"] for token in metrics["longest_tokens"]]
    assert longest == sorted(longest, reverse=True)
    assert longest[0] == max(len(tokenizer.token_bytes(i)) for i in range(1000))
    assert (tmp_path / "a" / "telemetry" / "speed.json").exists()


def test_a_vocabulary_larger_than_the_text_allows(tmp_path):
    corpus = corpus_of(tmp_path / "c", ["a small text, a small text"])
    with pytest.raises(UserError, match=r"allows only (\d+) merges") as caught:
        run(TrainTokenizer(corpus="corpus", vocab_size=4096), corpus, tmp_path / "a")
    allowed = int(caught.value.fix.split("set vocab_size to ")[1].split()[0])
    assert 263 < allowed < 300
    # What the message says to set works, and one more does not.
    assert run(TrainTokenizer(corpus="corpus", vocab_size=allowed), corpus, tmp_path / "b")["vocab_size"] == allowed
    with pytest.raises(UserError, match="allows only"):
        run(TrainTokenizer(corpus="corpus", vocab_size=allowed + 1), corpus, tmp_path / "d")


def test_a_corpus_without_text(tmp_path):
    with pytest.raises(UserError, match="no text in its train split"):
        run(TrainTokenizer(corpus="corpus"), corpus_of(tmp_path / "c", ["", ""]), tmp_path / "a")


def test_a_template_without_end_of_turn(tmp_path, texts):
    stage = TrainTokenizer(corpus="corpus", vocab_size=400, chat_template="{{ messages[0]['content'] }}")
    with pytest.raises(UserError, match="closes no answer"):
        run(stage, corpus_of(tmp_path / "c", texts[:1]), tmp_path / "a")


@pytest.mark.parametrize(("field", "value"), [
    ("vocab_size", 263), ("vocab_size", 1 << 21), ("sample_mb", 0), ("sample_mb", 1e9), ("min_count", 0),
    ("special_tokens", ["<|end|>"]), ("special_tokens", [" "]), ("special_tokens", ["<|a|>", "<|a|>"]),
    ("digits", "runs"),
])
def test_values_out_of_range_name_their_field(field, value):
    with pytest.raises(ValueError, match=field):
        TrainTokenizer(corpus="corpus", **{field: value})


def test_the_sample_depends_on_ids_and_not_on_shards(tmp_path):
    texts = [chr(97 + i) * (50 + i) for i in range(20)]
    one = corpus_of(tmp_path / "one", texts)
    corpus_of(tmp_path / "two", texts[:9])
    rows = [row(Document(id=f"doc-{i:04d}", text=texts[i], source="s"), split="train") for i in range(9, 20)]
    write_shard(tmp_path / "two" / "documents" / "train-00001.parquet", rows)
    two = Artifact(tmp_path / "two", one.record)
    chosen = [choose_documents(corpus, "train", 600, seed=3) for corpus in (one, two)]
    picked = [[t for batch in c.batches() for t in batch] for c in chosen]
    assert picked[0] == picked[1]
    assert 500 < chosen[0].bytes == sum(map(len, picked[0])) <= 600
    other = choose_documents(one, "train", 600, seed=4)
    assert [t for batch in other.batches() for t in batch] != picked[0]
    everything = choose_documents(one, "train", 1e6, seed=3)
    assert [t for batch in everything.batches() for t in batch] == texts


@pytest.mark.parametrize(("fields", "said"), [
    ({"vocab_size": 255}, "from 264 to 1048576 for bpe: 7 special tokens, 256 bytes"),
    ({"method": "byte", "vocab_size": 262}, "from 263 "),
    ({"method": "word", "vocab_size": 8}, "from 9 .* one word"),
    ({"words": "gpt2", "digits": "groups"}, "choose runs or single"),
    ({"method": "wordpiece", "whitespace": "single"}, "leave out words and whitespace"),
    ({"method": "wordpiece", "special_tokens": ["<|unk|>"]}, "each must be new"),
    ({"trainer": "fast", "whitespace": "single"}, "trainer: fast"),
    ({"trainer": "fast", "method": "unigram"}, "trainer: fast"),
])
def test_options_that_do_not_go_together_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        TrainTokenizer(corpus="corpus", **fields)


@pytest.mark.parametrize("method", ["unigram", "wordpiece", "word", "character", "byte"])
def test_every_method_trains_measures_and_repeats_itself(tmp_path, texts, method):
    corpus = corpus_of(tmp_path / "c", [*texts[:2], "Žluťoučký kůň, 中文 😀 " * 30])
    stage = TrainTokenizer(corpus="corpus", vocab_size=600, method=method, mask=True, sentinels=2)
    metrics = run(stage, corpus, tmp_path / "a")
    run(stage, corpus, tmp_path / "b")
    assert digest_folder(tmp_path / "a") == digest_folder(tmp_path / "b")
    tokenizer = Tokenizer.load(tmp_path / "a")
    assert tokenizer.vocab_size == metrics["vocab_size"] <= 600
    assert tokenizer.mask_id == tokenizer.token_id("<|mask|>")
    assert len(tokenizer.sentinel_ids) == 2
    again = metrics["measured_on"]["round_trip"]
    lossless = method not in ("wordpiece", "word")
    assert again["guaranteed"] == lossless == (again["equal"] == again["documents"] == 3)
    assert ("white space" in again["loses"]) != lossless
    assert (tokenizer.unk_id is None) == lossless
    assert tokenizer.encode_chat([{"role": "user", "content": "hello"}], add_generation_prompt=True)[0] == 1


def test_measurements_by_language_and_domain(tmp_path, texts):
    rows = [row(Document(id=f"d{i}", text=text, source="s", language=language, domain=domain), split="train")
            for i, (text, language, domain) in enumerate([
                (texts[0], "en", "code"), ("alpha beta gamma " * 40, "en", "prose"), ("žluť kůň " * 40, "cs", "")])]
    write_shard(tmp_path / "c" / "documents" / "train-00000.parquet", rows)
    corpus = Artifact(tmp_path / "c", {"kind": "corpus", "name": "corpus", "digest": "d", "version": 1})
    metrics = run(TrainTokenizer(corpus="corpus", vocab_size=700), corpus, tmp_path / "a")
    tokenizer, found = Tokenizer.load(tmp_path / "a"), metrics["measured_on"]
    assert found["split"] == "train"
    assert list(found["languages"]) == ["en", "cs"]
    assert list(found["domains"]) == ["code", "prose", "none"]
    czech, tokens = found["languages"]["cs"], len(tokenizer.encode("žluť kůň " * 40))
    assert (czech["documents"], czech["words"], czech["tokens"]) == (1, 80, tokens)
    assert czech["tokens_per_word"] == round(tokens / 80, 4)
    assert found["languages"]["en"]["bytes_per_token"] > czech["bytes"] / 700
    assert sum(metrics["entry_lengths"]) == 700 - 7
    # More entries of the same vocabulary never make text longer.
    sizes = [point["bytes_per_token"] for point in found["compression"]]
    assert [point["vocab_size"] for point in found["compression"]] == [512, 700]
    assert sizes == sorted(sizes)
    assert sizes[-1] == pytest.approx(found["bytes_per_token"], abs=1e-3)


def test_the_sample_holds_nothing_but_what_was_chosen(tmp_path, monkeypatch):
    """A corpus far larger than the sample: the texts that are held at once stay below the sample."""
    texts = [f"{i} " * 400 for i in range(300)]
    corpus = corpus_of(tmp_path / "c", texts)
    sample = choose_documents(corpus, "train", 20_000, seed=1)
    assert 15_000 < sample.bytes <= 20_000
    assert sum(len(text) for batch in sample.batches() for text in batch) == sample.bytes
    assert sample.kept.nbytes == 300
    numbers = [int(text.split()[0]) for batch in sample.batches() for text in batch]
    assert max(numbers) > 200  # from the whole corpus, not its beginning
