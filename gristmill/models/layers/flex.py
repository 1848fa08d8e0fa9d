"""torch's flex attention: compiled for a mask, it leaves out the blocks of scores that the mask hides altogether."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gristmill.core.compiler import compiler_forbidden, compiler_problem
from gristmill.models.layers.masks import CAUSAL, Pattern

SHORTEST = 1024
"""Rows shorter than this are not worth a block mask."""
SHARE = 4
"""Least number of times that the keys of a row exceed those that a query sees."""
HEAD_SIZES = (16, 32, 64, 128, 256)
HAS_COMPILER = compiler_problem(gpu=True) is None
"""Looked up once: inside of a compiled block the search itself would be traced."""


def pays_flex(q: Tensor, keys: int, pattern: Pattern, documents: bool = False) -> bool:
    """Whether flex attention beats a mask over all scores: of long rows, where the pattern hides most, or where there
    are documents, for which torch's other kernels would read a mask of all scores and skip nothing; CUDA only, and
    only where torch can compile for it, and may."""
    return (
        q.device.type == "cuda"
        and keys == q.shape[-2] >= SHORTEST
        and q.shape[-1] in HEAD_SIZES
        and (documents or seen_keys(pattern, keys) * SHARE <= keys)
        and HAS_COMPILER
        and not compiler_forbidden()
    )


def seen_keys(pattern: Pattern, keys: int) -> int:
    """About how many of `keys` keys a query sees."""
    local = (pattern.window or 0) * pattern.block * (1 if pattern.causal else 2)
    strided = 0 if pattern.stride is None else keys // pattern.stride
    return min(keys, keys if pattern.plain else local + strided + pattern.global_tokens * pattern.block)


def layer_masks(patterns: Iterable[Pattern], input_ids: Tensor, head_dim: int, document_ids: Tensor | None = None,
                prefix: Tensor | None = None, key_document_ids: Tensor | None = None) -> dict[Pattern, Any]:
    """What the layers' attention gets as `mask`, of each pattern for which flex attention pays.

    Made once for all layers, and outside of them: in a block whose activations are made again for its backward pass it
    could not be compiled. input_ids, document_ids and prefix: (batch, time); key_document_ids: (batch, keys), where
    another text is looked at.
    """
    batch, time = input_ids.shape
    keys = time if key_document_ids is None else key_document_ids.shape[1]
    q = input_ids.new_empty(0, time, head_dim)
    return {pattern: block_mask(pattern, batch, time, keys, input_ids.device, document_ids, key_document_ids, prefix)
            for pattern in dict.fromkeys(patterns) if pays_flex(q, keys, pattern, document_ids is not None)}


def flex(
    q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None, *, pattern: Pattern = CAUSAL,
    key_document_ids: Tensor | None = None, prefix: Tensor | None = None, bias: Tensor | None = None,
    scale: float | None = None, dropout: float = 0.0, first: int = 0, mask: Any = None,
) -> Tensor:
    """As `attention`; without bias and dropout."""
    if bias is not None or dropout:
        raise ValueError("flex attention takes neither a bias nor dropout")
    from torch.nn.attention.flex_attention import flex_attention

    if mask is None:
        mask = block_mask(pattern, q.shape[0], q.shape[2], k.shape[2], q.device, document_ids, key_document_ids, prefix,
                          first)
    return _kernel(q, flex_attention)(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def block_mask(pattern: Pattern, batch: int, queries: int, keys: int, device: torch.device,
               document_ids: Tensor | None = None, key_document_ids: Tensor | None = None,
               prefix: Tensor | None = None, first: int = 0) -> Any:
    """torch's BlockMask of what `masks.allowed` allows `queries` queries, from the one at `first` on."""
    from torch.nn.attention.flex_attention import create_block_mask

    if document_ids is None and prefix is None:
        return _pattern_mask(pattern, queries, keys, device, first)
    of_keys = document_ids if key_document_ids is None else key_document_ids

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        inside = pattern.sees(query + first, key)
        if prefix is not None:
            inside = inside | prefix[row, key]
        if document_ids is not None and of_keys is not None:
            inside = inside & (document_ids[row, query] == of_keys[row, key])
        return inside

    return create_block_mask(seen, batch, None, queries, keys, device=device)


@functools.lru_cache(maxsize=32)
def _pattern_mask(pattern: Pattern, queries: int, keys: int, device: torch.device, first: int) -> Any:
    """The blocks of a pattern alone: the same for every layer and step."""
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return pattern.sees(query + first, key)

    return create_block_mask(seen, None, None, queries, keys, device=device)


def _kernel(q: Tensor, plain: Any) -> Any:
    """flex attention, compiled where it is not already inside of something that is."""
    return _compiled() if q.device.type == "cuda" and not torch.compiler.is_compiling() else plain


@functools.cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
