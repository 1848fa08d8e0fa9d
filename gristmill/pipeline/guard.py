"""Running a stage's own code so that whatever it raises says which stage it was, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gristmill.core.errors import GristmillError, InternalError, Interrupted, MachineError, UserError
from gristmill.core.files import disk_errors
from gristmill.core.stage import StageContext
from gristmill.pipeline.ranks import lost_process, place


def guarded(name: str, config: Any, path: Path, context: StageContext) -> Mapping[str, Any]:
    """`config.run(context)` of the stage `name`, which works in `path`."""
    try:
        with disk_errors(path):
            return config.run(context)
    except GristmillError as error:
        if error.where is None:
            error.where = f"stage {name}"
        elif name not in error.where:
            error.where = f"stage {name}: {error.where}"
        raise
    except Interrupted as error:
        error.where = error.where or f"stage {name}"
        raise
    except MemoryError as error:
        raise MachineError("not enough memory", where=f"stage {name}",
                           fix="lower the batch size or the number of workers, or use a larger machine") from error
    except OSError as error:
        if error.filename is None:
            raise _ours(name, error) from error
        kind = (
            UserError if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)) else MachineError
        )
        raise kind(error.strerror or str(error), where=f"stage {name}: {error.filename}") from error
    except Exception as error:
        if place().size > 1 and (lost := lost_process(error)) is not None:
            lost.where = f"stage {name}"
            raise lost from error
        raise _ours(name, error) from error


def _ours(name: str, error: Exception) -> InternalError:
    return InternalError(f"{type(error).__name__}: {error}", where=f"stage {name}",
                         fix="this is a fault of ours: the traceback is in the run's log.jsonl "
                             "(GRISTMILL_DEBUG=1 prints it); please report it")
