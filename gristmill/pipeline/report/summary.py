"""The end of a run in plain text."""

from __future__ import annotations

from pathlib import Path

from gristmill.core.files import read_json
from gristmill.pipeline.report.formatting import clip
from gristmill.pipeline.report.overview import answer, gains
from gristmill.pipeline.report.run import read_run

ANSWER_LINES = 12


def summary_text(run_folder: Path) -> str:
    """The gains, one answer, where the report is, and the command that opens the chat page.

    Raises UserError where no run lies.
    """
    run = read_run(Path(run_folder))
    results = run.results()
    lines: list[str] = []
    if found := gains(results):
        lines += [
            "What each stage gained",
            *(f"  {'+' if g['improved'] else '-'} {_printable(g['text'])}" for g in found),
            "",
        ]
    if said := answer(results):
        lines += [
            f"One answer of {_printable(said['model'])}",
            *_indented(said["prompt"], "  > "),
            *_indented(said["text"], "    "),
            "",
        ]
    for stage in run.stages:
        if stage.path is None:
            why = f" ({_printable(stage.error.splitlines()[0])})" if stage.error else ""
            lines.append(f"{stage.name}: {stage.state}{why}")
    report = run.folder / "report.html"
    lines.append(f"Report:     {report}" if report.is_file() else f"Report:     gristmill report {run.name}")
    if answering := run.of_kind("release", "model"):
        name = f"{run.name}/{answering[-1].name}@{answering[-1].version}"
        runs = run.folder.absolute().parent
        lines += _ways_to_use(answering[-1].path, name, None if runs == Path("runs").absolute() else runs)
    return "\n".join(lines) + "\n"


FILLS_GAPS = ("ForMaskedLM", "ForPreTraining", "XLMWithLMHeadModel")
"""Ends of the architectures that fill gaps rather than write."""


def _ways_to_use(folder: Path | None, name: str, runs: Path | None) -> list[str]:
    """runs: where the run lies, if not in the default place."""
    config = read_json(folder / "config.json") if folder is not None and (folder / "config.json").is_file() else {}
    if str(next(iter(config.get("architectures") or []), "")).endswith(FILLS_GAPS):
        place = "" if runs is None else f', runs_dir="{runs}"'
        return [f'In Python:  gristmill.load("{name}"{place}).fill("a text with <|mask|>")']
    where = "" if runs is None else f" --runs-dir {runs}"
    return [f"Chat page:  gristmill serve {name}{where}", f"Terminal:   gristmill chat {name}{where}"]


def _indented(text: str, prefix: str) -> list[str]:
    lines = text.strip("\n").splitlines()
    shown = [f"{prefix}{_printable(line)}".rstrip() for line in lines[:ANSWER_LINES]]
    return [*shown, f"{prefix}…"] if len(lines) > ANSWER_LINES else shown


def _printable(text: object) -> str:
    """A model may write control characters; a terminal must not obey them."""
    return clip("".join(c if c.isprintable() else "\ufffd" for c in str(text).replace("\t", "    ")), 200)
