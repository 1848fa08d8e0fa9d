"""`gristmill data ...`: single steps of the data stage, on JSONL and Parquet files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gristmill.cli import data_augment, data_crawl, data_mix, data_models, data_pii

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=(
    "Single steps of the data stage: from a JSONL or Parquet file (also .gz, .zst; or a folder of them) to another.\n\n"
    "Example:  gristmill data annotate texts.jsonl annotated.parquet"))

app.command("crawl")(data_crawl.command)
app.command("augment")(data_augment.command)
app.command("pii")(data_pii.command)
app.command("mix")(data_mix.command)
app.add_typer(data_models.classifier, name="classifier")
app.add_typer(data_models.ngram, name="ngram")
Source = Annotated[str, typer.Argument(metavar="IN", help=".jsonl or .parquet file, folder, glob or URL.")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help=".jsonl or .parquet file to write.")]
Column = Annotated[str, typer.Option(help="The column that holds the text.")]
Rejects = Annotated[Path | None, typer.Option(help="Write what goes here, each row with its reason.")]
Preset = Annotated[str, typer.Option(help="standard, code, gopher, c4, fineweb, strict or none.")]
Bounds = Annotated[list[str] | None, typer.Option(
    "--rule", metavar="NAME=BOUND", help="Another bound of one rule, e.g. min_words=20; NAME= switches it off.")]
Near = Annotated[float, typer.Option(
    min=0, max=1, help="Least Jaccard similarity of word 5-grams (0.3 to 1); 0 leaves near-duplicates in.")]
Splits = Annotated[Path, typer.Argument(metavar="FOLDER", help="The files train, valid and test go here.")]
Corpus = Annotated[str, typer.Argument(help="recipe/stage@N, recipe/stage (the newest), or a folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")]


@app.command()
def extract(source: Source, target: Target, column: Annotated[str, typer.Option(help="The column with HTML.")] = "html",
            markdown: Annotated[bool, typer.Option("--markdown", help="Keep headings, lists and tables.")] = False,
            as_json: AsJson = False) -> None:
    """The main content of HTML pages, as text.

    Example:  gristmill data extract pages.jsonl texts.jsonl --column html
    """
    from gristmill.data import steps

    _run("extract", lambda advance: steps.extract(source, target, column=column, markdown=markdown, advance=advance),
         as_json)


@app.command()
def annotate(source: Source, target: Target, column: Column = "text", as_json: AsJson = False) -> None:
    """Texts in normal form with their language and a column for every quality signal.

    Example:  gristmill data annotate texts.jsonl annotated.parquet
    """
    from gristmill.data import steps

    _run("annotate", lambda advance: steps.annotate(source, target, column=column, advance=advance), as_json)


@app.command()
def decide(source: Source, target: Target, preset: Preset = "standard", rule: Bounds = None, rejects: Rejects = None,
           column: Column = "text", as_json: AsJson = False) -> None:
    """Leave out what breaks a rule; signals that are no columns yet are measured.

    Example:  gristmill data decide annotated.parquet good.parquet --preset fineweb --rejects bad.jsonl
    """
    from gristmill.data import steps

    rules = _filter(preset, rule or [])
    _run("decide", lambda advance: steps.decide_rows(source, target, rejects, rules=rules, column=column,
                                                     advance=advance), as_json)


@app.command()
def dedup(source: Source, target: Target, near: Near = 0.8,
          exact: Annotated[bool, typer.Option(help="Remove texts that are equal but for white space.")] = True,
          lines: Annotated[int, typer.Option(
              min=0, help="Cut lines that more than so many rows of a `source` share; 0 leaves them.")] = 0,
          substrings: Annotated[int, typer.Option(
              min=0, help="Cut stretches of at least so many words that occur again (50); 0 leaves them.")] = 0,
          rejects: Rejects = None, column: Column = "text", as_json: AsJson = False) -> None:
    """Leave out duplicates; the longest of each set stays. Then cut what is repeated out of the others.

    Example:  gristmill data dedup good.parquet unique.parquet --near 0.8 --substrings 50
    """
    from gristmill.core.errors import UserError
    from gristmill.data import steps
    from gristmill.data.dedup.repeats import RepeatedLines, RepeatedStretches

    if 0 < near < 0.3:
        raise UserError("below 0.3 most texts of one subject are near-duplicates", where="--near", fix="0.3 to 1, or 0")
    if 0 < substrings < 10:
        raise UserError("stretches of fewer than 10 words are common speech", where="--substrings", fix="10 or more")
    _run("deduplicate", lambda advance: steps.dedup(
        source, target, rejects, column=column, exact=exact, near=near or None,
        lines=RepeatedLines(more_than=lines) if lines else None,
        substrings=RepeatedStretches(words=substrings) if substrings else None, advance=advance), as_json)


@app.command()
def split(source: Source, folder: Splits,
          valid: Annotated[float, typer.Option(min=0, max=0.5, help="Share for validation.")] = 0.05,
          test: Annotated[float, typer.Option(min=0, max=0.5, help="Share for the final test.")] = 0.05,
          key: Annotated[str, typer.Option(help="Rows with the same value of this column stay together.")] = "",
          seed: Annotated[int, typer.Option(help="Another seed, another split.")] = 0,
          parquet: Annotated[bool, typer.Option("--parquet", help="Write .parquet in place of .jsonl.")] = False,
          column: Column = "text", as_json: AsJson = False) -> None:
    """Train, validation and test files; where a row goes depends on the seed and its key alone.

    Example:  gristmill data split unique.parquet corpus/ --valid 0.01 --test 0.01 --key url
    """
    from gristmill.data import steps
    from gristmill.data.split import Split

    _run("split", lambda advance: steps.split(
        source, folder, column=column, key=key, shares=Split(valid=valid, test=test), seed=seed,
        suffix=".parquet" if parquet else ".jsonl", advance=advance), as_json)


@app.command()
def stats(source: Source, column: Column = "text", as_json: AsJson = False) -> None:
    """How many documents, how much text, which languages, and how the signals lie.

    Example:  gristmill data stats texts.jsonl
    """
    from gristmill.data import steps

    found = _watched("read", lambda advance: steps.stats(source, column=column, advance=advance))
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    typer.echo(f"{found['documents']:,} documents, {found['bytes'] / 1e6:,.1f} MB"
               + (f", {found['unreadable']:,} unreadable rows" if found["unreadable"] else ""))
    typer.echo("languages: " + ", ".join(f"{name} {count:,}" for name, count in list(found["languages"].items())[:12]))
    typer.echo(f"{'signal':48} {'least':>10} {'5 %':>10} {'median':>10} {'95 %':>10} {'most':>10}")
    for name, cuts in found["signals"].items():
        typer.echo(f"{name:48} " + " ".join(f"{cuts[key]:>10.4g}" for key in ("least", "p5", "median", "p95", "most")))


@app.command()
def card(corpus: Corpus, runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
         as_json: AsJson = False) -> None:
    """The data card of a corpus: sources, licences, languages, what was done to it, its limits.

    Example:  gristmill data card quickstart/corpus
    """
    from gristmill.core.errors import UserError
    from gristmill.core.files import read_json
    from gristmill.data.card import card_text
    from gristmill.pipeline.store import ArtifactStore

    path = Path(ArtifactStore(runs_dir).resolve(corpus).path) / "card.json"
    if not path.is_file():
        raise UserError("this artifact has no data card", where=str(path),
                        fix="name a corpus, such as quickstart/corpus")
    found = read_json(path)
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else card_text(found))


def _filter(preset: str, bounds: list[str]) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from gristmill.core.errors import UserError
    from gristmill.data.decide import Filter

    rules: dict[str, float | None] = {}
    for bound in bounds:
        name, _, value = bound.partition("=")
        try:
            rules[name] = float(value) if value else None
        except ValueError:
            raise UserError(f"{value!r} is no number", where=f"--rule {bound}",
                            fix="e.g. --rule min_words=20") from None
    try:
        return TypeAdapter(Filter).validate_python({"preset": preset, "rules": rules})
    except ValidationError as error:
        said = "; ".join(str(one["msg"]).removeprefix("Value error, ") for one in error.errors())
        raise UserError(said, where="--preset and --rule", fix="gristmill data decide --help") from error


def _watched(name: str, step: Callable[[Callable[[int], None]], dict[str, Any]]) -> dict[str, Any]:
    from gristmill.core.progress import for_stream

    with for_stream().bar(name, None, "rows") as bar:
        return step(bar.advance)


def _run(name: str, step: Callable[[Callable[[int], None]], dict[str, Any]], as_json: bool) -> None:
    counts = _watched(name, step)
    if as_json:
        typer.echo(json.dumps(counts, ensure_ascii=False))
        return
    reasons = counts.pop("reasons", {})
    typer.echo(", ".join(f"{what.replace('_', ' ')} {count:,}" for what, count in counts.items()))
    for reason, count in reasons.items():
        typer.echo(f"  {reason:40} {count:>10,}")
