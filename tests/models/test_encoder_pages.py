"""What docs/models says of encoders is true: recipes load, examples print what they say, counts are the code's."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters
from gristmill.models.saving import save_model
from gristmill.recipe import load_recipe
from tests.models.random_encoders import random_encoder, tiny_config
from tests.objectives.parallel_text import masking_tokenizer

FOLDER = Path(__file__).parents[2] / "docs" / "models"
PAGES = {"bert": ("bert",), "roberta": ("roberta", "xlm-roberta"), "xlm": ("xlm",)}
MODELS = {
    "my-bert": {"family": "bert", "next_sentence": True}, "my-roberta": {"family": "roberta"},
    "my-xlm": {"family": "xlm", "languages": ("en", "python")},
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (FOLDER / f"{page}.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run_and_print_what_they_say(page, tmp_path, monkeypatch):
    tokenizer = masking_tokenizer()
    for name, changes in MODELS.items():
        config = tiny_config(**{"vocab_size": 640, "pad_id": tokenizer.pad_id, **changes})
        save_model(random_encoder(config), tmp_path / name, tokenizer=tokenizer)
    monkeypatch.chdir(tmp_path)
    examples = blocks(page, "python")
    assert examples
    names: dict = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for example in examples:
            exec(compile(example, f"{page}.md", "exec"), names)  # our own pages
    expected = [line.split("  # ")[1] for example in examples for line in example.splitlines()
                if line.startswith("print(")]
    found = printed.getvalue().splitlines()
    # A token can hold a line break, so what "e.g." stands for may take several lines; the exact ones must be there.
    assert [line for line in expected if not line.startswith("e.g.")] == [line for line in found if line in expected]


@pytest.mark.parametrize("page", PAGES)
def test_the_recipes_load(page, tmp_path):
    recipes = blocks(page, "yaml")
    assert recipes
    for text in recipes:
        (tmp_path / "recipe.yaml").write_text(text)
        stages = load_recipe(tmp_path / "recipe.yaml").stages
        config, _ = stages["base"].model.resolve(640)
        stages["base"].objective.check(config, masking_tokenizer())


@pytest.mark.parametrize("page", PAGES)
def test_every_preset_stands_there_with_its_count(page):
    text = (FOLDER / f"{page}.md").read_text("utf-8")
    for family in PAGES[page]:
        for name, config in FAMILIES[family].presets.items():
            row = next(line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line
                       and (len(PAGES[page]) == 1 or f"`{family}`," in line))
            assert f" {count_parameters(config):,} " in row, (family, name)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_recipes_that_are_named_exist(page):
    text = (FOLDER / f"{page}.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (FOLDER / target).is_file(), target
    for recipe in re.findall(r"gristmill run (\S+\.yaml)", text):
        assert (FOLDER.parents[1] / recipe).is_file(), recipe
