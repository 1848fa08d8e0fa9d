"""The JSON Schema of recipes: editors complete and check recipes with it while one types."""

from __future__ import annotations

from typing import Any

from gristmill.core.errors import GristmillError
from gristmill.recipe.references import NAME
from gristmill.recipe.registry import STAGES, stage_class
from gristmill.recipe.schema import adapter


def recipe_schema(skipped: dict[str, str] | None = None) -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe. skipped: filled with the kinds that cannot be loaded here, and why."""
    kinds: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for kind in STAGES:
        try:
            schema = adapter(stage_class(kind)).json_schema(ref_template=f"#/$defs/{kind}.{{model}}")
        except GristmillError as error:
            if skipped is not None:
                skipped[kind] = error.what
            continue
        for name, definition in schema.pop("$defs", {}).items():
            definitions[f"{kind}.{name}"] = _tidy(definition)
        schema = _tidy(schema)
        schema["properties"] = {"uses": {"const": kind, "description": schema.get("description", "")},
                                **schema.get("properties", {})}
        schema["required"] = ["uses", *schema.get("required", [])]
        definitions[kind] = kinds[kind] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Gristmill recipe",
        "description": "The whole life of a model: named stages; a stage names the artifacts that it needs.",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "stages"],
        "properties": {
            "name": {"type": "string", "pattern": f"^{NAME}$", "description": "Name of the run and of its folder."},
            "seed": {"type": "integer", "minimum": 0, "default": 0,
                     "description": "Every random choice of every stage is derived from it."},
            "description": {"type": "string", "description": "What the recipe is for, for people."},
            "stages": {
                "type": "object", "minProperties": 1, "propertyNames": {"pattern": f"^{NAME}$"},
                "description": "Stage name -> what it does. The order of running follows from the references.",
                "additionalProperties": {"$ref": "#/$defs/stage"},
            },
        },
        "$defs": {
            "stage": {
                "type": "object", "required": ["uses"],
                "properties": {"uses": {"enum": list(kinds), "description": "The kind of stage."}},
                "discriminator": {"propertyName": "uses", "mapping": {k: f"#/$defs/{k}" for k in kinds}},
                "oneOf": [{"$ref": f"#/$defs/{k}"} for k in kinds],
            },
            **definitions,
        },
    }


def _tidy(schema: Any) -> Any:
    """Without pydantic's machine-made titles of fields, which hide the descriptions in editors."""
    if isinstance(schema, dict):
        return {key: ({name: _tidy({k: v for k, v in sub.items() if k != "title"} if isinstance(sub, dict) else sub)
                       for name, sub in value.items()} if key == "properties" and isinstance(value, dict)
                      else _tidy(value)) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    return schema
