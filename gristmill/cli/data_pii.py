"""`gristmill data pii`: personal data in a JSONL or Parquet file found, masked, or reason to leave rows out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Source = Annotated[str, typer.Argument(metavar="IN", help=".jsonl or .parquet file, folder, glob or URL.")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help=".jsonl or .parquet file to write.")]
Column = Annotated[str, typer.Option(help="The column that holds the text.")]
Rejects = Annotated[Path | None, typer.Option(help="Write what is dropped here, each row with its reason.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")]
Action = Annotated[str, typer.Option(
    help="mask: replace what is found; report: only count it; drop: leave out rows with --least finds or more, mask "
         "the others.")]
Kinds = Annotated[list[str] | None, typer.Option(
    "--kind", help="email, phone, ip, card, iban, national_id or wallet; give it again for several. All by default.")]
Replacement = Annotated[str, typer.Option(
    help="tag: <EMAIL> and the like; fake: values that belong to nobody, the same for the same value.")]
Least = Annotated[int, typer.Option(min=1, help="Finds from which on `drop` leaves a row out.")]


def command(source: Source, target: Target, action: Action = "mask", kind: Kinds = None,
            replacement: Replacement = "tag",
            least: Least = 3, rejects: Rejects = None, column: Column = "text", as_json: AsJson = False) -> None:
    """Find personal data: e-mail and IP addresses, phone, card and account numbers, national ids, wallets.

    Every row gets a column `pii` with the number of finds of each kind. What is printed below the counts are the finds.

    Example:  gristmill data pii texts.jsonl masked.jsonl --action mask
    """
    from gristmill.cli.data import _run
    from gristmill.data.pii.step import pii_rows

    options = _options(action, kind, replacement, least)
    _run("look for personal data", lambda advance: pii_rows(source, target, rejects, options, column=column,
                                                            advance=advance), as_json)


def _options(action: str, kinds: list[str] | None, replacement: str, least: int) -> Any:
    from pydantic import TypeAdapter, ValidationError

    from gristmill.core.errors import UserError
    from gristmill.data.pii import Pii

    if action == "none":
        raise UserError("none does nothing", where="--action none", fix="mask, report or drop")
    chosen: dict[str, Any] = {"action": action, "replacement": replacement, "least": least}
    try:
        return TypeAdapter(Pii).validate_python({**chosen, "kinds": kinds} if kinds else chosen)
    except ValidationError as error:
        said = "; ".join(": ".join(filter(None, (".".join(map(str, one["loc"])),
                                                 str(one["msg"]).removeprefix("Value error, "))))
                         for one in error.errors())
        raise UserError(said, where="--action, --kind and --replacement", fix="gristmill data pii --help") from error
