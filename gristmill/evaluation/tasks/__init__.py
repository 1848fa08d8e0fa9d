"""Tasks: dataset + prompt construction + scorer, one file each; one line here registers one."""

from __future__ import annotations

from gristmill.evaluation.tasks.base import Record, Setting, Summary, Task
from gristmill.evaluation.tasks.docstring import Docstring
from gristmill.evaluation.tasks.forgetting import Forgetting
from gristmill.evaluation.tasks.perplexity import Perplexity
from gristmill.evaluation.tasks.python_functions import PythonFunctions
from gristmill.evaluation.tasks.samples import Samples

TASKS: dict[str, type] = {cls.kind: cls for cls in (Perplexity, PythonFunctions, Docstring, Forgetting, Samples)}
"""Name in a recipe -> task."""

__all__ = ["TASKS", "Docstring", "Forgetting", "Perplexity", "PythonFunctions", "Record", "Samples", "Setting",
           "Summary", "Task"]
