"""The table of stage kinds: what `uses:` may say and which class that is.

One line registers a stage. Classes are imported when they are first needed, so that a missing optional
dependency of one room leaves the recipes that do without it alone.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from gristmill.core.errors import InternalError, MachineError, UserError

STAGES: dict[str, str | type] = {
    "data": "gristmill.data.stage:Data",
    "crawl": "gristmill.data.crawl.stage:Crawl",
    "augment": "gristmill.data.augment.stage:Augment",
    "classifier": "gristmill.data.classifier.stage:TrainClassifier",
    "ngram": "gristmill.data.ngram.stage:TrainNgram",
    "tokenizer": "gristmill.tokenizer.stage:TrainTokenizer",
    "pretrain": "gristmill.training.pretrain:Pretrain",
    "import": "gristmill.models.import_stage:ImportModel",
    "finetune": "gristmill.finetuning.stage:Finetune",
    "align": "gristmill.alignment.stage:Align",
    "evaluate": "gristmill.evaluation.stage:Evaluate",
    "export": "gristmill.export.stage:Export",
}
"""`uses:` -> "module:Class", or the class itself."""


def register(cls: type) -> type:
    """Add a stage class of your own under its `kind` (also usable as a decorator above `@stage`)."""
    kind = getattr(cls, "kind", None)
    if not isinstance(kind, str) or not hasattr(cls, "produces"):
        raise UserError(f"{cls.__name__} is not a stage", fix="decorate it with @stage(kind=..., produces=...)")
    current = STAGES.get(kind)
    if current is not None and current is not cls and not (isinstance(current, type) and _same_name(current, cls)):
        raise UserError(f"the stage kind `{kind}` is already taken by {_name(current)}", fix="choose another kind")
    STAGES[kind] = cls
    return cls


def stage_class(kind: str) -> Any:
    """The class behind `uses: kind`; unknown kinds and missing dependencies are errors that name the choices."""
    if kind not in STAGES:
        near = difflib.get_close_matches(kind, STAGES, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise UserError(f"unknown stage kind `{kind}`{hint} choices: {', '.join(STAGES)}")
    target = STAGES[kind]
    if isinstance(target, type):
        return target
    module, _, name = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = error.name or "?"
        if missing.split(".")[0] == "gristmill":
            raise MachineError(f"the stage kind `{kind}` is not part of this installation ({missing} is missing)",
                               fix="install a complete gristmill") from error
        raise MachineError(f"the stage kind `{kind}` needs the package `{missing}`",
                           fix=f"pip install {missing.split('.')[0]}") from error
    except ImportError as error:
        raise MachineError(f"the stage kind `{kind}` cannot be loaded here ({error})",
                           fix="check that its packages are installed whole (gristmill doctor)") from error
    if cls.kind != kind:
        raise InternalError(f"{target} calls itself `{cls.kind}` but is registered as `{kind}`")
    return cls


def _name(target: str | type) -> str:
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"


def _same_name(a: type, b: type) -> bool:
    return _name(a) == _name(b)
