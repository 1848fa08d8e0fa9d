import re
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import Field, TypeAdapter

from gristmill.data.sources.books import Books
from gristmill.data.sources.jats import Jats
from gristmill.data.sources.latex import Latex
from gristmill.data.sources.mail import Mail
from gristmill.data.sources.pdf import Pdf
from gristmill.data.sources.reddit import Reddit

PAGE = (Path(__file__).parents[3] / "docs/data/books_papers_conversations.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
SOURCE = TypeAdapter(Annotated[Books | Jats | Latex | Mail | Pdf | Reddit, Field(discriminator="kind")])


def test_sources_in_the_page_are_valid() -> None:
    found = [source for kind, body in BLOCKS if kind == "yaml" for source in yaml.safe_load(body)["sources"]]
    assert len([SOURCE.validate_python(source) for source in found]) == 4


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, body in BLOCKS:
        if kind == "python":
            exec(body, {})
    assert capsys.readouterr().out == "books/verse.txt Tyger Tyger\n"


def test_every_kind_has_its_row() -> None:
    for config in (Books, Jats, Latex, Mail, Pdf, Reddit):
        assert f"| `{config(path='x').kind}` |" in PAGE
