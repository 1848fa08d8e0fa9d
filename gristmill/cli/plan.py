"""`gristmill plan ...`: the size, time, money, energy and carbon of a model, before a token is trained.

Every sub-command is a module `cli/plan_<name>.py` with one function `command`, listed in `PLANS`.
"""

from __future__ import annotations

import importlib
import importlib.util

import typer

PLANS = ("model", "train", "layout", "serve", "scaling", "fit", "goal")

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]},
    help="Know the size, time, money, energy and carbon of a model before a token is trained.\n\n"
         "Start with:  gristmill plan model llama:smollm2-135m",
)

for _name in PLANS:
    if importlib.util.find_spec(f"gristmill.cli.plan_{_name}") is not None:
        app.command(_name)(importlib.import_module(f"gristmill.cli.plan_{_name}").command)
