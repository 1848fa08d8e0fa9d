"""One training step of ours and of each peer, on equal shapes: what benchmarks/pretrain_cpu.py lets take turns.

Every contestant but nanochat is a decoder with RMS norms, rotary positions, a SwiGLU and an untied head (as Llama), an
AdamW that is fused, and gradients clipped at 1. What the process is set to (precision of fp32 products, how the
allocator behaves) is switched with each step: ours runs as `training.device.prepare` leaves it, a peer as torch starts.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import CausalLM
from gristmill.training.accumulate import Accumulation
from gristmill.training.compile import compile_blocks
from gristmill.training.device import prepare
from gristmill.training.micro_batch import MicroBatch
from gristmill.training.optimizers import OptimizerConfig, build_optimizer
from gristmill.training.parallel.gradients import clip, total_norm
from gristmill.training.parallel.world import World

VOCABULARY = 8192
CLIP = 1.0
RATE = 1e-3
PLAIN_ADAMW = OptimizerConfig(kind="adamw", learning_rate=RATE)


@dataclass(frozen=True)
class Shape:
    """Sizes that all contestants share."""

    dim: int
    layers: int
    heads: int
    context: int
    rows: int
    """Of a batch."""

    @property
    def mlp_dim(self) -> int:
        """The multiple of 64 at or above 8/3 of the width."""
        return -(-self.dim * 8 // 3 // 64) * 64

    @property
    def tokens(self) -> int:
        return self.context * self.rows

    def config(self) -> DecoderConfig:
        return DecoderConfig(vocab_size=VOCABULARY, dim=self.dim, layers=self.layers, heads=self.heads,
                             kv_heads=self.heads, head_dim=self.dim // self.heads, mlp_dim=self.mlp_dim,
                             context=self.context)

    @property
    def flops(self) -> float:
        """Of a step: six for each parameter of a matrix product and token, and the causal half of attention."""
        return self.tokens * self.config().flops_per_token(self.context)

    def __str__(self) -> str:
        return f"d={self.dim} L={self.layers} T={self.context} B={self.rows}"


SHAPES = {"i": Shape(256, 6, 4, 256, 16), "ii": Shape(512, 8, 8, 512, 8)}


class Contestant:
    """A model with its optimizer; `step` trains on one batch."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], *, bf16: bool,
                 compiled: bool) -> None:
        """loss: (inputs, targets), both (rows, time) of int64 -> the mean cross-entropy, targets of -100 left out."""
        self.model, self.bf16 = model, bf16
        self.loss = torch.compile(loss) if compiled else loss
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)

    def settle(self) -> None:
        """Set the process up as this contestant has it."""
        torch.set_float32_matmul_precision("highest")
        torch_memory()

    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss(inputs, targets)
        loss.backward()
        return loss.detach()

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update; the mean loss before it."""
        loss = self.gradients(inputs, targets)
        self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def clip(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)


class Ours(Contestant):
    """The model, objective, passes and settings that recipes train with."""

    def __init__(self, shape: Shape, *, bf16: bool = True, compiled: bool = True, seed: int = 0,
                 optimizer: OptimizerConfig = PLAIN_ADAMW) -> None:
        model = Decoder(shape.config())
        model.initialise(seed)
        if compiled:
            compile_blocks(model)
        self.model, self.precision = model, "bf16" if bf16 else "fp32"
        self.compute = prepare(Runtime(device="cpu", precision=self.precision))
        self.world = World.alone()
        self.passes = Accumulation(MicroBatch(model, CausalLM()), self.compute)
        self.optimizer = build_optimizer(list(model.named_parameters()), optimizer)

    def settle(self) -> None:
        prepare(Runtime(device="cpu", precision=self.precision))

    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        batch, count = {"input_ids": inputs, "targets": targets}, int((targets >= 0).sum())
        sums, _ = self.passes.run([batch], {"loss": 1 / count})
        return sums["loss"] / count

    def clip(self) -> None:
        parameters = list(self.model.parameters())
        clip(parameters, CLIP, total_norm(parameters, self.world))


def hugging_face(shape: Shape, *, bf16: bool, compiled: bool, seed: int = 0) -> Contestant:
    """transformers' Llama with its own loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=shape.dim, intermediate_size=shape.mlp_dim, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=shape.context,
        tie_word_embeddings=False, use_cache=False))
    return Contestant(model, lambda inputs, targets: model(inputs, labels=targets, shift_labels=targets).loss,
                      bf16=bf16, compiled=compiled)


def litgpt(shape: Shape, *, bf16: bool, compiled: bool, seed: int = 0) -> Contestant:
    """litgpt's GPT, configured as its Llamas, with the loss that its pretraining uses."""
    from litgpt.model import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    torch.manual_seed(seed)
    model: Any = GPT(Config(
        name="llama", block_size=shape.context, vocab_size=VOCABULARY, padded_vocab_size=VOCABULARY,
        n_layer=shape.layers, n_head=shape.heads, n_embd=shape.dim, n_query_groups=shape.heads, rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        intermediate_size=shape.mlp_dim))
    run = torch.compile(model) if compiled else model  # as litgpt does: the loss stays outside
    return Contestant(model, lambda inputs, targets: chunked_cross_entropy(run(inputs), targets), bf16=bf16,
                      compiled=False)


class NanoChat(Contestant):
    """nanochat's GPT with its own optimizer (Muon and AdamW) and compiled as its pretraining does; nothing is clipped.

    Its model is not a Llama: squared ReLU of four times the width, value embeddings, normalised queries and keys. All
    layers look at the whole row. Rates are its defaults with its rule for the batch: sqrt(tokens / 2**19).
    """

    warmup = 40
    """Updates until its learning rates are reached."""

    def __init__(self, shape: Shape, *, bf16: bool, seed: int = 0) -> None:
        from nanochat import common, gpt, optim

        torch._dynamo.config.recompile_limit = 64  # its optimizer is compiled for each shape of a weight
        self.modules, self.dtype, self.done = (common, gpt, optim), torch.bfloat16 if bf16 else torch.float32, 0
        self.settle()
        torch.manual_seed(seed)
        with torch.device("meta"):
            model: Any = gpt.GPT(gpt.GPTConfig(
                sequence_len=shape.context, vocab_size=VOCABULARY, n_layer=shape.layers, n_head=shape.heads,
                n_kv_head=shape.heads, n_embd=shape.dim, window_pattern="L"))
        model.to_empty(device="cpu")
        model.init_weights()
        self.model, self.loss = model, torch.compile(model, dynamic=False)
        scale = (shape.tokens / 2**19) ** 0.5
        with contextlib.redirect_stdout(None):
            self.optimizer = model.setup_optimizer(
                unembedding_lr=0.008 * scale, embedding_lr=0.3 * scale, scalar_lr=0.5 * scale, matrix_lr=0.02 * scale)

    def settle(self) -> None:
        super().settle()
        for module in self.modules:
            module.COMPUTE_DTYPE = self.dtype

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.loss(inputs, targets.clamp(min=-1))
        loss.backward()
        self.done += 1
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * min(1.0, self.done / self.warmup)
            if group["kind"] == "muon":
                group["momentum"] = 0.85 + 0.12 * min(1.0, (self.done - 1) / 400)
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        return loss.detach()


class PlainBlock(nn.Module):
    """A Llama block as one would write it in a page."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, dim, inner = shape.heads, shape.dim, shape.mlp_dim
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(2))
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.gate_up, self.down = nn.Linear(dim, 2 * inner, bias=False), nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        q, k = (part * cos + torch.cat((-part[..., part.shape[-1] // 2:], part[..., :part.shape[-1] // 2]), -1) * sin
                for part in (q, k))
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class PlainModel(nn.Module):
    """Ids and targets in, the mean cross-entropy out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, shape.dim)
        self.blocks = nn.ModuleList(PlainBlock(shape) for _ in range(shape.layers))
        self.norm, self.head = nn.RMSNorm(shape.dim), nn.Linear(shape.dim, VOCABULARY, bias=False)
        size = shape.dim // shape.heads
        angles = torch.arange(shape.context)[:, None] * 10_000 ** (-torch.arange(0, size, 2) / size)
        self.register_buffer("angles", torch.cat((angles, angles), -1), persistent=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x, (cos, sin) = self.embedding(inputs), (self.angles.cos(), self.angles.sin())  # type: ignore[operator]
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.cross_entropy(self.head(self.norm(x)).float().flatten(0, 1), targets.flatten())


def plain(shape: Shape, *, bf16: bool, compiled: bool, seed: int = 0) -> Contestant:
    """Seventy lines of torch: scaled_dot_product_attention, the whole compiled."""
    torch.manual_seed(seed)
    model = PlainModel(shape)
    return Contestant(model, model, bf16=bf16, compiled=compiled)


MAKERS: dict[str, Callable[[Shape], Contestant]] = {
    "ours": Ours,
    "ours, not compiled": lambda shape: Ours(shape, compiled=False),
    "hugging face, bf16, compiled": lambda shape: hugging_face(shape, bf16=True, compiled=True),
    "hugging face, bf16": lambda shape: hugging_face(shape, bf16=True, compiled=False),
    "hugging face, fp32 (its default)": lambda shape: hugging_face(shape, bf16=False, compiled=False),
    "litgpt, bf16, compiled": lambda shape: litgpt(shape, bf16=True, compiled=True),
    "litgpt, bf16": lambda shape: litgpt(shape, bf16=True, compiled=False),
    "litgpt, fp32 (its default)": lambda shape: litgpt(shape, bf16=False, compiled=False),
    "nanochat, bf16, compiled": lambda shape: NanoChat(shape, bf16=True),
    "nanochat, fp32, compiled (its default)": lambda shape: NanoChat(shape, bf16=False),
    "plain loop, bf16, compiled": lambda shape: plain(shape, bf16=True, compiled=True),
}


def torch_memory() -> None:
    """glibc's usual way, as it is after the first large tensors of a process were freed: up to 32 MB from the heap, and
    what is larger from the kernel at every use."""
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    for name, value in ((mmap_max, 65536), (mmap_threshold, 32 * 2**20), (trim_threshold, 64 * 2**20)):
        libc.mallopt(name, value)
