"""The overrides that a recipe's comments give for the published size make a recipe that loads, with that very model."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from pathlib import Path

import pytest

from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters
from gristmill.recipe import load_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
SIZES = {"gpt2-124m": 124_439_808, "bert-base": 110_106_428, "roberta-base": 124_697_433 - 768,
         "xlm-tiny": 249_071_384, "xlnet-base": 116_750_336, "t5-small": 60_506_624 - 128 * 512}
"""Recipe -> parameters of the model that its comments promise, over a vocabulary of that size."""


def overrides(name: str) -> list[str]:
    """The `--set` values in the comments at the top."""
    head = (FOLDER / f"{name}.yaml").read_text("utf-8").split("\nname:")[0]
    words = shlex.split(" ".join(re.findall(r"^#   (.*)$", head, re.MULTILINE)))
    return [value for option, value in itertools.pairwise(words) if option == "--set"]


@pytest.mark.parametrize("name", SIZES)
def test_the_published_size_is_a_recipe(name):
    found = overrides(name)
    assert len(found) > 5
    stages = load_recipe(FOLDER / f"{name}.yaml", found).stages
    spec, vocabulary = stages["base"].model, stages["tokenizer"].vocab_size
    config, _ = spec.resolve(vocabulary)
    assert 0 <= config.vocab_size - vocabulary < 64
    assert count_parameters(dataclasses.replace(config, vocab_size=vocabulary)) == SIZES[name]
    assert config.family in FAMILIES
