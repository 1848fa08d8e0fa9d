"""Bytes that autograd keeps between forward and backward, counted on a model without storage.

The body runs its forward pass on the meta device while hooks note every tensor that is saved for the backward pass. A
formula would have to be rewritten for each layer; this counts what the code really does, at any size, in a second.
The pass pretends to run on the device that is planned for, because kernels and autocast save other things there.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gristmill.models.config.encoder_decoder import TARGETS_PER_INPUT
from gristmill.models.config.two_stream import PREDICTED
from gristmill.models.encoder_decoder import EncoderDecoder
from gristmill.models.families import FAMILIES
from gristmill.models.layers import attention, experts, flex
from gristmill.models.layers.moe import expert_layers
from gristmill.models.two_stream import TwoStream, permutation_mask
from gristmill.planning.depth import representative

Checkpointing = Literal["none", "selective", "full"]
CHECKPOINTING: tuple[Checkpointing, ...] = ("none", "selective", "full")
"""What of a block is kept for its backward pass. none: everything. selective: its inputs, the results of its
projections and of fused attention; the rest is computed again. full: its inputs only."""


@dataclass(frozen=True)
class BlockActivations:
    """Bytes of one block: a part that grows with the rows, and one that does not (copies of weights, masks)."""

    row: Mapping[Checkpointing, float]
    """Bytes a row of the micro-batch."""
    fixed: Mapping[Checkpointing, float]
    """Bytes whatever the rows."""
    experts_row: Mapping[Checkpointing, float]
    """Of `row`, those inside a layer of experts, which `tensor` does not cut."""

    def kept(self, rows: float, mode: Checkpointing, tensor: int = 1) -> float:
        """Bytes of one of the `tensor` processes that share `rows` x `tensor` rows."""
        return (self.row[mode] + (tensor - 1) * self.experts_row[mode]) * rows + self.fixed[mode]


@dataclass(frozen=True)
class Activations:
    """Of a whole body: its blocks in the order in which they run, and what lies outside of them."""

    blocks: tuple[BlockActivations, ...]
    outside_row: float
    outside_fixed: float

    def saved(self, rows: float, mode: Checkpointing, blocks: slice = slice(None), tensor: int = 1) -> float:
        """Bytes at the end of the forward pass of `rows` rows, the named blocks and what is outside. tensor: processes
        that share as many times those rows."""
        kept = sum(b.kept(rows, mode, tensor) for b in self.blocks[blocks])
        return kept + self.outside_row * rows + self.outside_fixed

    def recomputed(self, rows: float, mode: Checkpointing, blocks: slice = slice(None), tensor: int = 1) -> float:
        """Bytes of the block that is being computed again, at its largest; 0 without checkpointing."""
        chosen = self.blocks[blocks]
        if mode == "none" or not chosen:
            return 0.0
        return max(b.kept(rows, "none", tensor) - b.kept(rows, mode, tensor) for b in chosen)


def activations(config: Any, time: int, *, precision: str = "bf16", device: str = "cuda", documents: bool = False,
                ) -> Activations:
    """Count a forward pass of rows of `time` tokens.

    precision: fp32, or bf16 for autocast over fp32 weights. device: cpu or cuda. documents: rows hold several documents
    that do not see each other, so that attention needs masks.
    """
    return _activations(_Key(config), time, precision, device, documents)


class _Key:
    def __init__(self, config: Any) -> None:
        self.config, self.text = config, repr(config)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.text == self.text


@lru_cache(maxsize=128)
def _activations(key: _Key, time: int, precision: str, device: str, documents: bool) -> Activations:
    few, likes = representative(key.config)
    one, two = (_count(few, rows, time, precision, device, documents) for rows in (1, 2))
    blocks = []
    for first, second in zip(one.blocks, two.blocks, strict=True):
        row = {mode: second.whole[mode] - first.whole[mode] for mode in CHECKPOINTING}
        blocks.append(BlockActivations(row, {mode: first.whole[mode] - row[mode] for mode in CHECKPOINTING}, {
            mode: second.experts[mode] - first.experts[mode] for mode in CHECKPOINTING}))
    outside = two.outside - one.outside
    return Activations(tuple(blocks[like] for like in likes), outside, one.outside - outside)


@dataclass
class _Block:
    """Bytes of one, and those of them inside a layer of experts."""

    whole: dict[Checkpointing, float] = field(default_factory=lambda: dict.fromkeys(CHECKPOINTING, 0.0))
    experts: dict[Checkpointing, float] = field(default_factory=lambda: dict.fromkeys(CHECKPOINTING, 0.0))


@dataclass
class _Count:
    blocks: list[_Block]
    outside: float


def _count(config: Any, rows: int, time: int, precision: str, device: str, documents: bool) -> _Count:
    if getattr(config, "moe", None) is not None:  # which tokens find no room depends on what they say
        config = dataclasses.replace(config, moe=dataclasses.replace(config.moe, capacity=None))
    with torch.device("meta"):
        model = FAMILIES[config.family].body(config)
    model.train()
    blocks = list(model.all_blocks)
    ledger = _Ledger(model, len(blocks))
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(ledger.enter(number), with_kwargs=True)
        block.register_forward_hook(ledger.leave)
    for layer in expert_layers(model):
        layer.register_forward_pre_hook(ledger.enter_experts)
        layer.register_forward_hook(ledger.leave_experts)
    hooks = torch.autograd.graph.saved_tensors_hooks(ledger.note, lambda x: x)
    with _autocast(device, precision), _kernels(), hooks, _Pretend(device, ledger), torch.device("meta"):
        forward(model, rows, time, documents)
    return _Count(ledger.blocks, ledger.outside)


def forward(model: Any, rows: int, time: int, documents: bool = False) -> Tensor:
    """A forward pass of `rows` rows of `time` tokens as training does it, up to the states that the head reads."""
    ids = torch.zeros(rows, time, dtype=torch.int64)
    document_ids = torch.zeros(rows, time, dtype=torch.int32) if documents else None
    if isinstance(model, TwoStream):
        ranks = torch.where(torch.arange(time) % PREDICTED == 0, 0, -1).expand(rows, -1)
        places = torch.arange(0, time, PREDICTED).expand(rows, -1)
        return model.encode(ids, document_ids=document_ids, perm_mask=permutation_mask(ranks), targets=places,
                            content=False).output
    if isinstance(model, EncoderDecoder):
        targets = max(1, round(time * TARGETS_PER_INPUT))
        return model.hidden(ids, ids[:, :targets], document_ids=document_ids,
                            decoder_document_ids=None if document_ids is None else document_ids[:, :targets])
    return model.hidden(ids, document_ids=document_ids)


class _Ledger:
    """Which storages are kept, by whom; a storage counts once, where it is met first, and parameters never."""

    def __init__(self, model: nn.Module, blocks: int) -> None:
        self.ignored = {p.untyped_storage()._cdata for p in model.parameters()}
        self.blocks = [_Block() for _ in range(blocks)]
        self.outside = 0.0
        self.current: int | None = None
        self.in_experts = False
        self.seen: dict[tuple[Checkpointing, int], Any] = {}

    def note(self, tensor: Tensor) -> Tensor:
        if self.current is None:
            self.outside += self._new(tensor, *CHECKPOINTING).get("none", 0)
        else:
            self._add(tensor, "none")
        return tensor

    def keep(self, tensor: Tensor) -> None:
        """The result of an operation that selective checkpointing does not repeat."""
        if self.current is not None:
            self._add(tensor, "selective")

    def enter(self, number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.current = number
            for tensor in _tensors((args, kwargs)):
                self._add(tensor, "selective", "full")

        return hook

    def leave(self, *_: Any) -> None:
        self.current = None

    def enter_experts(self, *_: Any) -> None:
        self.in_experts = True

    def leave_experts(self, *_: Any) -> None:
        self.in_experts = False

    def _add(self, tensor: Tensor, *modes: Checkpointing) -> None:
        assert self.current is not None
        for mode, size in self._new(tensor, *modes).items():
            self.blocks[self.current].whole[mode] += size
            if self.in_experts:
                self.blocks[self.current].experts[mode] += size

    def _new(self, tensor: Tensor, *modes: Checkpointing) -> dict[Checkpointing, int]:
        storage = tensor.untyped_storage()
        if storage._cdata in self.ignored:
            return {}
        fresh = [mode for mode in modes if (mode, storage._cdata) not in self.seen]
        for mode in fresh:
            self.seen[mode, storage._cdata] = storage  # kept alive, or its address would be used again
        return dict.fromkeys(fresh, storage.nbytes())


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in _tensors(v)]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in _tensors(v)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [t for f in dataclasses.fields(value) for t in _tensors(getattr(value, f.name))]
    return []


_PRODUCTS = {F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.addmm, torch.bmm,
             Tensor.bmm, torch.baddbmm, torch.einsum, F.scaled_dot_product_attention}
_SENSITIVE = {F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, torch.rsqrt, Tensor.rsqrt,
              torch.exp, Tensor.exp, torch.pow, Tensor.pow, Tensor.sum, torch.sum, torch.cumsum, Tensor.cumsum}
"""What autocast computes in fp32 on CUDA; on CPUs it leaves these alone."""
_DEVICE = torch.Tensor.device


class _Pretend(TorchFunctionMode):
    """Meta tensors that say they are elsewhere, autocast for them, and fused kernels that save their inputs.

    autocast itself looks at the device of its arguments and would leave meta tensors alone.
    """

    def __init__(self, device: str, ledger: _Ledger) -> None:
        super().__init__()
        self.device, self.ledger = torch.device(device), ledger
        self.copies: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__self__", None) is _DEVICE and getattr(func, "__name__", "") == "__get__":
            return self.device
        if kwargs.get("device") is not None:
            kwargs["device"] = "meta"
        kind = self.device.type
        if torch.is_autocast_enabled(kind):
            low = torch.get_autocast_dtype(kind)
            if func in _PRODUCTS:
                args, kwargs = self._cast(args, low), self._cast(kwargs, low)
            elif kind == "cuda" and func in _SENSITIVE:
                args = self._cast(args, torch.float32)
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if getattr(func, "__name__", "") in ("grouped_mm", "_grouped_mm"):
            made = _Grouped.apply(args[0], args[1], kwargs["offs"])
            self.ledger.keep(made)
            return made
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and self._projects(func, args):
            self.ledger.keep(result)
        return result

    def _projects(self, func: Any, args: Any) -> bool:
        """Whether this is a product with a matrix, not of two batches."""
        if func in (F.linear, torch.mm, torch.addmm, Tensor.mm):
            return True
        return func in _PRODUCTS and any(isinstance(a, Tensor) and a.ndim == 2 for a in args)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, Tensor):
            if not value.is_floating_point() or value.dtype == dtype:
                return value
            if not (value.is_leaf and value.requires_grad):
                return value.to(dtype)
            # As autocast does: one copy of a weight for the whole forward pass.
            if id(value) not in self.copies:
                self.copies[id(value)] = value.to(dtype)
            return self.copies[id(value)]
        if isinstance(value, dict):
            return {name: self._cast(v, dtype) for name, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._cast(v, dtype) for v in value)
        return value

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
                is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:
        # A fused kernel wants its mask as numbers to add.
        bias = attn_mask.to(q.dtype) if attn_mask is not None and attn_mask.dtype == torch.bool else attn_mask
        mixed = _Fused.apply(q, k, v, bias)
        self.ledger.keep(mixed)
        return mixed


@contextlib.contextmanager
def _autocast(device: str, precision: str) -> Iterator[None]:
    """Autocast for a device that need not be there: layers that ask whether it is on are told so."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, precision == "bf16")
    torch.set_autocast_dtype(device, torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


@contextlib.contextmanager
def _kernels() -> Iterator[None]:
    """Kernels that would ask the device or compile: grouped products as on new devices, flex attention as flash."""
    kept = attention.flex, flex.layer_masks, experts.can_group
    attention.flex = _flex  # type: ignore[assignment]
    flex.layer_masks = lambda *_, **__: {}  # type: ignore[assignment]
    experts.can_group = lambda rows, stacks: hasattr(F, "grouped_mm")  # type: ignore[assignment]
    try:
        yield
    finally:
        attention.flex, flex.layer_masks, experts.can_group = kept


def _flex(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None, **_: Any) -> Tensor:
    return _Fused.apply(q, k, v, None)


class _Grouped(torch.autograd.Function):
    """What a grouped product saves: its inputs. On the meta device torch has it for bf16 only."""

    @staticmethod
    def forward(ctx, rows, stack, ends):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(rows, stack, ends)
        return rows.new_empty(rows.shape[0], stack.shape[-1])

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        raise NotImplementedError("this is only counted")


class _Fused(torch.autograd.Function):
    """What flash attention saves: its inputs, its result, and the log of each row's sum (arXiv:2307.08691)."""

    @staticmethod
    def forward(ctx, q, k, v, bias):  # type: ignore[no-untyped-def]
        batch, heads, time, _ = q.shape
        mixed = q.new_empty(batch, time, heads, v.shape[-1]).transpose(1, 2)
        sums = q.new_empty(batch, heads, time, dtype=torch.float32)
        ctx.save_for_backward(q, k, v, mixed, sums, *([] if bias is None else [bias]))
        return mixed

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        raise NotImplementedError("this is only counted")
