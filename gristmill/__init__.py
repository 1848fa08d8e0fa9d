"""Gristmill: raw text in, a served and monitored language model out.

    run = gristmill.run("recipes/quickstart.yaml")      # what `gristmill run` does
    lm = gristmill.load("quickstart/aligned")           # an artifact, a folder or a cached hub id
    print(lm.generate("def main(", max_tokens=40).text)

Stage classes (`gristmill.Data`, `gristmill.Pretrain`, ...) are the config classes of a recipe's stages. Everything is
imported on first use.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gristmill.alignment.stage import Align
    from gristmill.core.stage import Runtime
    from gristmill.data.stage import Data
    from gristmill.evaluation.stage import Evaluate
    from gristmill.export.stage import Export
    from gristmill.finetuning.stage import Finetune
    from gristmill.generation.text import LanguageModel
    from gristmill.models.import_stage import ImportModel
    from gristmill.pipeline.runner import Run, run
    from gristmill.recipe.schema import Recipe, load_recipe
    from gristmill.tokenizer.stage import TrainTokenizer
    from gristmill.training.pretrain import Pretrain

_HOMES = {
    "Align": "gristmill.alignment.stage", "Data": "gristmill.data.stage", "Evaluate": "gristmill.evaluation.stage",
    "Export": "gristmill.export.stage", "Finetune": "gristmill.finetuning.stage",
    "ImportModel": "gristmill.models.import_stage", "LanguageModel": "gristmill.generation.text",
    "Pretrain": "gristmill.training.pretrain", "Recipe": "gristmill.recipe.schema", "Run": "gristmill.pipeline.runner",
    "Runtime": "gristmill.core.stage", "TrainTokenizer": "gristmill.tokenizer.stage",
    "load_recipe": "gristmill.recipe.schema", "run": "gristmill.pipeline.runner",
}

__all__ = [
    "Align", "Data", "Evaluate", "Export", "Finetune", "ImportModel", "LanguageModel", "Pretrain", "Recipe", "Run",
    "Runtime", "TrainTokenizer", "__version__", "load", "load_recipe", "run",
]


def load(
    model: str | Path, *, runs_dir: str | Path = "runs", device: str = "auto", dtype: Any = None,
    context: int | None = None, rope_scaling: Any = None,
) -> LanguageModel:
    """Open a model for use: `recipe/stage@N`, a path to an artifact or public folder, or a hub id cached here.

    context, rope_scaling: a longer context than it was trained with (docs/models/llama.md).
    """
    from gristmill.generation.text import LanguageModel
    from gristmill.pipeline.store import resolve_model

    return LanguageModel.open(resolve_model(str(model), runs_dir), device=device, dtype=dtype, context=context,
                              rope_scaling=rope_scaling)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
