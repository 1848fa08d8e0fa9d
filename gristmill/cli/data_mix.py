"""`gristmill data mix CORPUS`: what a mixture would draw of a corpus, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Corpus = Annotated[str, typer.Argument(help="recipe/stage@N, recipe/stage (the newest), or a folder.")]
Pairs = Annotated[list[str] | None, typer.Option("--weight", metavar="NAME=SHARE", help=(
    'Share of a component, in any unit; "*=0.5" is for all others together. Several.'))]
Epochs = Annotated[list[str] | None, typer.Option("--epochs", metavar="NAME=N", help=(
    "Read this component so many times in all. Several."))]


def command(
        corpus: Corpus,
        over: Annotated[str, typer.Option(help="source, domain, language or metadata.NAME.")] = "source",
        weight: Pairs = None,
        alpha: Annotated[float, typer.Option(min=0, max=1, help="Draw in proportion to size to this power.")] = 1.0,
        epochs: Epochs = None,
        max_epochs: Annotated[float | None, typer.Option(help="Most epochs of any component.")] = None,
        max_share: Annotated[float | None, typer.Option(help="Largest share of any component.")] = None,
        passes: Annotated[float, typer.Option(min=0.0, help="Draw as much as so many passes over all text.")] = 1.0,
        tokens: Annotated[float | None, typer.Option(help="Draw so many tokens; needs --tokenizer.")] = None,
        tokenizer: Annotated[str | None, typer.Option(
            help="Count tokens of this tokenizer, such as quickstart/tokenizer; default UTF-8 bytes.")] = None,
        runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
        as_json: Annotated[bool, typer.Option("--json", help="Print the plan as one JSON object.")] = False) -> None:
    """The plan of a mixture: share, amount and epochs of each source, domain, language or metadata value.

    The same numbers go under `mixture:` in a recipe's pretrain stage, which prints its plan when it starts.

    Example:  gristmill data mix quickstart/corpus --over language --alpha 0.3 --max-epochs 4
    """
    from gristmill.core.errors import UserError
    from gristmill.pipeline.store import ArtifactStore
    from gristmill.tokens.labels import component_labels, text_sizes
    from gristmill.tokens.mixture import Mixture, plan_mixture

    if tokens is not None and tokenizer is None:
        raise UserError("tokens of which tokenizer?", where="--tokens",
                        fix="add --tokenizer quickstart/tokenizer, or use --passes")
    try:
        mixture = Mixture(over=over, weights=_numbers("--weight", weight), alpha=alpha, max_epochs=max_epochs,
                          epochs=_numbers("--epochs", epochs), max_share=max_share)
    except ValueError as error:
        raise UserError(str(error), where="gristmill data mix", fix="gristmill data mix --help") from error
    store = ArtifactStore(runs_dir)
    found = store.resolve(corpus, ("corpus",))
    if tokenizer is None:
        names, documents, sizes = text_sizes(found, "train", over)
        unit = "bytes"
    else:
        import numpy as np

        from gristmill.core.progress import for_stream
        from gristmill.tokenizer import Tokenizer
        from gristmill.tokens import materialise

        made = Tokenizer.load(store.resolve(tokenizer, ("tokenizer", "model", "release")).path)
        cache = found.path.parents[1] / "cache"
        shards = materialise(found, made, "train", cache, for_stream())
        names, numbers = component_labels(shards, over, found, "train", cache)
        documents = np.bincount(numbers, minlength=len(names)).tolist()
        sizes = np.bincount(numbers, weights=np.diff(shards.offsets), minlength=len(names)).astype(int).tolist()
        unit = "tokens"
    plan = plan_mixture(mixture, names, documents, sizes, tokens or passes * sum(sizes), unit=unit)
    typer.echo(json.dumps(plan.plain(), ensure_ascii=False) if as_json else "\n".join(plan.lines()))


def _numbers(option: str, given: list[str] | None) -> dict[str, float]:
    """NAME=NUMBER as a mapping."""
    from gristmill.core.errors import UserError

    found = {}
    for one in given or []:
        name, _, value = one.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(f"{one!r} is not NAME=NUMBER", where=option, fix=f"e.g. {option} web=0.5") from None
    return found

