"""docs/data/privacy.md and balance_signals.md: their examples print what they say, every option and id is named."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import pytest

from gristmill.data.pii import KINDS, Pii
from gristmill.data.pii.national_ids import LETTERED, NATIONAL_IDS

FOLDER = Path(__file__).parents[3] / "docs" / "data"
PAGES = {name: (FOLDER / name).read_text("utf-8") for name in ("privacy.md", "balance_signals.md")}
EXAMPLES = [(name, code, printed) for name, page in PAGES.items()
            for code, printed in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)]


@pytest.mark.parametrize(("page", "code", "printed"), EXAMPLES)
def test_the_examples_print_what_the_pages_say(page: str, code: str, printed: str) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})
    assert output.getvalue() == printed, page


def test_there_are_examples() -> None:
    assert [name for name, _, _ in EXAMPLES] == ["privacy.md", "balance_signals.md", "balance_signals.md",
                                                 "balance_signals.md"]


def test_every_option_and_kind_has_a_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGES["privacy.md"], re.MULTILINE))
    assert rows == {field.name for field in dataclasses.fields(Pii)} | set(KINDS)


def test_the_number_of_ids_is_said() -> None:
    assert f"{len(NATIONAL_IDS) + len(LETTERED)} forms" in PAGES["privacy.md"]
