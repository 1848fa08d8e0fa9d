"""One training step of ours and of plain PyTorch on a GPU: what benchmarks/pretrain_gpu.py lets take turns."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training_steps import PlainModel
from benchmarks.training_steps import Shape as SmallShape
from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import CausalLM
from gristmill.training import OptimizerConfig, Trainer, TrainingConfig
from gristmill.training.device import prepare
from gristmill.training.parallel.apply import Settings
from gristmill.training.report import Report

CLIP, RATE = 1.0, 1e-4
DOCUMENT = 800
"""Tokens of a document on average."""


@dataclass(frozen=True)
class Shape(SmallShape):
    """Sizes with a vocabulary of their own."""

    vocabulary: int = 50_304
    largest: int = 64
    """Rows of the largest micro-batch."""
    graphs: bool = False
    """Whether CUDA graphs take a turn."""

    def config(self) -> DecoderConfig:
        return DecoderConfig(vocab_size=self.vocabulary, dim=self.dim, layers=self.layers, heads=self.heads,
                             kv_heads=self.heads, head_dim=self.dim // self.heads, mlp_dim=self.mlp_dim,
                             context=self.context)


def shapes(context: int) -> dict[str, Shape]:
    """Heads of 128 channels, which attention kernels like best; 30m has heads of 64."""
    return {
        "tiny": Shape(64, 2, 2, min(context, 64), 4, vocabulary=512, largest=4, graphs=True),
        "30m": Shape(384, 6, 6, min(context, 1024), 0, vocabulary=32_768, largest=8, graphs=True),
        "124m": Shape(768, 12, 6, context, 0, largest=32, graphs=True),
        "350m": Shape(1024, 24, 8, context, 0, largest=32),
        "760m": Shape(1536, 24, 12, context, 0, largest=16),
        "1.3b": Shape(2048, 24, 16, context, 0, largest=16),
    }


class Rows:
    """Random tokens, the same batch for everybody at a step, on the CPU as a training reads them."""

    static = True

    def __init__(self, shape: Shape, rows: int, documents: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, shape.vocabulary, (rows, shape.context + 1), generator=generator)
        self.batch = {"input_ids": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
        if documents:
            mean = min(DOCUMENT, shape.context // 4)
            begins = torch.rand(rows, shape.context, generator=generator) < 1 / mean
            self.batch["document_ids"] = begins.cumsum(1, dtype=torch.int32)

    def window(self, step: int) -> list[dict[str, Tensor]]:
        return [dict(self.batch)]


def ours(shape: Shape, rows: int, device: torch.device, numerics: str, compiled: bool, *, graphs: bool = False,
         documents: bool = False) -> Callable[[], Any]:
    """A step of the one training loop, whose numbers are read while the next one runs, as `fit` does. Weights are what
    torch's layers begin with, made on the device."""
    with device:
        model = Decoder(shape.config())
    folder = tempfile.TemporaryDirectory()
    graphed = "never" if not graphs else "always" if device.type == "cuda" else "auto"
    trainer = Trainer(
        model=model, objective=CausalLM(), source=Rows(shape, rows, documents), steps=10**6,
        compute=prepare(Runtime(device=device.type, precision=numerics, cuda_graphs=graphed)), folder=Path(folder.name),
        checkpoints=Path(folder.name) / "checkpoints",
        config=TrainingConfig(optimizer=OptimizerConfig(kind="adamw", learning_rate=RATE), clip=CLIP),
        settings=Settings(compile=compiled))
    window = trainer.source.window(0)
    running: deque[Report] = deque()

    def step() -> Any:
        assert folder
        running.append(trainer.advance(window))
        if len(running) > trainer.lag:
            running.popleft().read()

    return step


def plain(shape: Shape, rows: int, device: torch.device, numerics: str, compiled: bool) -> Callable[[], Any]:
    """A page of PyTorch."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("medium")  # as ours: another one would have its blocks compiled again
    with device:
        model = PlainModel(shape)
        model.embedding = nn.Embedding(shape.vocabulary, shape.dim)
        model.head = nn.Linear(shape.dim, shape.vocabulary, bias=False)
    # Not dynamic: with half the rows a second model would else get kernels for any number of them.
    run: Any = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    batch = {name: tensor.to(device) for name, tensor in Rows(shape, rows).window(0)[0].items()}

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            loss = run(batch["input_ids"], batch["targets"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


Contestant = Callable[[Shape, int, torch.device, str, bool], Callable[[], Any]]
CONTESTANTS: dict[str, Contestant] = {
    "ours": ours, "plain": plain, "documents": partial(ours, documents=True), "graphs": partial(ours, graphs=True)}
