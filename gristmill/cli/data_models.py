"""`gristmill data classifier ...` and `gristmill data ngram ...`: models of text that others decide by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

classifier = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=(
    "A text classifier of your own (quality, toxicity, topic): train it on labelled texts, apply it, learn a list of "
    "words.\n\nExample:  gristmill data classifier train quality/ --label good=books.jsonl --label crawl=web.jsonl"))
ngram = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=(
    "An n-gram model of good text: how surprising other texts are to it.\n\n"
    "Example:  gristmill data ngram train prose/ books.jsonl --reference web.jsonl"))

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The trained model goes here.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a trained model.")]
Source = Annotated[str, typer.Argument(metavar="IN", help=".jsonl or .parquet file, folder, glob or URL.")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help=".jsonl or .parquet file to write.")]
Column = Annotated[str, typer.Option(help="The column that holds the text.")]
Labelled = Annotated[list[str] | None, typer.Option(
    "--examples", metavar="PATH", help="Texts with a label in each row: .jsonl, .parquet, .csv or .tsv; repeat it.")]
LabelColumn = Annotated[str, typer.Option(help="The column with each row's label.")]
Label = Annotated[list[str] | None, typer.Option(
    "--label", metavar="NAME=PATH", help="All texts under PATH have this label (also .txt and .md files); repeat it.")]
GroupColumn = Annotated[str, typer.Option(help="Rows with the same value here are never split between the parts.")]
Passage = Annotated[int, typer.Option(min=0, help="Cut texts into passages of about so many characters; 0: whole.")]
Limit = Annotated[int, typer.Option(min=0, help="At most so many texts from each path, by hash; 0: all.")]
Seed = Annotated[int, typer.Option(help="Another seed, another split and order.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@classifier.command("train")
def train_classifier(
    folder: Folder, examples: Labelled = None, label_column: LabelColumn = "label", label: Label = None,
    column: Column = "text", group_column: GroupColumn = "", passage: Passage = 0, limit: Limit = 0,
    characters: Annotated[list[int] | None, typer.Option(
        help="Also n-grams of so many characters; for short texts. Repeat it.")] = None,
    multi_label: Annotated[bool, typer.Option(
        "--multi-label", help="A text may have several labels, or none.")] = False,
    seed: Seed = 0, as_json: AsJson = False,
) -> None:
    """Train a classifier on labelled texts; a tenth of them calibrates it, and a tenth is held out to measure it.

    Example:  gristmill data classifier train toxicity/ --examples tweets.csv --column tweet --label-column class
    """
    from gristmill.core.progress import for_stream
    from gristmill.data import learned_steps
    from gristmill.data.classifier.stage import TrainClassifier

    sources = _examples(examples or [], label or [], label_column, column, group_column, passage, limit)
    config = _built(TrainClassifier, {"examples": sources, "multi_label": multi_label,
                                      "features": {"characters": characters or []}})
    report = learned_steps.train(config, folder, seed=seed, progress=for_stream())
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    held_out = report["held_out"]
    typer.echo(f"{'label':24} {'texts':>7} {'precision':>20} {'recall':>20} {'F1':>20} {'AUC':>20}")
    for name, found in held_out["labels"].items():
        cells = (_interval(found[what]) for what in ("precision", "recall", "f1", "auc"))
        typer.echo(f"{name[:24]:24} {found['texts']:>7} " + " ".join(f"{cell:>20}" for cell in cells))
    typer.echo(f"on {held_out['texts']:,} held-out texts; accuracy {_interval(held_out['accuracy'])}, calibration "
               f"error {held_out['calibration_error']:.3f}; more in {folder / 'report.json'}")


@classifier.command("apply")
def apply_classifier(model: Model, source: Source, target: Target,
                     name: Annotated[str, typer.Option(help="The columns are <name>.<label>.")] = "classifier",
                     column: Column = "text", as_json: AsJson = False) -> None:
    """Add a column with each label's probability.

    Example:  gristmill data classifier apply quality/ web.jsonl scored.parquet --name quality
    """
    _apply("classifier", model, source, target, name, column, as_json)


@classifier.command("words")
def words(target: Annotated[Path, typer.Argument(
              metavar="OUT", help=".txt (one entry a line) or .json (with scores).")],
          of: Annotated[str, typer.Option(help="The label to find words for.")],
          examples: Labelled = None, label_column: LabelColumn = "label", label: Label = None, column: Column = "text",
          size: Annotated[int, typer.Option(min=1, help="At most so many entries.")] = 200,
          precision: Annotated[float, typer.Option(min=0, max=1, help=(
              "Of the texts that hold an entry at least this share has the label."))] = 0.5,
          least: Annotated[int, typer.Option(min=1, help="An entry occurs in at least so many texts.")] = 5,
          longest: Annotated[int, typer.Option(min=1, max=4, help="Words of the longest entries.")] = 1,
          as_json: AsJson = False) -> None:
    """The words that speak most for a label, by log-odds: a list for `bad_words` that fits your texts.

    Example:  gristmill data classifier words hate.txt --of hate --examples tweets.jsonl
    """
    from gristmill.data import learned_steps

    sources = [_built_examples(one) for one in _examples(examples or [], label or [], label_column, column, "", 0, 0)]
    _counted("count", lambda advance: learned_steps.learn_words(
        sources, of, target, size=size, precision=precision, least=least, longest=longest, advance=advance), as_json)


@ngram.command("train")
def train_ngram(
    folder: Folder, texts: Annotated[list[str], typer.Argument(
        metavar="IN", help=".jsonl, .parquet, .csv, .txt or .md files, folders or globs of good text.")],
    reference: Annotated[list[str] | None, typer.Option(
        metavar="PATH", help="Texts whose percentiles are reported, e.g. of the crawl; repeat it.")] = None,
    unit: Annotated[str, typer.Option(help="word or character.")] = "word",
    order: Annotated[int, typer.Option(min=2, max=10, help="Length of the longest n-grams.")] = 5,
    min_count: Annotated[int, typer.Option(min=1, help="Words seen less often are unknown.")] = 2,
    keep_count: Annotated[int, typer.Option(min=1, help="N-grams of 3 and more seen less often are left out.")] = 2,
    sample_mb: Annotated[float, typer.Option(help="Train on at most so many MB, chosen by hash.")] = 100.0,
    passage: Passage = 0, column: Column = "text", seed: Seed = 0, as_json: AsJson = False,
) -> None:
    """Train an n-gram model (interpolated modified Kneser-Ney) on good text; a twentieth of it is held out.

    Example:  gristmill data ngram train prose/ books.jsonl --reference web.jsonl --passage 3000
    """
    from gristmill.core.progress import for_stream
    from gristmill.data import learned_steps
    from gristmill.data.ngram.stage import TrainNgram

    def found(paths: list[str]) -> list[dict[str, Any]]:
        return [{"path": path, "column": column, "passage": passage} for path in paths]

    config = _built(TrainNgram, {
        "texts": found(texts), "reference": found(reference or []), "unit": unit, "order": order,
        "min_count": min_count, "keep_count": keep_count, "sample_mb": sample_mb})
    report = learned_steps.train(config, folder, seed=seed, progress=for_stream())
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    typer.echo(f"{report['train']['texts']:,} texts, {report['train']['bytes'] / 1e6:,.1f} MB; n-grams of length 1 to "
               f"{report['order']}: {', '.join(f'{count:,}' for count in report['ngrams'])}")
    for name in ("held_out", "reference"):
        if name in report:
            one = report[name]
            typer.echo(f"{name.replace('_', ' ')}: {one['texts']:,} texts, perplexity {one['perplexity']:.1f}, "
                       f"{one['bits_per_byte']:.3f} bits per byte, {one['unknown']:.2%} unknown")
    for value, cuts in report["thresholds"].items():
        typer.echo(f"{value}: head up to {cuts['head']:.4g}, tail above {cuts['tail']:.4g}")


@ngram.command("apply")
def apply_ngram(model: Model, source: Source, target: Target,
                name: Annotated[str, typer.Option(help="The columns are <name>.perplexity and so on.")] = "ngram",
                column: Column = "text", as_json: AsJson = False) -> None:
    """Add columns with perplexity, bits per byte and the share of unknown words.

    Example:  gristmill data ngram apply prose/ web.jsonl scored.parquet --name prose
    """
    _apply("ngram", model, source, target, name, column, as_json)


def _examples(labelled: list[str], named: list[str], label_column: str, column: str, group_column: str, passage: int,
              limit: int) -> list[dict[str, Any]]:
    from gristmill.core.errors import UserError

    shared = {"column": column, "group_column": group_column, "passage": passage, "limit": limit or None}
    found = [{"path": path, "label_column": label_column, **shared} for path in labelled]
    for one in named:
        name, _, path = one.partition("=")
        if not name or not path:
            raise UserError("say which label and which texts", where=f"--label {one}",
                            fix="e.g. --label good=books.jsonl")
        found.append({"path": path, "label": name, **shared})
    if not found:
        raise UserError("there are no examples", where="--examples, --label",
                        fix="--examples labelled.jsonl, or --label good=books.jsonl --label crawl=web.jsonl")
    return found


def _built_examples(plain: dict[str, Any]) -> Any:
    from gristmill.data.classifier.examples import Examples

    return _built(Examples, plain)


def _built(kind: type, plain: dict[str, Any]) -> Any:
    """A config of these values, with the problems of all of them in one error."""
    from pydantic import TypeAdapter, ValidationError

    from gristmill.core.errors import UserError

    try:
        return TypeAdapter(kind).validate_python(plain)
    except ValidationError as error:
        said = "; ".join(": ".join(filter(None, (
            ".".join(map(str, one["loc"])), str(one["msg"]).removeprefix("Value error, ")))) for one in error.errors())
        raise UserError(said, where="options", fix="see --help") from error


def _apply(kind: str, model: Path, source: str, target: Path, name: str, column: str, as_json: bool) -> None:
    from gristmill.data import learned_steps

    plain = {"kind": kind, "name": name, "model": str(model)}
    _counted("apply", lambda advance: learned_steps.apply(
        source, target, plain, column=column, advance=advance), as_json)


def _counted(title: str, step: Callable[[Callable[[int], None]], dict[str, Any]], as_json: bool) -> None:
    from gristmill.core.progress import for_stream

    with for_stream().bar(title, None, "rows") as bar:
        counts = step(bar.advance)
    if as_json:
        typer.echo(json.dumps(counts, ensure_ascii=False))
        return
    means = counts.pop("means", {})
    typer.echo(", ".join(f"{what.replace('_', ' ')} {count:,}" for what, count in counts.items()))
    for name, mean in means.items():
        typer.echo(f"  {name:40} mean {mean:.4g}")


def _interval(value: dict[str, float | None]) -> str:
    if value["value"] is None:
        return "-"
    return f"{value['value']:.3f}" + (f" ({value['low']:.3f}-{value['high']:.3f})" if value["low"] is not None else "")
