"""A tokenizer with the tokens of every objective, shards of small documents, and batches of random rows."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import torch

from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.train import MASK, train_bpe
from gristmill.tokens import ShardWriter, TokenShards

FIM = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


@cache
def full_tokenizer() -> Tokenizer:
    source = (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_text()
    sentinels = [f"<extra_id_{number}>" for number in range(20)]
    return train_bpe([[source]], vocab_size=640, extra_special_tokens=[MASK, *FIM, *sentinels])


def shards_of_lengths(folder: Path, lengths: list[int], seed: int = 0) -> TokenShards:
    """Documents of so many random tokens between BOS and EOS."""
    tokenizer, rng = full_tokenizer(), np.random.default_rng(seed)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    with ShardWriter(folder, tokenizer.vocab_size) as writer:
        for number, length in enumerate(lengths):
            body = rng.choice(ordinary, length)
            ids = np.concatenate([[tokenizer.bos_id], body, [tokenizer.eos_id]])
            writer.add(ids, f"doc-{number}", max(1, 3 * length))
        return writer.finish()


def random_rows(seed: int, rows: int = 4, time: int = 12, vocab: int = 97, ignored: float = 0.0) -> dict:
    """Rows of up to three documents and some padding, with next-token targets; the first has no padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (rows, time + 1), generator=generator)
    documents = torch.zeros(rows, time, dtype=torch.int32)
    for row in range(rows):
        cuts = torch.randint(1, time + 1, (2,), generator=generator).sort().values.tolist()
        documents[row, cuts[0]:], documents[row, cuts[1]:] = 1, 2
        if row:
            documents[row, int(torch.randint(time // 2, time + 1, (1,), generator=generator)):] = -1
    targets = ids[:, 1:].clone()
    targets[:, :-1][documents[:, 1:] != documents[:, :-1]] = -100
    targets[documents < 0] = -100
    targets[torch.rand(targets.shape, generator=generator) < ignored] = -100
    return {"input_ids": ids[:, :-1].contiguous(), "targets": targets, "document_ids": documents}


def loss_and_gradients(model, objective, batches):
    """What one update sees: the weighted loss over the window, and the gradients of the model."""
    model.zero_grad()
    counts: dict[str, int] = {}
    for batch in batches:
        for name, count in objective.counts(batch).items():
            counts[name] = counts.get(name, 0) + count
    total = 0.0
    for batch in batches:
        sums = objective.terms(model, batch).sums
        loss = sum(objective.weights[n] / counts[n] * s for n, s in sums.items() if counts[n])
        loss.backward()
        total += float(loss.detach())
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def cut(batch: dict, rows: int) -> list[dict]:
    """Micro-batches of `rows` rows."""
    return [{n: t[start:start + rows] for n, t in batch.items()}
            for start in range(0, batch["input_ids"].shape[0], rows)]
