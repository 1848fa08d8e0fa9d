"""One pattern of every kind, and who sees whom in it, told again in plain words."""

from __future__ import annotations

import torch

from gristmill.models.layers.masks import Pattern

PATTERNS = {
    "causal": Pattern(),
    "full": Pattern(causal=False),
    "sliding window": Pattern(window=5),
    "window of one": Pattern(window=1),
    "window both ways": Pattern(causal=False, window=4),
    "dilated": Pattern(window=4, dilation=3),
    "strided": Pattern(window=3, stride=7),
    "only strided": Pattern(stride=4),
    "global and local": Pattern(window=4, global_tokens=2),
    "block-sparse": Pattern(window=2, stride=3, global_tokens=1, block=8),
    "dilated blocks": Pattern(window=2, dilation=2, block=3),
}


def sees(pattern: Pattern, query: int, key: int) -> bool:
    """Whether the query may see the key, from the meaning of the pattern's fields."""
    if pattern.causal and key > query:
        return False
    if pattern.window is None and pattern.stride is None and not pattern.global_tokens:
        return True
    row, column = query // pattern.block, key // pattern.block
    if row < pattern.global_tokens or column < pattern.global_tokens:
        return True
    places = {row + sign * step * pattern.dilation for step in range(pattern.window or 0) for sign in (1, -1)}
    return column in places or (pattern.stride is not None and (row - column) % pattern.stride == 0)


def seen(pattern: Pattern, time: int, document_ids=None, prefix=None) -> torch.Tensor:
    """(time, time) of bool for one row; document_ids and prefix (time,)."""
    mask = torch.zeros(time, time, dtype=torch.bool)
    for i in range(time):
        for j in range(time):
            mask[i, j] = (sees(pattern, i, j) or (prefix is not None and bool(prefix[j]))) and (
                document_ids is None or bool(document_ids[i] == document_ids[j]))
    return mask
