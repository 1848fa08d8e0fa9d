"""Deterministic mode: on, off again, what it refuses is explained."""

from __future__ import annotations

import os

import pytest
import torch

from gristmill.core.errors import UserError
from gristmill.training import deterministic
from gristmill.training.deterministic import WORKSPACE, explained, use_deterministic


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop(WORKSPACE, None)
    deterministic._ours = False


def test_on_and_off_again():
    use_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    use_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ[WORKSPACE] == ":4096:8"
    use_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_a_program_set_itself_is_left_alone(monkeypatch):
    torch.use_deterministic_algorithms(True)
    monkeypatch.setenv(WORKSPACE, ":16:8")
    use_deterministic(False)
    assert torch.are_deterministic_algorithms_enabled()
    use_deterministic(True)
    assert os.environ[WORKSPACE] == ":16:8"


def test_a_refused_operation_is_named():
    use_deterministic(True)
    pool = torch.nn.MaxPool2d(2, return_indices=True)
    with pytest.raises(UserError, match=r"no deterministic form of max_unpool\w*(?s:.*)--device cpu"), explained():
        torch.nn.functional.max_unpool2d(*pool(torch.rand(1, 1, 4, 4)), 2)
    with pytest.raises(RuntimeError, match="other"), explained():
        raise RuntimeError("other")
