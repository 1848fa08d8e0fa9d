"""`--deterministic`: the same bits from the same recipe, on the same kind of device with as many threads and processes.

Without it a CPU already gives the same bits every time. On a GPU some operations add up in the order in which their
threads happen to finish; here torch takes a slower form of them, or refuses where it has none.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from gristmill.core.errors import UserError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_ours = False
"""Whether this module switched it on: what a user's program set is left alone."""


def use_deterministic(wanted: bool) -> None:
    """Switch it on for this process, or off again if it was us."""
    global _ours
    if wanted:
        # cuBLAS takes its workspace from a pool otherwise, and with another workspace adds up in another order.
        os.environ.setdefault(WORKSPACE, ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        _ours = True
    elif _ours:
        torch.use_deterministic_algorithms(False)
        _ours = False


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn torch's refusal of an operation without a deterministic form into a UserError that names it."""
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None:
            raise
        raise UserError(f"torch has no deterministic form of {found[1]} here", where="--deterministic",
                        fix="leave --deterministic out, or train with --device cpu") from error
