"""`--set`."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_stages import RECIPE, ToyBudget

from gristmill.core.errors import UserError
from gristmill.recipe import RecipeError, load_recipe
from gristmill.recipe.loading import Document
from gristmill.recipe.overrides import apply_overrides, parse_override


def test_values_are_yaml():
    recipe = load_recipe(RECIPE, ["stages.base.rate=1e-3", "stages.base.prompts=[a, b]", "stages.base.fast=true",
                                  'stages.corpus.text="5"', "seed=8", "stages.base.width=64"])
    base = recipe.stages["base"]
    assert (base.rate, base.prompts, base.fast, base.width) == (1e-3, ["a", "b"], True, 64)
    assert recipe.stages["corpus"].text == "5"
    assert recipe.seed == 8


def test_setting_one_alternative_removes_the_other():
    assert load_recipe(RECIPE, ["stages.tuned.budget.minutes=4"]).stages["tuned"].budget == ToyBudget(minutes=4.0)


def test_a_missing_mapping_on_the_way_is_made():
    assert load_recipe(RECIPE, ["stages.base.budget.steps=9"]).stages["base"].budget == ToyBudget(steps=9)


def test_items_of_lists():
    assert load_recipe(RECIPE, ["stages.scores.models.1=base"]).stages["scores"].models == ["base", "base"]


def test_the_source_is_not_changed():
    before = copy.deepcopy(RECIPE)
    load_recipe(RECIPE, ["stages.scores.models.1=base"])
    assert before == RECIPE


@pytest.mark.parametrize(("override", "words"), [
    ("stages.bse.rate=1", "there is nothing of this name to set; did you mean `base`?"),
    ("stage.base.rate=1", "there is nothing of this name to set; did you mean `stages`?"),
    ("stages.base.ratt=1", "--set stages.base.ratt=1: stages.base.ratt: unknown key; did you mean `rate`?"),
    ("stages.base.budget.stepz=1", "stages.base.budget.stepz: unknown key; did you mean `steps`?"),
    ("stages.base.rate.x=1", "expected a number, got a mapping"),
    ("stages.corpus.parts.x=1", "the number 2 stands here, which has nothing inside to set"),
    ("stages.scores.models.7=base", "a list of 2 stands here; give an index from 0"),
    ("stages.scores.models.x=base", "a list of 2 stands here; give an index from 0"),
    ("stages.base.rate=fast", '--set stages.base.rate=fast: stages.base.rate: expected a number, got the text "fast"'),
    ("stages.new={uses: toy_corpus}", "there is nothing of this name to set"),
    ("stages.tuned.start=bas", "there is no stage `bas`; did you mean `base`?"),
])
def test_wrong_overrides_say_what_and_where(override, words):
    with pytest.raises(RecipeError) as error:
        load_recipe(RECIPE, [override])
    assert words in str(error.value)


@pytest.mark.parametrize("text", ["steps", "=5", "a..b=1", "a.=1", ""])
def test_what_is_no_override(text):
    with pytest.raises(UserError, match=r"write --set path.to.field=value"):
        parse_override(text)


def test_broken_yaml_in_a_value_names_the_override():
    with pytest.raises(UserError, match=r"--set stages.base.prompts:1: not valid YAML"):
        load_recipe(RECIPE, ["stages.base.prompts=[1, "])


scalars = st.none() | st.booleans() | st.integers(-10**9, 10**9) | st.text("abc", max_size=5)
keys = st.text("abcdef", min_size=1, max_size=4)


@given(st.dictionaries(keys, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) |
                                          st.dictionaries(keys, inner, max_size=3), max_leaves=8), min_size=1),
       st.data())
def test_setting_what_is_there_changes_that_and_nothing_else(body, data):
    document = Document({"name": "x", "stages": {"s": body}}, "r")
    path = [data.draw(st.sampled_from(sorted(body)))]
    inner = body[path[0]]
    while isinstance(inner, (dict, list)) and inner and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))))
        path.append(key)
        inner = inner[key]
    changed = apply_overrides(document, {".".join(["stages", "s", *map(str, path)]): "NEW"}).value["stages"]["s"]
    expected = copy.deepcopy(body)
    holder = expected
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = "NEW"
    assert changed == expected
