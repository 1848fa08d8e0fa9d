"""docs/planning.md: every command runs, and the table of a public calculator's bugs says what arithmetic says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.models.families import FAMILIES
from gristmill.planning.anatomy import anatomy
from gristmill.planning.flops import flops
from gristmill.planning.model import CACHE_BYTES, cache_tokens
from gristmill.planning.tables import from_files

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "planning.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
LLAMA = FAMILIES["llama"].presets["llama-3-8b"]
TOKENS, ROW = 15e12, 8192


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    name, *arguments = shlex.split(line)
    assert name == "gristmill"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert len(done.stdout) > 200
    if "--html" in arguments:
        assert (tmp_path / "plan.html").is_file()


def test_the_table_file_in_the_docs_can_be_used(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert set(yaml.safe_load(text)) == {"hardware", "prices", "grids"}
    (tmp_path / "mine.yaml").write_text(text)
    tables = from_files(tmp_path / "mine.yaml")
    assert tables.device("mine").per_host == 8
    assert tables.grid("home").kg_per_kwh == pytest.approx(0.04)


def shown(number: str) -> bool:
    return number in PAGE


def test_flops_beside_a_calculator_that_forgets_the_feed_forward():
    """Its sum, written out: a feed-forward of three matrices of 4 x the width, logits once, all pairs of attention."""
    wide, layers = LLAMA.dim, LLAMA.layers
    once = 6 * layers * TOKENS * wide**2
    theirs = once * (1.5 + 1 + 12) + 2 * 6 * layers * TOKENS * ROW * wide + 2 * TOKENS * wide * LLAMA.vocab_size
    assert f"{theirs / 1e21:.2f} ZFLOP" == "909.65 ZFLOP"
    ours = flops(LLAMA, ROW)
    full = 3 * (ours.matmul + ours.attention_full) * TOKENS
    assert shown(f"{full / 1e21:.2f} with all pairs")
    assert shown(f"{ours.train * TOKENS / 1e21:.2f} with those that are seen")
    # With the width that was said and logits in training, the same sum is ours to the last digit.
    mended = once * (2.5 + 3 * LLAMA.mlp_dim / wide) + 2 * 6 * layers * TOKENS * ROW * wide + (
        6 * TOKENS * wide * LLAMA.vocab_size)
    assert mended == pytest.approx(full, rel=1e-12)
    assert shown(f"{2 * TOKENS * wide * LLAMA.vocab_size / 1e21:.2f} ZFLOP")
    assert shown(f"{6 * TOKENS * wide * LLAMA.vocab_size / 1e21:.2f} ZFLOP")


def test_parameters_and_cache_beside_the_same():
    found = anatomy(LLAMA)
    assert shown(f"{found.total:,}")
    wider = found.total + LLAMA.layers * 3 * LLAMA.dim * (4 * LLAMA.dim - LLAMA.mlp_dim)
    assert shown(f"{wider / 1e9:.2f} B")
    assert shown(f"{CACHE_BYTES['bf16'] * cache_tokens(found, ROW) / 1e9:.2f} GB")
    assert shown(f"{CACHE_BYTES['bf16'] * LLAMA.layers * LLAMA.dim * ROW / 1e9:.2f} GB for 8,192 tokens")
