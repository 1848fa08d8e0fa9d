"""From a corpus to shards: exact documents, cached by what they are made from."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, row, write_shard
from gristmill.tokenizer.train import train_bpe
from gristmill.tokens import materialise

TEXTS = ["def f(x):\n    return x\n", "", "é日本😀 <|eos|> <|bos|>", *(f"# line {i}\nx = {i}\n" * 9 for i in range(40))]


@pytest.fixture(scope="module")
def tokenizer():
    source = Path(sysconfig.get_paths()["stdlib"]) / "argparse.py"
    return train_bpe([[source.read_text()]], vocab_size=500)


@pytest.fixture
def corpus(tmp_path):
    rows = [row(Document(id=f"doc-{i:03d}", text=text, source="s"), split="train") for i, text in enumerate(TEXTS)]
    write_shard(tmp_path / "corpus" / "documents" / "train-00000.parquet", rows[:20])
    write_shard(tmp_path / "corpus" / "documents" / "train-00001.parquet", rows[20:])
    return Artifact(tmp_path / "corpus", {"kind": "corpus", "name": "corpus", "digest": "d1", "version": 1})


def test_a_document_is_start_text_end(corpus, tokenizer, tmp_path):
    shards = materialise(corpus, tokenizer, "train", tmp_path / "cache")
    assert shards.documents == len(TEXTS)
    assert shards.total_bytes == sum(len(text.encode()) for text in TEXTS)
    for i, text in enumerate(TEXTS):
        first, *ids, last = shards.document(i).tolist()
        assert (first, last) == (tokenizer.bos_id, tokenizer.eos_id)
        assert ids == tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert shards.document_id(i) == f"doc-{i:03d}"
        assert shards.document_bytes[i] == len(text.encode())


def test_shards_are_reused_by_content_and_never_when_damaged(corpus, tokenizer, tmp_path):
    cache = tmp_path / "cache"
    first = materialise(corpus, tokenizer, "train", cache)
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    again = materialise(corpus, tokenizer, "train", cache)
    assert again.folder == first.folder
    assert (first.folder / "manifest.json").stat().st_mtime_ns == stamp
    other = Artifact(corpus.path, {**corpus.record, "digest": "d2"})
    assert materialise(other, tokenizer, "train", cache).folder != first.folder
    data = bytearray((first.folder / "tokens-00000.bin").read_bytes())
    data[5] ^= 1
    (first.folder / "tokens-00000.bin").write_bytes(data)
    with pytest.raises(UserError, match=r"tokens-00000.bin.*corrupt"):
        materialise(corpus, tokenizer, "train", cache)


def test_a_limit_takes_the_first_whole_documents(corpus, tokenizer, tmp_path):
    limit = sum(len(text.encode()) for text in TEXTS[:5])
    shards = materialise(corpus, tokenizer, "train", tmp_path / "cache", limit_bytes=limit)
    assert (shards.documents, shards.total_bytes) == (5, limit)
    with pytest.raises(UserError, match="no document within 3 bytes"):
        materialise(corpus, tokenizer, "train", tmp_path / "cache", limit_bytes=3)


def test_a_split_without_documents_is_an_error(corpus, tokenizer, tmp_path):
    with pytest.raises(UserError):
        materialise(corpus, tokenizer, "valid", tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []


def test_the_room_needs_no_tables_or_web_libraries():
    code = ("import sys, gristmill.tokens\n"
            "print([m for m in ('pydantic', 'pyarrow', 'rich', 'fastapi', 'jinja2') if m in sys.modules])")
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.strip() == "[]"
