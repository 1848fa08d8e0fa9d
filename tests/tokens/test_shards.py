"""Shards: what is written is read back, and nothing damaged is read."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokens import ShardWriter, TokenShards


@settings(max_examples=60, deadline=None)
@given(documents=st.lists(st.lists(st.integers(0, 299), max_size=30), min_size=1, max_size=12),
       shard_tokens=st.integers(1, 60), vocab_size=st.sampled_from([300, 1 << 16, (1 << 16) + 1]))
def test_documents_come_back(tmp_path_factory, documents, shard_tokens, vocab_size):
    folder = tmp_path_factory.mktemp("t") / "shards"
    with ShardWriter(folder, vocab_size, shard_tokens=shard_tokens) as writer:
        for i, ids in enumerate(documents):
            writer.add(np.array(ids, dtype=np.uint32), f"ü{i}\n", i)
        shards = writer.finish()
    shards.verify()
    assert shards.dtype.itemsize == (4 if vocab_size > 1 << 16 else 2)
    assert (shards.documents, shards.total_bytes) == (len(documents), sum(range(len(documents))))
    assert [shards.document(i).tolist() for i in range(len(documents))] == documents
    assert [shards.document_id(i) for i in range(len(documents))] == [f"ü{i}\n" for i in range(len(documents))]
    flat = [token for ids in documents for token in ids]
    owner = [i for i, ids in enumerate(documents) for _ in ids]
    for start in range(0, len(flat) + 1, 7):
        for stop in range(start, len(flat) + 1, 5):
            assert shards.slice(start, stop).tolist() == flat[start:stop]
            assert shards.document_index(start, stop).tolist() == owner[start:stop]
    with pytest.raises(IndexError):
        shards.slice(0, len(flat) + 1)


def copy_of(shards, folder):
    folder.mkdir()
    for path in shards.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", ["tokens-00001.bin", "offsets.bin", "bytes.bin", "ids.bin", "id-offsets.bin"])
def test_damage_is_named(shards, tmp_path, name):
    folder = copy_of(shards, tmp_path / "flipped")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}.*corrupt(.|\n)*delete this folder"):
        TokenShards.open(folder).verify()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(UserError, match=rf"{name}.*{len(data) - 1} bytes in place of {len(data)}"):
        TokenShards.open(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name}.*missing"):
        TokenShards.open(folder)


def test_without_manifest_there_are_no_shards(shards, tmp_path):
    folder = copy_of(shards, tmp_path / "x")
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="never finished"):
        TokenShards.open(folder)
    (folder / "manifest.json").touch()
    with pytest.raises(UserError, match=r"manifest.json: this is not valid JSON(?s:.*)delete this folder"):
        TokenShards.open(folder)


def test_an_error_on_the_way_leaves_nothing(tmp_path):
    with ShardWriter(tmp_path / "s", 10) as writer:
        writer.add(np.array([1, 2]), "a", 2)
        with pytest.raises(UserError, match="document b"):
            writer.add(np.array([10]), "b", 2)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_that_is_taken_for_finished(tmp_path):
    code = (
        "import os, sys, numpy as np\n"
        "from gristmill.tokens import ShardWriter\n"
        "writer = ShardWriter(sys.argv[1], 10)\n"
        "writer.add(np.array([1, 2]), 'a', 2)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "s"], env=environment).returncode == -9
    assert [p.name.endswith(".tmp") for p in tmp_path.iterdir()] == [True]
    with ShardWriter(tmp_path / "s", 10) as writer:
        writer.add(np.array([1, 2, 3]), "a", 2)
        assert writer.finish().total_tokens == 3
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_the_first_of_two_writers_wins(tmp_path):
    with ShardWriter(tmp_path / "s", 10) as first, ShardWriter(tmp_path / "s", 10) as second:
        first.add(np.array([1, 2]), "a", 2)
        second.add(np.array([1, 2]), "a", 2)
        shards = second.finish()
        assert first.finish().digest == shards.digest
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
