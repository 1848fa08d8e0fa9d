"""Families: a public architecture as presets, a config in both directions, and a map of weight names.

In: the content of a public `config.json`. Out: our config, and the same content again.
A new family is one file here and one line in `FAMILIES`. May call: core, models.config, the bodies.
"""

from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.llama import LLAMA

FAMILIES: dict[str, Family] = {family.name: family for family in (
    LLAMA,
)}
"""Name of a family, as recipes call it -> what it is."""

__all__ = ["FAMILIES", "Family", "WeightName"]
