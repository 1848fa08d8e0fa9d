"""Command line: `gristmill VERB`, one small module a verb.

A module `cli/<verb>.py` has one function `command` that parses, calls a stage or a library function and prints; it
imports nothing heavy at its top. In: arguments. Out: text on stdout (JSON with `--json`), progress on stderr, an exit
code from the error classes. The top entry room: it may import every room, and none imports it.
"""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `gristmill`."""
    from gristmill.cli.app import app

    app(args=arguments, prog_name="gristmill")
    sys.exit(0)
