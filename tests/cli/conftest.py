"""Toy stages for every test of this room."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
import toy_stages  # noqa: F401  (importing it registers its stages)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"
