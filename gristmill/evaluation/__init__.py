"""Evaluation: what a model can do, how sure that is, and whether the next one is better.

In: models (artifacts or public folders) and the held-out split of a corpus. Out: results.json and samples.json, tables.
A task is dataset + prompt construction + scorer, one file each under `tasks/`; intervals and paired tests stand in
`statistics`, baselines (xz, an n-gram model of the very tokens the model saw) in `baselines` and `ngram`.
May call: core, data, tokenizer, tokens, models, training (device), generation.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gristmill.evaluation.quick import evaluate_model
    from gristmill.evaluation.stage import Evaluate
    from gristmill.evaluation.table import gains_markdown, gains_text, results_markdown, results_text

__all__ = ["Evaluate", "evaluate_model", "gains_markdown", "gains_text", "results_markdown", "results_text"]

_HOMES = {"Evaluate": "stage", "evaluate_model": "quick"}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: this room needs torch, its tables do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'table')}"), name)
