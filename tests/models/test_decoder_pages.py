"""The pages of the decoder families: their Python runs and prints what they say, counts and links are right, recipes
load, and the pictures are those that the code draws."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from gristmill.generation import LanguageModel
from gristmill.models.families import FAMILIES
from gristmill.models.loading import count_parameters
from gristmill.recipe import load_recipe
from tests.models.random_models import random_decoder

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: DOCS / "models" / f"{name}.md" for name in ("gpt2", "gpt3", "llama", "qwen", "palm", "mixtral", "moe",
                                                         "gristmill")}
FAMILIES_OF = {"llama": ("llama", "mistral")}
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text("utf-8")) if kind == language]


@pytest.fixture
def folder(request, tmp_path, monkeypatch) -> Path:
    """A folder with the model `my-<family>` that the page speaks of."""
    from tests.export.conftest import byte_level

    name = request.node.callspec.params["name"]
    traits = {"kv_heads": 4, **FAMILIES[name].traits, "family": name, "vocab_size": 320, "context": 256}
    LanguageModel(random_decoder(**({**traits, "tied_head": True} if name == "qwen" else traits)),
                  byte_level()).save(tmp_path / f"my-{name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", PAGES)
def test_the_examples_print_what_the_page_says(name, folder):
    code = "\n".join(blocks(PAGES[name], "python"))
    expected = re.findall(r"^(?:print.*  )?# (.+)$", code, re.MULTILINE)
    printed = io.StringIO()
    (folder / "example.py").write_text(code)
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(folder / "example.py"))
    assert printed.getvalue().splitlines() == expected
    assert expected


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_name_every_preset_with_its_size(name):
    rows = {}
    for preset, count in re.findall(r"^\| `([\w.-]+)` \| ([\d,]+) \|", PAGES[name].read_text("utf-8"), re.MULTILINE):
        rows.setdefault(preset, []).append(int(count.replace(",", "")))
    presets: dict[str, list[int]] = {}
    for family in FAMILIES_OF.get(name, (name,)):
        for preset, config in FAMILIES[family].presets.items():
            presets.setdefault(preset, []).append(count_parameters(config))
    assert rows == presets


@pytest.mark.parametrize("page", [*PAGES.values(), DOCS / "attention.md"], ids=lambda page: page.stem)
def test_recipes_load_and_links_lead_somewhere(page, tmp_path):
    for text in blocks(page, "yaml"):
        (tmp_path / "recipe.yaml").write_text(text)
        stages = load_recipe(tmp_path / "recipe.yaml").stages
        spec = stages.get("base")
        if spec is not None:
            spec.model.resolve(8192)
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_pictures_are_what_the_code_draws():
    drawing = runpy.run_path(str(DOCS / "draw_masks.py"))
    for name, (title, layers) in drawing["pictures"]().items():
        stored = (DOCS / "images" / f"mask-{name}.svg").read_text("utf-8")
        assert stored == drawing["drawn"](title, layers), "run python docs/draw_masks.py"
        assert ElementTree.fromstring(stored).tag.endswith("svg")
        assert f"images/mask-{name}.svg" in (DOCS / "attention.md").read_text("utf-8")
        cells = sum(layer.cells.int() for layer in layers)
        assert int(cells.max()) == 1, "every cell has one colour"
