"""Keys and passwords do not belong into files: finding them before they are written."""

from __future__ import annotations

import re

from gristmill.core.errors import UserError
from gristmill.pipeline.launch.job import Job

_NAMES = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(API|ACCESS|PRIVATE|SIGNING|SSH)_?KEY)"
                    r"(_|$)", re.IGNORECASE)
_VALUES = re.compile(
    r"(?<![A-Za-z0-9])(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}"
    r"|glpat-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}|xox[abpr]-[A-Za-z0-9-]{20,}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s@]+@")


def check_secrets(job: Job) -> None:
    """Raise UserError if a value that would be written into a file looks like a key or a password.

    The message names the place and never the value.
    """
    for name, value in job.environment:
        if value and (_NAMES.search(name) or _VALUES.search(value)):
            raise UserError(f"the value of {name} looks like a secret, and would be written into a file", where="--env",
                            fix=f"--secret {name}: the value is then taken from the environment and never written")
    for where, text in (("run options", "\n".join(job.arguments)), ("--setup", "\n".join(job.setup)),
                        ("RECIPE", job.recipe_text), ("--runs-volume", job.volume or "")):
        if _VALUES.search(text):
            raise UserError("there is something here that looks like a key or a password, and would be written into a "
                            "file", where=where, fix="keep it in an environment variable and name that with --secret")
