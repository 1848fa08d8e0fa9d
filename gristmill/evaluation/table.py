"""Results and gains as tables: plain text for a terminal, markdown for a report and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.evaluation.gains import shown

ARROWS = {"lower": "lower is better", "higher": "higher is better", "neither": ""}


def results_text(results: Mapping[str, Any]) -> str:
    """All metrics with their intervals, baselines and comparisons, for a terminal."""
    parts = [grid(*overview(results))]
    parts += [f"  {note}" for table in results["tasks"] for note in _notes(table)]
    return "\n".join(parts)


def results_markdown(results: Mapping[str, Any]) -> str:
    """The same as `results_text`, in markdown."""
    notes = [f"- {note}" for table in results["tasks"] for note in _notes(table)]
    return "\n".join([markdown(*overview(results)), *(["", *notes] if notes else [])])


def gains_text(results: Mapping[str, Any]) -> str:
    """What every stage gained on its own metric, and what was forgotten: a table and plain sentences."""
    header, rows = gain_rows(results)
    lines = [grid(header, rows)] if rows else []
    lines += [f"  {'+' if g['improved'] else '!'} {g['text']}" for g in results["gains"]]
    lines += [f"  - {f['text']}" for f in results["forgetting"]]
    return "\n".join(lines)


def gains_markdown(results: Mapping[str, Any]) -> str:
    """The same as `gains_text`, in markdown."""
    header, rows = gain_rows(results)
    lines = [markdown(header, rows)] if rows else []
    sentences = [f"- {entry['text']}" for entry in [*results["gains"], *results["forgetting"]]]
    return "\n".join([*lines, *(["", *sentences] if sentences else [])])


def overview(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows): one row a metric, one column a model or baseline, values with 95 % intervals."""
    models = [m["name"] for m in results["models"]]
    baselines = list(dict.fromkeys(b["name"] for t in results["tasks"] for b in t["baselines"]))
    rows = []
    for table in results["tasks"]:
        cells = {r["model"]: _cell(r, table["unit"]) for r in table["rows"]}
        cells |= {b["name"]: shown(b["value"], table["unit"]) for b in table["baselines"]}
        note = ", ".join(part for part in (table["unit"] if table["unit"] != "share" else "", ARROWS[table["better"]])
                         if part)
        name = table["metric"] + (f" ({note})" if note else "")
        rows.append([name, *(cells.get(n, "") for n in models + baselines),
                     f"{table['n']} {table.get('n_unit', '')}".strip()])
    return ["metric", *models, *baselines, "n"], rows


def gain_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the gains."""
    rows = [[g["model"], g["against"], g["metric"], shown(g["before"], g["unit"]), shown(g["after"], g["unit"]),
             f"{g['p_value']:.2g}", "yes" if g["improved"] else "NO"] for g in results["gains"]]
    return ["model", "against", "its own metric", "before", "after", "p", "improved"], rows


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; the first is aligned left, the others right."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "  " + "  ".join(padded).rstrip()

    return "\n".join([line(header), "  " + "  ".join("-" * w for w in widths), *map(line, rows)])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; bars inside cells are escaped."""
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

    return "\n".join([line(header), "|---" + "|---:" * (len(header) - 1) + "|", *map(line, rows)])


def _cell(row: Mapping[str, Any], unit: str) -> str:
    scale = 100 if unit == "share" else 1
    places = 1 if unit in ("share", "tokens") else 3
    return f"{shown(row['value'], unit)} [{row['low'] * scale:.{places}f}, {row['high'] * scale:.{places}f}]"


def _notes(table: Mapping[str, Any]) -> list[str]:
    return [f"{b['name']}: {b['note']}" for b in table["baselines"] if b.get("note")] + list(table.get("notes", []))
