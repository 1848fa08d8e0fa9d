"""Shards of small random documents, in several files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from gristmill.tokens import ShardWriter, TokenShards

torch.set_num_threads(1)


def write_shards(folder: Path, lengths: Sequence[int], *, vocab_size: int = 5000,
                 shard_tokens: int = 100) -> TokenShards:
    """Documents of these lengths: token 1, distinct running numbers, token 2."""
    with ShardWriter(folder, vocab_size, shard_tokens=shard_tokens) as writer:
        number = 3
        for i, length in enumerate(lengths):
            body = np.arange(number, number + length - 2) % (vocab_size - 3) + 3
            number += length
            writer.add(np.concatenate([[1], body, [2]]), f"doc-{i}", 4 * length)
        return writer.finish()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    lengths = np.random.default_rng(0).integers(2, 60, size=60)
    return write_shards(tmp_path_factory.mktemp("tokens") / "shards", lengths.tolist())
