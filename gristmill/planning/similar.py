"""Published runs of about the same size, for comparison."""

from __future__ import annotations

import math
from typing import Any

from gristmill.planning.tables import PublishedRun, Tables


def similar_runs(parameters: float, tokens: float, tables: Tables, most: int = 3) -> list[dict[str, Any]]:
    """The published runs nearest in compute, with what they reported."""
    wanted = math.log(6 * parameters * tokens)

    def distance(run: PublishedRun) -> float:
        return abs(math.log(run.flops or 1.0) - wanted)

    known = sorted((run for run in tables.runs if run.flops is not None), key=distance)
    return [{"name": run.name, "parameters": run.parameters, "tokens": run.tokens, "hardware": run.hardware,
             "device_hours": run.device_hours, "energy_kwh": run.kwh, "co2e_kg": run.co2e_kg, "mfu": run.mfu,
             "compute": (run.flops or 0.0) / math.exp(wanted), "source": run.source, "date": run.date}
            for run in known[:most]]
