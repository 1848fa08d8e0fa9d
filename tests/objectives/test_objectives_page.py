"""docs/objectives.md is true: it names every objective and option, its recipe lines train, pictures and numbers are
those of the stored results."""

from __future__ import annotations

import dataclasses
import re
import runpy
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from gristmill.objectives.pretraining import KINDS
from gristmill.recipe import load_recipe
from gristmill.tokenizer.train import MASK, train_bpe
from gristmill.training.loop import TrainingConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "objectives.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^###? (\w+)$\n(.*?)(?=^###? |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SNIPPETS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@cache
def drawing() -> dict:
    return runpy.run_path(str(DOCS / "draw_learning.py"))


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: re.findall(r"kind: (\w+)", text)[0])
def test_the_recipe_lines_are_a_stage_that_trains(snippet, tmp_path):
    """Loaded as the recipe that they are lines of; the objective accepts its model and its tokenizer."""
    lines = yaml.safe_load(snippet)
    stages = {
        "corpus": {"uses": "data", "sources": [{"kind": "python_functions"}]},
        "tokenizer": {"uses": "tokenizer", "corpus": "corpus", **lines.pop("tokenizer", {})},
        "base": {"uses": "pretrain", "corpus": "corpus", "tokenizer": "tokenizer", **lines.pop("base")}}
    assert not lines
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "lines", "stages": stages}))
    loaded = load_recipe(tmp_path / "recipe.yaml").stages
    options, stage = loaded["tokenizer"], loaded["base"]
    extra = [*([MASK] if options.mask else []), *(f"<extra_id_{n}>" for n in range(options.sentinels)),
             *(options.special_tokens or [])]
    tokenizer = train_bpe([["a few words, " * 9]], vocab_size=264 + len(extra), extra_special_tokens=extra)
    model, _ = stage.model.resolve(tokenizer.vocab_size)
    stage.objective.check(model, tokenizer)
    assert set(stage.objective.loss(model).weights)


@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_has_a_section_with_all_of_its_options_and_recipe_lines(kind):
    section = SECTIONS[kind]
    options = [field.name for field in dataclasses.fields(KINDS[kind]) if field.name != "kind"]
    assert [name for name in options if not re.search(rf"\b{name}\b", section)] == []
    assert f"kind: {kind}" in section
    assert (f"images/learning-{kind}.svg" in section) == (kind in drawing()["results"]())
    assert f"[`{kind}`](#{kind})" in PAGE


def test_every_option_of_regularisation_is_named():
    for name in ("l1", "l2", "r_drop", "ema"):
        assert name in {field.name for field in dataclasses.fields(TrainingConfig)}
        assert f"`training.{name}`" in SECTIONS["Regularisation"]
    assert any("stochastic_depth" in snippet and "r_drop" in snippet for snippet in SNIPPETS)


def test_the_pictures_are_what_the_script_draws_from_the_stored_results():
    drawn = drawing()["pictures"]()
    assert drawn
    assert drawn.keys() == {*KINDS, "moe"} == set(drawing()["ORDER"])
    for kind, picture in drawn.items():
        stored = (DOCS / "images" / f"learning-{kind}.svg").read_text("utf-8")
        assert stored == picture, "run python docs/draw_learning.py"
        assert ElementTree.fromstring(stored).tag.endswith("svg")
        assert f"images/learning-{kind}.svg" in PAGE
        assert "unigram entropy" in stored


def test_the_table_holds_the_stored_numbers():
    assert drawing()["table"]() in PAGE, "put in what python docs/draw_learning.py prints"
