"""The table of verbs, and how errors leave the command line."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gristmill.cli import (
    chat,
    data,
    doctor,
    evaluate,
    export,
    generate,
    inspect,
    launch,
    plan,
    report,
    run,
    schema,
    serve,
    status,
    version,
)
from gristmill.core.errors import GristmillError, Interrupted

VERBS = {
    "run": run, "status": status, "report": report, "inspect": inspect, "generate": generate, "chat": chat,
    "serve": serve, "evaluate": evaluate, "export": export, "schema": schema, "doctor": doctor, "version": version,
    "launch": launch,
}


class Verbs(TyperGroup):
    """Prints our errors without a traceback and exits with the code of their class."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (GristmillError, Interrupted) as error:
            if os.environ.get("GRISTMILL_DEBUG"):
                raise
            if isinstance(error, Interrupted):  # told twice, as by torchrun: the second must not change the exit code
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print(f"error: {error}" if error.exit_code < 128 else str(error), file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Raw text in, a served language model out: one recipe describes the whole life of a model.\n\n"
         "Start with:  gristmill run recipes/quickstart.yaml",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        version.command(as_json=False)
        raise typer.Exit


@app.callback()
def _root(show_version: Annotated[bool, typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and leave.")] = False) -> None:
    pass


for _name, _module in VERBS.items():
    app.command(_name)(_module.command)
app.add_typer(data.app, name="data")
app.add_typer(plan.app, name="plan")
