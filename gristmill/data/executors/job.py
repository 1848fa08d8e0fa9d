"""What a job is, and how its errors travel between processes."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from typing import Any

from gristmill.core import errors
from gristmill.core.errors import GristmillError, InternalError, MachineError

Task = dict[str, Any]
"""JSON-ready keyword arguments of a job."""


def resolve(job: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, _, function = job.partition(":")
    return getattr(importlib.import_module(module), function)


def described(error: BaseException) -> dict[str, Any]:
    """An error as JSON-ready values."""
    if isinstance(error, GristmillError):
        return {"type": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    if isinstance(error, MemoryError):
        return described(MachineError("memory ran out in a worker", fix="use fewer workers"))
    return described(InternalError("".join(traceback.format_exception(error))))


def raised(values: dict[str, Any]) -> GristmillError:
    """The error that was described."""
    kind = getattr(errors, values["type"], InternalError)
    return kind(values["what"], where=values["where"], fix=values["fix"])
