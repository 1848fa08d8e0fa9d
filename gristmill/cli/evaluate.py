"""`gristmill evaluate MODEL`: how well a model predicts a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="A model: recipe/stage@N, a path to an artifact, or a public folder.")],
    corpus: Annotated[str | None, typer.Option(help="A corpus artifact whose held-out part is read.")] = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text file in place of a corpus.")] = None,
    split: Annotated[str, typer.Option(help="Part of the corpus: train, valid or test.")] = "test",
    max_bytes: Annotated[int, typer.Option(min=1, help="Read at most this many bytes of text.")] = 250_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and of the intervals.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure bits per byte and next-token accuracy of a model, with intervals, beside xz.

    Example:  gristmill evaluate quickstart/base --corpus quickstart/corpus
    """
    from gristmill.core.errors import UserError
    from gristmill.core.progress import for_stream

    if (corpus is None) == (text is None):
        raise UserError("give either a corpus or a text", where="evaluate", fix="--corpus ARTIFACT or --text FILE")
    if split not in ("train", "valid", "test"):
        raise UserError(f"there is no split `{split}`", where="--split", fix="choose train, valid or test")
    if text is not None and not text.is_file():
        raise UserError("there is no such file", where=str(text), fix="name a text file")
    from gristmill.pipeline.store import ArtifactStore

    found = ArtifactStore(runs_dir).resolve(corpus, ("corpus",)) if corpus is not None else None
    import gristmill
    from gristmill.evaluation import evaluate_model

    opened = gristmill.load(model, runs_dir=runs_dir, device=device)
    result = evaluate_model(opened, corpus=found, text=text, split=split, max_bytes=max_bytes, seed=seed,
                            progress=for_stream())
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    typer.echo(f"{result['model']} on {result['text']}: {result['documents']} documents, {result['bytes']:,} bytes, "
               f"{result['tokens']:,} tokens")
    typer.echo(
        f"  bits per byte        {_interval(result['bits_per_byte'])}   (xz: {result['baselines']['xz']['value']:.3f})"
    )
    typer.echo(f"  next-token accuracy  {_interval(result['accuracy'])}")


def _interval(estimate: dict[str, float | None]) -> str:
    value = f"{estimate['value']:.3f}"
    return value if estimate["low"] is None else f"{value} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
