"""Recipe: the typed description of a model's whole life.

In: a YAML file, a mapping or Python objects, and `--set` overrides. Out: a `Recipe` of checked stage configs with
the order in which they run, or a `RecipeError` that lists every problem with its line; the JSON Schema for editors.
Stage classes are found through `registry.STAGES` and imported when a recipe uses them. An entry room: it may import
every room; pipeline and cli build on it.
"""

from __future__ import annotations

from gristmill.recipe.errors import Problem, RecipeError
from gristmill.recipe.json_schema import recipe_schema
from gristmill.recipe.registry import STAGES, register, stage_class
from gristmill.recipe.schema import Recipe, check_recipe, load_recipe

__all__ = [
    "STAGES", "Problem", "Recipe", "RecipeError", "check_recipe", "load_recipe", "recipe_schema", "register",
    "stage_class",
]
