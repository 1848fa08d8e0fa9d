"""What an advice may compute on: the machine at hand, or devices that money rents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gristmill.planning.cost import Rates, account
from gristmill.planning.goal import Goal
from gristmill.planning.inputs import Cluster, Given, Used
from gristmill.planning.interval import Interval
from gristmill.planning.scaling_plan import hours_as_flops, money_as_hours
from gristmill.planning.tables import Tables
from gristmill.planning.train import Request, plan_training

LOCAL_FLOPS = Interval(0.05e12, 0.2e12, 1e12)
"""FLOPs a second in training of a machine without an accelerator that nobody measured: a wide guess, said to be one."""
MOST_DEVICES = 1024


@dataclass(frozen=True)
class Machine:
    """Where it runs."""

    title: str
    memory_bytes: float
    count: int
    flops: Interval
    """FLOPs that the budget or the deadline, whichever is less, buys in all, trials included."""
    cluster: Cluster | None
    """None: the machine at hand."""
    threads: int
    used: tuple[Used, ...]

    def cost(self, flops: float, parameters: float, tables: Tables, region: str | None) -> dict[str, Any]:
        """{"time_s", "device_hours", "cost_usd", "energy_kwh", "co2e_kg"} of so many FLOPs; None for no price."""
        if self.cluster is not None:
            plan = plan_training(Request(
                name="advice", parameters=parameters, tokens=max(1.0, flops / 6 / parameters), cluster=self.cluster,
                region=region, given=Given(flops=Interval.of(flops))), tables)
            found = {"time_s": plan.time_s.as_json(), **plan.run.as_json()}
        else:
            seconds = flops / LOCAL_FLOPS
            watts = tables.assumptions["cpu_watts_per_thread"].value * self.threads
            grid = tables.grid_spread() if region is None else Interval.of(tables.grid(region).kg_per_kwh)
            spent = account(seconds / 3600, Rates(
                watts=watts, host_share=Interval.of(0), pue=Interval.of(1), kg_per_kwh=grid,
                usd_per_hour=Interval.of(0)))
            found = {"time_s": seconds.as_json(), **spent.as_json()}
        return {name: found[name] for name in ("time_s", "device_hours", "cost_usd", "energy_kwh", "co2e_kg")}


def machine_for(goal: Goal, tables: Tables, *, hardware: str, memory_bytes: float, threads: int) -> Machine:
    """Rented devices where there is money, as many as end in time; else the machine at hand."""
    if goal.budget_usd <= 0:
        flops = LOCAL_FLOPS * (goal.days * 86_400)
        guess = "a guess for a machine without an accelerator; `gristmill plan train --calibrate` measures yours"
        used: tuple[Used, ...] = (Used("flops_per_second", LOCAL_FLOPS, "FLOPs a second", guess),)
        return Machine("the machine at hand", memory_bytes, 1, flops, None, threads, used)
    device = tables.device(hardware.partition(":")[0].strip().lower())
    hours, bought = money_as_hours(goal.budget_usd, device, tables)
    count = min(max(1, math.ceil(hours.expected / (goal.days * 24))), MOST_DEVICES)
    room = count * goal.days * 24
    hours = Interval(min(hours.low, room), min(hours.expected, room), min(hours.high, room))
    flops, used = hours_as_flops(hours, device, tables, precision="bf16")
    return Machine(f"{count} x {device.title}", device.memory_bytes, count, flops, Cluster(device, count), threads,
                   (*bought, *used))
