"""A small tokenizer of ours, trained on the standard library's own text."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.train import train_bpe

MODULES = ("argparse.py", "ast.py", "calendar.py", "typing.py", "os.py", "tarfile.py", "textwrap.py", "inspect.py")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return [(root / name).read_text(encoding="utf-8") for name in MODULES]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> Tokenizer:
    return train_bpe([texts], vocab_size=1200)
