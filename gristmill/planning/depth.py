"""The same model with fewer blocks: what repeats needs to be counted or measured only a few times."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from gristmill.core.errors import UserError


def shallow(config: Any, blocks: int) -> Any:
    """The same model with so many blocks, in each of its stacks. UserError where it has no single depth."""
    if not any(f.name == "layers" for f in dataclasses.fields(config)):
        raise UserError(f"{config.family} has no single depth", where="layers", fix="plan another family")
    both = {"decoder_layers": blocks} if hasattr(config, "decoder_layers") else {}
    return dataclasses.replace(config, layers=blocks, **both)


def pattern(config: Any) -> tuple[int, int]:
    """Blocks at the beginning that are like no others, and after how many the others repeat."""
    moe = getattr(config, "moe", None)
    values = 2 if getattr(config, "value_embeddings", False) else 1
    return (moe.first_dense if moe is not None else 0), math.lcm(max(1, len(getattr(config, "attention", ()))), values)


def representative(config: Any) -> tuple[Any, list[int]]:
    """A config with as few blocks as show everything, and for each block of the whole model its like in that one.

    The first blocks, the last ones and one whole pattern between them stand for all, because a model may treat its ends
    in a way of their own.
    """
    names = [name for name in ("layers", "decoder_layers") if hasattr(config, name)]
    first, period = pattern(config)
    changes: dict[str, int] = {}
    likes: list[int] = []
    for name in names:
        whole = getattr(config, name)
        kept = min(whole, first + 3 * period + (whole - first) % period)
        begin = sum(changes.values())
        likes += [begin + _like(block, whole, kept, first, period) for block in range(whole)]
        changes[name] = kept
    return dataclasses.replace(config, **changes), likes


def _like(block: int, whole: int, kept: int, first: int, period: int) -> int:
    between = first + 2 * period
    if kept == whole or block < between:
        return block
    if block >= whole - (kept - between):
        return block - (whole - kept)
    return first + period + (block - first) % period
