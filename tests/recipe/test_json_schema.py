"""The JSON Schema of recipes accepts what the loader accepts and refuses what it refuses."""

from pathlib import Path

import pytest
import toy_stages

from gristmill.recipe import STAGES, RecipeError, json_schema, load_recipe, recipe_schema
from gristmill.recipe.loading import parse_yaml

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def validator_of(schema):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_ready_recipe_is_valid(path):
    load_recipe(path)
    skipped: dict[str, str] = {}
    validator_of(recipe_schema(skipped)).validate(parse_yaml(path.read_text(), path.name).value)
    assert skipped == {}


@pytest.fixture
def toys(monkeypatch):
    """The registry with nothing but the toy stages."""
    monkeypatch.setattr(json_schema, "STAGES", {k: v for k, v in STAGES.items() if k.startswith("toy_")})


@pytest.fixture
def validator(toys):
    return validator_of(recipe_schema())


@pytest.mark.parametrize("change", [
    {"parts": "2"}, {"pats": 2}, {"sources": [{"kind": "fils"}]}, {"sources": [{"kind": "files", "count": 3}]},
])
def test_schema_and_loader_refuse_the_same(change, validator):
    recipe = {"name": "x", "stages": {"corpus": {"uses": "toy_corpus", **change}}}
    assert not validator.is_valid(recipe)
    with pytest.raises(RecipeError):
        load_recipe(recipe)


def test_the_toy_recipe_is_valid(validator):
    validator.validate(toy_stages.RECIPE)


def test_descriptions_come_from_the_docstrings_of_fields(toys):
    definitions = recipe_schema()["$defs"]
    assert definitions["toy_model"]["properties"]["rate"]["description"] == "Learning rate."
    assert definitions["toy_model.ToyBudget"]["properties"]["steps"]["description"] == "Steps."
    assert definitions["toy_model"]["properties"]["uses"]["const"] == "toy_model"


def test_a_kind_that_cannot_be_loaded_is_left_out_and_told(toys, monkeypatch):
    for registry in (STAGES, json_schema.STAGES):
        monkeypatch.setitem(registry, "toy_absent", "package_that_is_not_here.stage:Absent")
    skipped: dict[str, str] = {}
    assert "toy_absent" not in recipe_schema(skipped)["$defs"]
    assert "package_that_is_not_here" in skipped["toy_absent"]
