"""docs/planning-goals.md: its commands run in order, and its table says what the laws say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.planning.scaling_laws import BESIROGLU, LAWS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "planning-goals.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_commands_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"r,{n},{d},{BESIROGLU.loss(n, d)}" for n in (1e5, 4e5, 1.6e6, 6.4e6) for d in (4e6, 2e7, 1e8)]
    Path("points.csv").write_text("name,parameters,tokens,loss\n" + "\n".join(rows))
    assert len(COMMANDS) >= 10
    for line in COMMANDS:
        name, *arguments = shlex.split(line)
        assert name == "gristmill"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{line}: {done.output}"
        assert len(done.output) > 200, line
    for written in ("my-model.yaml", "first.yaml", "second.yaml", "law.json", "plan.html"):
        assert Path(written).is_file()


def test_the_table_says_what_the_laws_say():
    for law in LAWS.values():
        best = law.optimum(5.76e23)
        ratio = f"{best.tokens_per_parameter:.3g}"
        (row,) = [r for r in PAGE.splitlines() if r.startswith("| ") and re.search(rf"[ ]{law.name}[:, ]", r)]
        assert f"{best.parameters / 1e9:.3g} B" in row
        assert ratio in row
        if "hoffmann-1" not in row and law.name != "kaplan":
            assert f"on {best.tokens / 1e12:.3g} T" in row
