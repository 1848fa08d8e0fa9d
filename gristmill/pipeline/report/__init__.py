"""The report of a run: one HTML file that shows what happened, to be opened anywhere without a network.

In: a run's folder (run.json, log.jsonl, recipe.yaml, the artifacts that the run stands on). Out: `report.html`, and a
summary in plain text. Nothing is computed anew but counts of tokens; what is missing is said in one line.
Reading is in `run.py`, drawing in `charts.py` and `lineage_graph.py`, one module and one template for each section.
May call: every room.
"""

from __future__ import annotations

from pathlib import Path


def write_report(run_folder: Path) -> Path:
    """Write `run_folder/report.html` atomically; the same run gives the same bytes. Returns its path."""
    from gristmill.pipeline.report.page import write_report as write

    return write(run_folder)


def summary_text(run_folder: Path) -> str:
    """The end of a run in plain text: the gains, one answer, where the report is, and how to open the chat page."""
    from gristmill.pipeline.report.summary import summary_text as summarise

    return summarise(run_folder)


__all__ = ["summary_text", "write_report"]
