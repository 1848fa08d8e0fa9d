"""Errors that say what was wrong, where, and how to mend it.

Three types, because three different people can mend them: the user, whoever runs the
machine, and we ourselves. The command line prints the first two without a traceback.
"""

from __future__ import annotations


class Told(BaseException):
    """What all our errors say.

    what: one sentence, what is wrong. where: file, line, field or row, if there is one.
    fix: one sentence, how to mend it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.fix:
            lines.append(f"  to mend it: {self.fix}")
        return "\n".join(lines)


class GristmillError(Told, Exception):
    """Base of all our errors."""


class UserError(GristmillError):
    """Something that was asked for is wrong: a recipe, an argument, an input file."""

    exit_code = 2


class MachineError(GristmillError):
    """The machine cannot do it now: disk full, port in use, missing compiler."""

    exit_code = 3


class InternalError(GristmillError):
    """A promise of ours was broken (a proof failed, an invariant does not hold). Please report it."""

    exit_code = 70


class Interrupted(Told):
    """SIGTERM or Ctrl-C arrived; everything up to the last durable point is kept.

    Like KeyboardInterrupt no `Exception`: code that catches every error of a library does not swallow it.
    """

    exit_code = 143
