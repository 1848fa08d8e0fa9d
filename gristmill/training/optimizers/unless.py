"""Undoing an update on the device that it happens on, so that nobody has to wait for the decision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def unless(skip: Tensor | None, *tensors: Any) -> Iterator[None]:
    """What the body does to `tensors` in place is undone where `skip` is not zero, bit for bit, nan included.

    skip: 0-d, on the tensors' device; None for a body that always holds. Costs a copy of the tensors for as long as the
    body runs, hence: a parameter at a time.
    """
    if skip is None:
        yield
        return
    with torch.no_grad():
        local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
        before = [tensor.clone() for tensor in local]
        yield
        for tensor, old in zip(local, before, strict=True):
            tensor.copy_(torch.where(skip.bool(), old, tensor))
