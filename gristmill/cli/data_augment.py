"""`gristmill data augment`: more rows, made from those of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Source = Annotated[str, typer.Argument(metavar="IN", help=".jsonl or .parquet file, folder, glob or URL.")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help=".jsonl or .parquet file to write.")]
Methods = Annotated[list[str] | None, typer.Option(
    "--method", metavar="METHOD",
    help="edits, synonyms, counterfactual, paraphrase, back_translation or variations, or one with its settings as "
         "YAML: '{kind: edits, share: 0.5}'. May be repeated.")]


def command(source: Source, target: Target, method: Methods = None,
            column: Annotated[str, typer.Option(help="The column that holds the text.")] = "text",
            seed: Annotated[int, typer.Option(help="Another seed, other texts.")] = 0,
            gates: Annotated[str, typer.Option(metavar="YAML", help="What a made text must be like, e.g. "
                                                                    "'{least_length: 0.5, language: false}'.")] = "{}",
            only_made: Annotated[bool, typer.Option("--only-made", help="Leave out the rows themselves.")] = False,
            rejects: Annotated[Path | None, typer.Option(help="Write what was made and does not stay, with reasons.")]
            = None,
            answers: Annotated[Path | None, typer.Option(
                help="Folder where models' answers are kept, so that nothing is asked twice; default OUT.answers.")]
            = None,
            runs_dir: Annotated[Path, typer.Option(help="Where runs lie, for models by name.")] = Path("runs"),
            workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is as many as cores.")] = 0,
            as_json: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False,
            ) -> None:
    """Rows made from others: by small edits, synonyms, swapped genders, or by a model.

    Each row is followed by what was made of it; the column `augmented` says how. Rows that were made are not taken
    again. Hold out your test rows before: what is made of a row must not be in another split than the row.

    Example:  gristmill data augment train.jsonl more.jsonl --method edits --method "{kind: synonyms, share: 0.5}"
    """
    from gristmill.core.artifact import Artifact
    from gristmill.core.errors import UserError
    from gristmill.core.progress import for_stream
    from gristmill.core.stage import Runtime
    from gristmill.core.writer import Writer
    from gristmill.data.augment.rows import augment
    from gristmill.pipeline.store import ArtifactStore
    from gristmill.pipeline.writers import writer_opener

    if not method:
        raise UserError("no method is named", where="--method",
                        fix="gristmill data augment IN OUT --method edits")
    runtime = Runtime(workers=workers)
    opened: dict[str, Writer] = {}

    def open_model(name: str) -> Writer:
        if name not in opened:
            artifact: Artifact = ArtifactStore(runs_dir).resolve(name, ("model", "release"))
            opened[name] = writer_opener(runtime)(artifact)
        return opened[name]

    progress = for_stream()
    counts = augment(source, target, _typed(method), open_model=open_model,
                     answers=answers or target.with_name(f"{target.name}.answers"), column=column, seed=seed,
                     gates=_gates(gates), only_made=only_made, rejects=rejects, runtime=runtime, progress=progress)
    if as_json:
        typer.echo(json.dumps(counts, ensure_ascii=False))
        return
    reasons = counts.pop("reasons")
    typer.echo(", ".join(f"{what.replace('_', ' ')} {count:,}" for what, count in counts.items()))
    for reason, count in reasons.items():
        typer.echo(f"  {reason:40} {count:>10,}")


def _typed(methods: list[str]) -> list[Any]:
    from gristmill.core.errors import UserError
    from gristmill.data.augment.method import method_names
    from gristmill.data.augment.methods import method_from_plain

    found = [_checked(text, "--method", lambda value: method_from_plain(
        {"kind": value} if isinstance(value, str) else value)) for text in methods]
    try:
        method_names(found)
    except ValueError as error:
        raise UserError(str(error), where="--method") from error
    return found


def _gates(text: str) -> Any:
    from pydantic import TypeAdapter

    from gristmill.data.augment.gates import Gates

    return _checked(text, "--gates", TypeAdapter(Gates).validate_python)


def _checked(text: str, option: str, read: Any) -> Any:
    """YAML text as what `read` makes of it; a UserError says what is wrong with it."""
    import yaml
    from pydantic import ValidationError

    from gristmill.core.errors import UserError

    try:
        return read(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"this is no YAML ({' '.join(str(error).split())})", where=f"{option} {text}",
                        fix="e.g. --method '{kind: edits, share: 0.5}'") from error
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ')}".lstrip(": ")
                         for one in error.errors())
        raise UserError(said, where=f"{option} {text}", fix="docs/data/augmentation.md names the settings") from error
