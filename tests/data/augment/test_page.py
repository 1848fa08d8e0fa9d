"""docs/data/augmentation.md says what the code does, and its examples run."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.data.augment.gates import Gates
from gristmill.data.augment.methods import AnyMethod
from gristmill.data.augment.prompts import STYLES
from gristmill.recipe.shape import field_types, members
from tests.data.augment.corpora import text

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "data" / "augmentation.md").read_text("utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]


def test_every_method_style_and_gate_is_told():
    kinds = {member.__args__[0].kind if hasattr(member, "__args__") else member.kind for member in members(AnyMethod)}
    assert kinds <= {row[0].strip("`") for row in ROWS}
    assert all(f"`{style}`" in PAGE for style in STYLES)
    gates = Gates()
    assert f"least_length: {gates.least_length}, most_length: {gates.most_length}" in PAGE
    assert set(field_types(Gates)) == {"least_length", "most_length", "language", "evaluations"}


def test_every_reason_is_told():
    source = "".join((ROOT / "gristmill/data/augment" / f"{name}.py").read_text("utf-8")
                     for name in ("answers", "gates", "making", "rewriting"))
    used = set(re.findall(r'(?:rejected\(|return |reason(?:, one\.detail)? = |\("reason", )"([a-z_]+)"', source))
    told = {name for row in ROWS for name in re.findall(r"`([a-z_]+)`", row[0])}
    assert used <= told, used - told
    assert {"copy", "unchanged", "duplicate", "cut_off", "refused", "other_language"} <= used


def test_the_example_prints_what_the_page_shows():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert printed.getvalue() == shown


def test_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("".join(json.dumps({"text": text(i)}) + "\n" for i in range(5)))
    (line,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert len(Path("more.jsonl").read_text().splitlines()) > 5
