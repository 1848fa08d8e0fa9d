"""Scaling plans and fits as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from gristmill.planning.fit import CONSTANTS, Fit, Point
from gristmill.planning.interval import Interval
from gristmill.planning.scaling_plan import ScalingPlan


def amount(value: float) -> str:
    """7.2 B, 135 M, 80.5 k."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            return f"{value / limit:.3g} {letter}" if value < 1e15 else f"{value:.2g}"
    return f"{value:.3g}"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell; `right`: columns set to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(
        cell.rjust(width) if i in right else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows)


def interval(value: Interval) -> str:
    """Four digits, with low and high where they differ."""
    return f"{value.expected:.4g}" if value.certain else f"{value.expected:.4g} ({value.low:.4g} to {value.high:.4g})"


def scaling_text(plan: ScalingPlan) -> str:
    """The budget, a table of laws, what serving changes, and where each law comes from."""
    flops = plan.budget.flops
    lines = [f"budget: {plan.budget.said}", f"FLOPs:  {flops.expected:.3g}" + (
        "" if flops.certain else f" ({flops.low:.2g} to {flops.high:.2g})")]
    lines += [f"  {u.name}: {interval(u.value)} {u.unit}; {u.source}" for u in plan.budget.used]
    rows = [["law", "parameters", "tokens", "tokens/parameter", "loss", "FLOPs", "epochs"]]
    for row in plan.rows:
        best = row.best
        rows.append([
            row.law.name, amount(best.parameters), amount(best.tokens), f"{best.tokens_per_parameter:.3g}",
            "-" if best.loss is None else f"{best.loss:.3f}", f"{best.flops:.2g}",
            "-" if row.epochs is None else f"{max(row.epochs, 0.01):.2g}"])
    lines += ["", table(rows, right=(1, 2, 3, 4, 5, 6))]
    first = plan.rows[0]
    if first.low.parameters != first.high.parameters:
        low, high = amount(first.low.parameters), amount(first.high.parameters)
        lines += ["", f"over the range of the budget, {first.law.name} asks for {low} to {high} parameters"]
    if plan.tires:
        lines += ["", plan.tires]
    if plan.serving is not None:
        s = plan.serving
        model = f"{amount(s.parameters)} parameters on {amount(s.tokens)} tokens ({s.tokens / s.parameters:.3g} each)"
        lines += ["", f"to serve {amount(s.served_tokens)} tokens: {model} reach the same loss {s.loss:.3f};"]
        lines.append(f"  training and serving together take {s.saving * 100:.0f} % fewer FLOPs ({s.flops:.2g} in place "
                     f"of {s.flops_without:.2g})")
    lines += ["", "Losses of different laws are of different texts: compare sizes between laws, never losses."]
    for row in plan.rows:
        said = [f"{row.law.title}: {row.law.equation}", row.law.note, row.outside and f"beware: {row.outside}"]
        lines.append(textwrap.fill(f"{row.law.name}: " + "; ".join(filter(None, said)), 118, subsequent_indent="    ",
                                   break_on_hyphens=False))
    return "\n".join(lines)


def fit_text(made: Fit, rejected: Sequence[tuple[str, str]], predictions: Sequence[tuple[float, float, Interval]],
             left_out: Sequence[tuple[Point, Interval]]) -> str:
    """The law with its intervals, how well it fits, what it predicts, and what was left out."""
    lines = [f"fitted on {len(made.points)} runs: {made.law.equation}",
             f"typical error on them: {made.error * 100:.2f} %", ""]
    rows = [["", "value", "95 % interval"]]
    for name in CONSTANTS:
        value = made.intervals[name]
        rows.append([name, f"{value.expected:.4g}", f"{value.low:.4g} to {value.high:.4g}"])
    lines.append(table(rows, right=(1,)))
    exponent = made.law.beta / (made.law.alpha + made.law.beta)
    lines.append("")
    lines.append(f"compute-optimal: N grows with C^{exponent:.2f}; at 10 times the largest run "
                 f"({made.law.fitted[1] * 10:.2g} FLOPs) {_optimum(made)}")
    for point, said in left_out:
        miss = said.expected / point.loss - 1
        lines.append(f"held out {point.name}: predicted {interval(said)}, was {point.loss:.4g} ({miss * 100:+.2f} %)")
    for parameters, tokens, said in predictions:
        lines.append(f"predicted loss of {amount(parameters)} parameters on {amount(tokens)} tokens: {interval(said)}")
    lines += [f"beware: {warning}" for warning in made.warnings]
    lines += [f"left out {name}: {reason}" for name, reason in rejected]
    return "\n".join(lines)


def _optimum(made: Fit) -> str:
    best = made.law.optimum(made.law.fitted[1] * 10)
    return f"{amount(best.parameters)} parameters on {amount(best.tokens)} tokens, loss {best.loss:.3f}"
