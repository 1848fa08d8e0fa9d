"""One HTML page for a plan: the charts of the run report, from a plan instead of a run; no network, light and dark.

A page is a list of sections, a section a list of items: `lead`, `facts`, `chart`, `table`, ... below make them, and
`templates/plan_section.html.jinja` draws them. Sections of plans are in `plan_sections.py` and `scaling_sections.py`.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gristmill.core.files import write_atomic
from gristmill.pipeline.report.formatting import number, size
from gristmill.pipeline.report.page import TEMPLATES, environment, storable
from gristmill.planning.interval import Interval

Item = dict[str, Any]


@dataclass(frozen=True)
class PlanSection:
    """A part of the page."""

    id: str
    title: str
    items: Sequence[Item | None]
    """What cannot be drawn is None and left out."""


def write_plan_page(path: Path, title: str, subtitle: str, sections: Sequence[PlanSection]) -> Path:
    """Write the page atomically; the same plan gives the same bytes. A section called `headline` comes first, without
    a title of its own. Returns the path."""
    path = Path(path)
    write_atomic(path, storable(render_plan(title, subtitle, sections)))
    return path


def render_plan(title: str, subtitle: str, sections: Sequence[PlanSection]) -> str:
    """The page as text."""
    templates = environment()
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "plan.css"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; img-src data:; "
              "base-uri 'none'; form-action 'none'")
    template = templates.get_template("plan_section.html.jinja")
    drawn = []
    for section in sections:
        items = [item for item in section.items if item is not None]
        if items:
            drawn.append({"id": section.id, "title": section.title, "body": Markup(template.render(items=items))})
    head = next((s["body"] for s in drawn if s["id"] == "headline"), Markup())
    return templates.get_template("plan.html.jinja").render(
        title=title, subtitle=subtitle, head=head, sections=[s for s in drawn if s["id"] != "headline"], policy=policy,
        script=Markup(script), style=Markup(style))


# -- items -------------------------------------------------------------------------------------------------------------


def lead(text: str) -> Item:
    return {"kind": "lead", "value": text}


def fine(text: str) -> Item:
    return {"kind": "fine", "value": text}


def notice(text: str, bad: bool = False) -> Item:
    return {"kind": "notice", "value": text, "bad": bad}


def heading(text: str) -> Item:
    return {"kind": "heading", "value": text}


def code(text: str) -> Item:
    return {"kind": "code", "value": text}


def lines(texts: Sequence[str]) -> Item | None:
    return {"kind": "list", "value": list(texts)} if texts else None


def facts(rows: Sequence[tuple[str, ...]]) -> Item:
    """(name, value) or (name, value, small print)."""
    return {"kind": "facts", "value": list(rows)}


def chart(made: Any) -> Item | None:
    """A line chart of charts.line_chart; None stays None."""
    return None if made is None else {"kind": "chart", "value": made}


def charts(made: Sequence[Any]) -> Item | None:
    """Line charts side by side."""
    found = [c for c in made if c is not None]
    return {"kind": "charts", "value": found} if found else None


def whiskers(made: Any) -> Item | None:
    """Dots with intervals of charts.whiskers."""
    return None if made is None else {"kind": "whiskers", "value": made}


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> Item | None:
    """numbers: columns set to the right."""
    return {"kind": "table", "head": list(head), "value": [list(r) for r in rows], "numbers": list(numbers)} if rows \
        else None


def stack(title: str, parts: Sequence[tuple[str, float]], *, available: float | None = None, note: str = "",
          limit_name: str = "") -> Item | None:
    """A bar of parts in bytes beside each other, against a limit."""
    drawn = [(name, value) for name, value in parts if value > 0]
    if not drawn:
        return None
    total = sum(value for _, value in drawn)
    whole = max(total, available or 0.0)
    label = f"{title}: {size(total)}: " + ", ".join(f"{name} {size(value)}" for name, value in drawn)
    return {"kind": "stack", "value": {
        "title": title, "note": note, "label": label,
        "parts": [{"name": name, "text": size(value), "share": round(100 * value / whole, 3), "tone": i % 5 + 1,
                   "pale": i >= 5} for i, (name, value) in enumerate(drawn)],
        "limit": None if available is None else round(100 * available / whole, 3),
        "limit_name": limit_name or (size(available) if available else "")}}


def bars(title: str, rows: Sequence[tuple[str, float, str]], *, unit: str, chosen: str = "", note: str = "",
         show: Callable[[float], str] = lambda value: number(value, 3)) -> Item | None:
    """Horizontal bars: (name, value, what hovering tells); `chosen` is set off."""
    if not rows:
        return None
    top = max(value for _, value, _ in rows) or 1.0
    label = f"{title}: " + ", ".join(f"{name} {show(value)} {unit}".rstrip() for name, value, _ in rows)
    return {"kind": "bars", "value": {"title": title, "note": note, "label": label, "rows": [
        {"name": name, "share": round(100 * value / top, 2), "text": f"{show(value)} {unit}".rstrip(), "tip": tip,
         "chosen": name == chosen} for name, value, tip in rows]}}


# -- numbers -----------------------------------------------------------------------------------------------------------


def power(value: float) -> str:
    """5.76 × 10²³ from a million on, plain below."""
    if abs(value) < 1e6:
        return trim(value)
    exponent = math.floor(math.log10(abs(value)) + 1e-12)
    raised = str(exponent).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value / 10.0**exponent:.3g} × 10{raised}"


def trim(value: float) -> str:
    """Up to four digits, without trailing zeros."""
    if abs(value) >= 1e6:
        return power(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}".replace("-", "−")


def said(value: Interval, show: Callable[[float], str] = trim) -> str:
    """1.2, or 1.2 (1 to 1.5)."""
    text = show(value.expected)
    return text if value.certain else f"{text} ({show(value.low)} to {show(value.high)})"


def off_by(predicted: float, actual: float) -> str:
    """How far a prediction lies from what was: +0.45 %."""
    text = f"{(predicted / actual - 1) * 100 + 0.0:+.2f} %"
    return text.replace("-0.00", "0.00").replace("+0.00", "0.00").replace("-", "−")
