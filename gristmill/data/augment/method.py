"""What every method has in common: which documents it takes, how often, and what a made text is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from gristmill.core.config import require
from gristmill.core.seeds import derive_seed, fraction
from gristmill.data.normalise import is_code
from gristmill.data.rules import UNSPACED

NAME = re.compile(r"[a-z0-9_]{1,40}\Z")
MADE = "augmented"
"""The key of a made document's metadata that says how it was made."""


@dataclass(frozen=True, slots=True)
class Original:
    """A document that texts are made from."""

    id: str
    text: str
    language: str = "und"
    made: bool = False
    """It was made itself, by an earlier stage."""


@dataclass(slots=True)
class Made:
    """A text that a method made of an original, or why there is none."""

    of: str
    copy: int
    text: str
    reason: str = ""
    """Why it goes; empty for one that stays."""
    detail: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    """What its metadata say besides method, version, of and seed: the model, the digest of the prompt."""


class Method(Protocol):
    """A config class of a method."""

    kind: str
    name: str
    share: float
    copies: int
    languages: list[str]

    @property
    def version(self) -> int:
        """Raised when the same config makes other texts than before."""


def check_method(method: Any) -> None:
    """The checks that all methods share; for `__post_init__`."""
    require(not method.name or bool(NAME.match(method.name)), "name", "is made of a-z, 0-9 and _, at most 40")
    require(0 < method.share <= 1, "share", "must be above 0 and at most 1")
    require(1 <= method.copies <= 100, "copies", "must be from 1 to 100")


def method_names(methods: Iterable[Any]) -> list[str]:
    """The name of each method: as given, or its kind. ValueError for two of one name."""
    names: list[str] = []
    for method in methods:
        name = method.name or method.kind
        require(name not in names, "methods", f"two methods are called {name!r}: give one of them another `name`")
        names.append(name)
    return names


def made_id(original: str, name: str, copy: int) -> str:
    """The id of a made document; copies count from 1."""
    return f"{original}#{name}-{copy}"


def seed_of(seed: int, name: str, original: str, copy: int) -> int:
    """The seed of one made text: it depends on nothing else."""
    return derive_seed(seed, "augment", name, original, copy)


def takes(method: Any, name: str, original: Original, seed: int) -> bool:
    """Does this method make texts of this document? Never of code, never of what was made itself."""
    if original.made or is_code(original.language):
        return False
    if method.languages and original.language not in method.languages:
        return False
    if method.kind in ("edits", "synonyms") and original.language in UNSPACED:  # no words to be told apart
        return False
    return method.share >= 1 or fraction(seed, "augment", "share", name, original.id) < method.share


def metadata_of(made: Made, method: Any, name: str, seed: int) -> dict[str, Any]:
    """What the metadata of a made document say under `augmented`."""
    return {"method": name, "kind": method.kind, "version": method.version, "of": made.of, "copy": made.copy,
            "seed": seed_of(seed, name, made.of, made.copy), **made.about}
