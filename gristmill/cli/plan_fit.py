"""`gristmill plan fit RUNS...`: a scaling law of one's own, from small runs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Count(StrEnum):
    total = "total"
    matmul = "matmul"


def command(
    runs: Annotated[list[str], typer.Argument(
        help="Runs, artifacts (recipe/stage@N or folders), or .json, .jsonl, .csv files with parameters, tokens, "
             "loss.")],
    predict: Annotated[list[str] | None, typer.Option(
        metavar="SIZE:TOKENS", help="Predict the loss of such a run, e.g. 100M:2B; may be repeated.")] = None,
    hold_out: Annotated[bool, typer.Option("--hold-out", help="Fit without the largest size, and predict it.")] = False,
    count: Annotated[Count, typer.Option(
        help="What counts as parameters: all of them, or those of matrix products.")] = Count.total,
    resamplings: Annotated[int, typer.Option(min=20, max=5000, help="How often residuals are drawn again.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the law here, for `plan scaling --law FILE`.")] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
    html: Annotated[Path | None, typer.Option(help="Write a page with a plot here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit L(N, D) = E + A / N^alpha + B / D^beta to your own runs, and predict the loss of a larger one.

    Example:  gristmill plan fit points.csv --predict 100M:2B --hold-out --out law.json
    """
    from gristmill.core.errors import UserError
    from gristmill.planning.fit import fit, hold_out_largest
    from gristmill.planning.inputs import number
    from gristmill.planning.law_file import write_law
    from gristmill.planning.points import read_points

    wanted = []
    for text in predict or []:
        size, colon, tokens = text.partition(":")
        if not colon:
            raise UserError(f"{text!r} is no SIZE:TOKENS", where="--predict", fix="write for example 100M:2B")
        wanted.append((number(size, "--predict"), number(tokens, "--predict")))
    found = read_points(runs, runs_dir, "total" if count is Count.total else "matmul")
    if not found.points:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.rejected)
        raise UserError("there is no run to fit" + (f" ({reasons})" if reasons else ""), where="RUNS",
                        fix="pretrain a few small models from scratch first, or give a CSV file")
    if hold_out:
        made, points, said = hold_out_largest(found.points, resamplings=resamplings, seed=seed)
        left_out = list(zip(points, said, strict=True))
    else:
        made, left_out = fit(found.points, resamplings=resamplings, seed=seed), []
    predictions = [(n, d, made.predict(n, d)) for n, d in wanted]
    if out is not None:
        write_law(out, made)
    if html is not None:
        from gristmill.pipeline.report.plan_page import write_plan_page
        from gristmill.pipeline.report.scaling_sections import fit_sections

        write_plan_page(html, "Scaling law", f"fitted on {len(made.points)} runs",
                        fit_sections(made, left_out, predictions))
    if as_json:
        typer.echo(json.dumps({
            **made.as_json(),
            "predictions": [{"parameters": n, "tokens": d, "loss": p.as_json()} for n, d, p in predictions],
            "held_out": [{**p.as_json(), "predicted": s.as_json(), "relative_error": s.expected / p.loss - 1}
                         for p, s in left_out],
            "rejected": [{"name": name, "reason": reason} for name, reason in found.rejected],
        }, ensure_ascii=False, allow_nan=False))
        return
    from gristmill.cli.scaling_text import fit_text

    typer.echo(fit_text(made, found.rejected, predictions, left_out))
    for path, what in ((out, "law"), (html, "page")):
        if path is not None:
            typer.echo(f"{what}: {path}")
