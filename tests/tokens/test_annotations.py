"""What shards keep of documents besides their tokens: source, domain, language, and which are translations of each
other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.data.documents import Document, row, write_shard
from gristmill.tokenizer.train import train_bpe
from gristmill.tokens import ShardWriter, TokenShards, materialise


def written(folder, documents):
    """documents: (language, pair)."""
    with ShardWriter(folder, 300) as writer:
        for number, (language, pair) in enumerate(documents):
            writer.add(np.array([number % 300]), f"d{number}", 1, language=language, pair=pair)
        return writer.finish()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["web", "books", "code"]), st.sampled_from(["", "a.example", "b.example"]),
                          st.integers(1, 5)), min_size=1, max_size=9))
def test_every_token_leads_back_to_its_source_row(tmp_path_factory, documents):
    with ShardWriter(tmp_path_factory.mktemp("s") / "shards", 300, shard_tokens=6) as writer:
        for number, (source, domain, length) in enumerate(documents):
            writer.add(np.full(length, number), f"{source}/{number}", 1, source=source, domain=domain)
        shards = writer.finish()
    shards = TokenShards.open(shards.folder)
    shards.verify()
    assert [shards.label_names("domain")[i] for i in shards.labels("domain")] == [domain for _, domain, _ in documents]
    position = 0
    for number, (source, _, length) in enumerate(documents):
        for offset in range(length):
            assert shards.locate(position) == (f"{source}/{number}", source, offset)
            assert shards.slice(position, position + 1)[0] == number
            position += 1
    for outside in (-1, position):
        with pytest.raises(IndexError):
            shards.locate(outside)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["en", "de", "und"]), st.sampled_from(["", "x", "y"])), min_size=1,
                max_size=9))
def test_languages_and_pairs_come_back(tmp_path_factory, documents):
    shards = written(tmp_path_factory.mktemp("s") / "shards", documents)
    shards.verify()
    shards = TokenShards.open(shards.folder)
    assert [shards.languages[i] for i in shards.document_languages] == [language for language, _ in documents]
    pairs = shards.document_pairs.tolist()
    for i, (_, first) in enumerate(documents):
        assert (pairs[i] == -1) == (first == "")
        for j, (_, second) in enumerate(documents):
            assert (pairs[i] == pairs[j]) == (first == second)


def test_text_in_one_language_without_pairs_has_no_further_files(tmp_path):
    plain = written(tmp_path / "plain", [("en", ""), ("en", "")])
    files = {path.name for path in plain.folder.iterdir()}
    assert not {"language.bin", "source.bin", "domain.bin", "pairs.bin"} & files
    assert plain.document_languages.tolist() == [0, 0]
    assert plain.document_pairs.tolist() == [-1, -1]
    other = written(tmp_path / "other", [("en", "a"), ("de", "a")])
    assert plain.digest == other.digest, "tokens, sizes and names are the same"


def test_shards_of_another_format_say_how_to_make_them_anew(tmp_path):
    shards = written(tmp_path / "old", [("en", "")])
    manifest = read_json(shards.folder / "manifest.json")
    write_json(shards.folder / "manifest.json", manifest | {"format": 1})
    with pytest.raises(UserError, match=r"(?s)format other than 2.*made anew"):
        TokenShards.open(shards.folder)


@pytest.mark.parametrize("name", ["language.bin", "language-names.json", "pairs.bin"])
def test_damage_is_named(name, tmp_path):
    shards = written(tmp_path / "s", [("en", "a"), ("de", "a")])
    path = shards.folder / name
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=name):
        TokenShards.open(shards.folder).verify()
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=name):
        TokenShards.open(shards.folder)


def test_a_corpus_hands_its_languages_and_pairs_on(tmp_path):
    rows = [row(Document(id=f"doc-{i}", text=text, source=f"s{i % 2}", language=language, metadata=metadata),
                split="train")
            for i, (text, language, metadata) in enumerate((
                ("a house", "en", {"pair": "1"}), ("ein Haus", "de", {"pair": "1"}), ("alone", "en", {"pairs": 3})))]
    write_shard(tmp_path / "corpus" / "documents" / "train-00000.parquet", rows)
    corpus = Artifact(tmp_path / "corpus", {"kind": "corpus", "name": "corpus", "digest": "d1", "version": 1})
    tokenizer = train_bpe([["a house ein Haus alone"]], vocab_size=265, min_count=1)
    shards = materialise(corpus, tokenizer, "train", tmp_path / "cache")
    assert shards.languages == ["de", "en"]
    assert shards.document_languages.tolist() == [1, 0, 1]
    assert shards.locate(shards.total_tokens - 1) == ("doc-2", "s0", len(shards.document(2)) - 1)
    first, second, third = shards.document_pairs.tolist()
    assert first == second != third == -1
