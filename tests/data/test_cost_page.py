"""docs/data/cost.md says what benchmarks/data_size.py measured."""

import runpy
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "data" / "cost.md").read_text("utf-8")


def drawing() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "draw_data_size.py"))


def test_the_picture_and_the_tables_are_those_of_the_stored_result() -> None:
    functions = drawing()
    assert (DOCS / "images" / "data-size.svg").read_text("utf-8") == functions["picture"](), (
        "run python docs/draw_data_size.py")
    for part in ("table", "estimate"):
        assert functions[part]() in PAGE, "put in what python docs/draw_data_size.py prints"


def test_time_is_linear_and_memory_flat_in_what_was_measured() -> None:
    rows = drawing()["result"]()["rows"]
    assert rows[0]["megabytes"] <= 100
    assert rows[-1]["megabytes"] >= 2000
    costs = [row["cpu_seconds_per_gb"] for row in rows]
    assert max(costs) < 1.35 * min(costs)
    assert rows[-1]["worker_mb"] < 1.1 * rows[0]["worker_mb"]
