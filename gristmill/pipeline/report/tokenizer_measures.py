"""What a tokenizer's own metrics show: compression by language and domain and by size, lengths of entries."""

from __future__ import annotations

from typing import Any

from gristmill.pipeline.report.charts import Series, histogram, line_chart
from gristmill.pipeline.report.formatting import count

SHOWN = 12
"""Languages and domains in the tables, those with most text."""


def measures(metrics: Any) -> dict[str, Any]:
    """Tables, charts and one sentence; empty for a tokenizer that was measured before these were."""
    on = metrics.get("measured_on") or {}
    points = on.get("compression") or []
    lengths = metrics.get("entry_lengths") or []
    return {
        "split": {"valid": "held-out", "train": "training"}.get(str(on.get("split")), ""),
        "tables": [(name, _rows(on.get(key) or {})) for name, key in (("language", "languages"), ("domain", "domains"))
                   if on.get(key)],
        "compression": line_chart(
            "Compression by size", [Series("bytes per token", [p["vocab_size"] for p in points],
                                           [p["bytes_per_token"] for p in points], 2, "dots")],
            x_name="entries", log_x=True, note="the same vocabulary cut short") if len(points) > 1 else None,
        "lengths": histogram(
            "Lengths of entries", list(range(1, len(lengths) + 1)), lengths, x_name="bytes", unit="entries",
            note="special tokens aside"),
        "round_trip": _round_trip(on.get("round_trip") or {}),
    }


def _rows(groups: dict[str, dict[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    return [(name, count(one.get("documents")), count(one.get("bytes")), f"{one.get('bytes_per_token', 0):.2f}",
             f"{one.get('tokens_per_word', 0):.2f}") for name, one in list(groups.items())[:SHOWN]]


def _round_trip(found: dict[str, Any]) -> str:
    if not found:
        return ""
    tried = f"{count(found.get('equal'))} of {count(found.get('documents'))} documents tried came back exactly"
    if found.get("guaranteed"):
        return f"Every text comes back exactly from its tokens ({tried})."
    return f"Not every text comes back from its tokens: it loses {', '.join(found.get('loses') or [])} ({tried})."
