"""Any method: the union of their config classes, told apart by `kind`."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from gristmill.data.augment.counterfactual import Counterfactual
from gristmill.data.augment.edits import Edits
from gristmill.data.augment.rewriting import BackTranslation, Paraphrase, Variations
from gristmill.data.augment.synonyms import Synonyms

AnyMethod = Annotated[Edits | Synonyms | Counterfactual | Paraphrase | BackTranslation | Variations,
                      Field(discriminator="kind")]
"""A method; `kind` says which."""


@cache
def _adapter() -> TypeAdapter[AnyMethod]:
    return TypeAdapter(AnyMethod)


def method_from_plain(value: dict[str, Any]) -> AnyMethod:
    """The method that these plain values describe; pydantic's ValidationError where they do not."""
    return _adapter().validate_python(value)
