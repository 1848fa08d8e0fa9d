"""Families: a public architecture as presets, a config in both directions, and a map of weight names.

In: the content of a public `config.json`. Out: our config, and the same content again.
A new family is one file here and one line in `FAMILIES`. May call: core, models.config.
"""

from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.llama import LLAMA

FAMILIES: dict[str, Family] = {"llama": LLAMA}
"""Name of a family -> what it is; the names are those of `model_type` in public configs."""

__all__ = ["FAMILIES", "Family", "WeightName"]
