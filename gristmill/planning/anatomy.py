"""What a model is made of, read off its body on the meta device: parameters by part, products, attention layers.

Nothing here names a family. A parameter's part follows from the type of its module and the names on its path, a product
from `nn.Linear` and expert weights, an attention layer from its projections `query`, `key` and `value`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from torch import Tensor, nn

from gristmill.models.config import TwoStreamConfig
from gristmill.models.layers.masks import FULL, Pattern
from gristmill.models.layers.moe import expert_layers
from gristmill.models.loading import skeleton

Part = Literal["embedding", "positions", "attention", "mlp", "experts", "router", "norms", "head", "other"]
PARTS: tuple[Part, ...] = ("embedding", "positions", "attention", "mlp", "experts", "router", "norms", "head", "other")
Side = Literal["source", "target"]
"""Whose tokens: what an encoder reads, or what a decoder predicts. A model of one stack has targets only."""

_ONCE_A_ROW = ("pooler", "pair", "classifier", "next_sentence")
"""Matrices that read one state of a row, not every token."""
_ONCE_A_DISTANCE = "position"
"""The matrix that projects relative positions; it works once a batch."""
_NAMES: tuple[tuple[Part, tuple[str, ...]], ...] = (
    ("router", ("router",)),
    ("experts", ("experts",)),
    ("attention", ("attention", "cross")),
    ("mlp", ("mlp", "feed_forward", "shared")),
    ("head", ("head", *_ONCE_A_ROW)),
    ("positions", ("positions", "position", "segments", "token_types", "relative")),
)
"""Part -> beginnings of names on the path of a parameter, in the order in which they are tried."""


@dataclass(frozen=True)
class Product:
    """A weight matrix that multiplies tokens."""

    name: str

    part: Part
    parameters: int
    side: Side
    layer: int | None
    """Number of the block, None outside of blocks."""
    share: float = 1.0
    """How much of it one token meets: active experts over all."""


@dataclass(frozen=True)
class AttentionLayer:
    """Scores and mixing of one layer."""

    pattern: Pattern
    heads: int
    head_dim: int
    kv_dim: int
    """Numbers that a cache keeps of a token for its keys alone; as many again for its values."""
    queries: Side
    keys: Side
    layer: int | None
    relative: bool = False
    """Whether there are scores of relative positions besides, over twice as many keys (arXiv:1901.02860)."""

    @property
    def pair(self) -> float:
        """FLOPs of a query and a key: scores and mixing."""
        return (8.0 if self.relative else 4.0) * self.heads * self.head_dim


@dataclass(frozen=True)
class Anatomy:
    """Everything that a plan counts with."""

    config: Any
    parameters: Mapping[Part, int]
    """Exact, tied ones once."""
    per_block: tuple[int, ...]
    """Parameters of each block, in the order in which blocks run."""
    active: int
    """Parameters that one token meets; fewer than all where there are experts."""
    products: tuple[Product, ...]
    attentions: tuple[AttentionLayer, ...]
    matrices: int
    """Parameters of the matrices inside the blocks: what Muon updates."""
    beside_experts: int
    """Parameters of routers, and of experts that all tokens meet."""
    largest_group: int
    """Parameters of the largest group of such matrices of equal shape, which Muon updates at once."""

    @property
    def largest_block(self) -> int:
        return max(self.per_block)

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def two_stacks(self) -> bool:
        """Whether an encoder reads what a decoder answers."""
        return any(product.side == "source" for product in self.products)

    @property
    def two_streams(self) -> bool:
        """Whether it is trained with queries that know only their place (arXiv:1906.08237)."""
        return isinstance(self.config, TwoStreamConfig)

    @property
    def causal(self) -> bool:
        """Whether it writes token after token and needs a cache."""
        return any(layer.pattern.causal and layer.queries == layer.keys == "target" for layer in self.attentions)

    @property
    def matmul_parameters(self) -> float:
        """Parameters in products that one target token meets (all of them in a model of one stack)."""
        return sum(product.parameters * product.share for product in self.products)


@lru_cache(maxsize=64)
def _anatomy(config_key: _Key) -> Anatomy:
    config = config_key.config
    model = skeleton(config)
    blocks = list(model.all_blocks)
    block_of = {id(parameter): number for number, block in enumerate(blocks) for parameter in block.parameters()}
    counts: dict[Part, int] = dict.fromkeys(PARTS, 0)
    products: list[Product] = []
    attentions: list[AttentionLayer] = []
    active = matrices = 0
    groups: Counter[tuple[int, ...]] = Counter()
    seen: set[int] = set()
    two_stacks = hasattr(model, "encoder") and hasattr(model, "decoder")
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            part = _part(path, name, module, config)
            share = _expert_share(config) if part == "experts" else 1.0
            counts[part] += parameter.numel()
            active += round(parameter.numel() * share)
            layer = block_of.get(id(parameter))
            if layer is not None and parameter.ndim >= 2 and part not in ("embedding", "positions"):
                matrices += parameter.numel()
                groups[tuple(parameter.shape)] += parameter.numel()
            if parameter is not model.head_weight and _multiplies(path, name, module, parameter, part):
                side = _side(path, two_stacks)
                products.append(Product(f"{path}.{name}", part, parameter.numel(), side, layer, share))
        if all(isinstance(getattr(module, name, None), nn.Linear) for name in ("query", "key", "value")):
            attentions.append(_attention(path, module, config, two_stacks, block_of.get(id(module.query.weight))))
    products.append(Product("head", "head", model.head_weight.numel(), "target", None))
    beside = sum(parameter.numel() for layer in expert_layers(model) for name, parameter in layer.named_parameters()
                 if not name.startswith("experts."))
    sizes = tuple(sum(p.numel() for p in block.parameters()) for block in blocks)
    return Anatomy(config, counts, sizes, active, tuple(products), tuple(attentions), matrices,
                   beside, max(groups.values(), default=0))


def anatomy(config: Any) -> Anatomy:
    """Read the anatomy of a model of this config; nothing is allocated."""
    return _anatomy(_Key(config))


class _Key:
    """A config as the key of a cache: configs may hold dicts, which cannot be hashed."""

    def __init__(self, config: Any) -> None:
        self.config, self.text = config, repr(config)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.text == other.text


def _part(path: str, name: str, module: nn.Module, config: Any) -> Part:
    if "Norm" in type(module).__name__:
        return "norms"
    if isinstance(module, nn.Embedding):
        return "embedding" if module.num_embeddings == config.vocab_size else "positions"
    for part, beginnings in _NAMES:
        if any(word.startswith(beginnings) for word in (*path.split("."), name)):
            return part
    return "other"


def _multiplies(path: str, name: str, module: nn.Module, parameter: Tensor, part: Part) -> bool:
    """Whether a parameter is a matrix that multiplies every token of its side."""
    last = path.split(".")[-1]
    if last.startswith(_ONCE_A_ROW) or (last == _ONCE_A_DISTANCE and part == "attention"):
        return False
    if isinstance(module, nn.Linear):
        return name == "weight"
    return part == "experts" and parameter.ndim == 3


def _expert_share(config: Any) -> float:
    return config.active_experts / config.experts


def _side(path: str, two_stacks: bool) -> Side:
    if not two_stacks:
        return "target"
    words = path.split(".")
    if words[0] == "encoder" or ("cross" in path and words[-1] in ("key", "value")):
        return "source"
    return "target"


def _attention(path: str, module: Any, config: Any, two_stacks: bool, layer: int | None) -> AttentionLayer:
    head_dim = getattr(module, "head_dim", config.head_dim)
    queries: Side = "source" if two_stacks and path.split(".")[0] == "encoder" else "target"
    keys: Side = "source" if two_stacks and "cross" in path else queries
    # Bodies whose attention never looks ahead say so by a pattern; the others see everything.
    pattern = getattr(module, "pattern", FULL)
    return AttentionLayer(pattern, module.query.out_features // head_dim, head_dim, module.key.out_features,
                          queries, keys, layer, isinstance(getattr(module, _ONCE_A_DISTANCE, None), nn.Linear))
