"""Laws by name, and laws of one's own in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.planning.fit import CONSTANTS, Fit, equation
from gristmill.planning.scaling_laws import LAWS, Law, Parametric, law_named


def write_law(path: Path, made: Fit) -> None:
    """Write a fitted law, with its points and intervals."""
    write_json(path, made.as_json())


def read_laws(names: Sequence[str]) -> list[Law]:
    """Each by its published name, or from a file that `write_law` made; all published ones where none is named."""
    return [law_named(name) if name in LAWS or not Path(name).is_file() else read_law(Path(name)) for name in names] \
        or list(LAWS.values())


def read_law(path: Path) -> Parametric:
    """A law of one's own; UserError where a constant is missing or no positive number."""
    value = read_json(path)
    law: Any = value.get("law") if isinstance(value, dict) else None
    if not isinstance(law, dict):
        raise UserError("this holds no law", where=str(path), fix="write it with `gristmill plan fit ... --out`")
    numbers: dict[str, Any] = {}
    for name in CONSTANTS:
        number = law.get(name)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number) or number <= 0:
            raise UserError(f"{name} must be a positive number, but it is {number!r}", where=str(path))
        numbers[name] = float(number)
    flops = law.get("fitted_flops")
    if not (isinstance(flops, list) and len(flops) == 2 and all(isinstance(f, (int, float)) and f > 0 for f in flops)):
        flops = [1.0, 1e30]
    name = str(law.get("name") or path.stem)
    return Parametric(name=name, title=f"your own ({path.name})", source=str(path), equation=equation(**numbers),
                      fitted=(min(flops), max(flops)), **numbers)
