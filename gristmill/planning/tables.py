"""The tables behind a plan: devices, prices, grids, published runs, assumptions. Data files, with sources and dates.

Ours lie in `tables/*.yaml`. Rows of the same name in `hardware.yaml`, `prices.yaml`, `grids.yaml` or `assumptions.yaml`
of the user's configuration folder replace or add to them, and those of a file given by hand come last.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from gristmill.core.errors import UserError
from gristmill.planning.interval import Interval

OURS = Path(__file__).parent / "tables"
SECTIONS = {"hardware": "name", "prices": "hardware", "grids": "region", "runs": "name", "assumptions": "name"}
"""Section of a table file -> the field that names its rows."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, or one host without any."""

    name: str
    title: str
    kind: str
    memory_bytes: float
    bandwidth: float
    """Bytes a second between its memory and its processors."""
    watts: float
    """Power limit."""
    peak_flops: Mapping[str, float]
    """Dense FLOPs a second by precision."""
    per_host: int = 1
    link: float = math.inf
    """Bytes a second, one direction, to devices of the same host."""
    network: float = math.inf
    """Bytes a second, one direction, to devices of other hosts."""
    embodied_kg: float | None = None
    mfu: Interval | None = None
    """Share of the peak that was measured here; None: nobody measured."""
    reported: tuple[str, ...] = ()
    """What its driver calls it, exactly: so a running training recognises it."""
    source: str
    date: str

    def peak(self, precision: str) -> float:
        """Dense FLOPs a second; bf16 falls back to fp16, whose rate is the same where both exist."""
        for name in (precision, "fp16" if precision == "bf16" else precision):
            if name in self.peak_flops:
                return self.peak_flops[name]
        raise UserError(f"{self.name} has no peak for {precision}", where="hardware",
                        fix=f"it has {', '.join(self.peak_flops)}; or add peak_tflops.{precision} to its row")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Electricity of a region: kg CO2e a kWh."""

    region: str
    code: str
    name: str
    kg_per_kwh: float
    source: str
    date: str


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """What somebody reported of a run."""

    name: str
    parameters: float
    hardware: str
    source: str
    date: str
    tokens: float | None = None
    device_hours: float | None = None
    kwh: float | None = None
    co2e_kg: float | None = None
    mfu: float | None = None

    @property
    def flops(self) -> float | None:
        """6 a parameter and token."""
        return None if self.tokens is None else 6 * self.parameters * self.tokens


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """A number that a plan takes where nobody measured."""

    name: str
    value: Interval
    unit: str
    source: str
    date: str


@dataclass(frozen=True)
class Tables:
    """All of them; `from_files` reads them."""

    devices: Mapping[str, Device]
    prices: Mapping[str, Interval]
    """Device -> US dollars an hour."""
    price_sources: Mapping[str, str]
    grids: Mapping[str, Grid]
    runs: tuple[PublishedRun, ...]
    assumptions: Mapping[str, Assumption]
    files: tuple[str, ...] = field(default=())

    def device(self, name: str) -> Device:
        """By name; UserError lists what there is and shows how to add one."""
        if name in self.devices:
            return self.devices[name]
        file = user_folder() / "hardware.yaml"
        unknown("hardware", name, self.devices, f"""add it to {file} (or --hardware-file FILE):
    hardware:
      - {{name: {name}, title: what it is, kind: gpu, memory_gb: 80, bandwidth_gb_s: 2000, watts: 400,
         peak_tflops: {{bf16: 300}}, per_host: 8, link_gb_s: 300, network_gb_s: 25, source: data sheet, date: 2026-01}}
    prices:
      - {{hardware: {name}, usd_per_hour: {{low: 1, expected: 2, high: 3}}, source: your offer, date: 2026-01}}""")

    def grid(self, name: str) -> Grid:
        """By code of two or three letters, or by name."""
        wanted = name.strip().casefold()
        for grid in self.grids.values():
            if wanted in (grid.region.casefold(), grid.code.casefold(), grid.name.casefold()):
                return grid
        names = [f"{g.code} ({g.name})" for g in self.grids.values()]
        unknown("region", name, names, f"say --grid-g-per-kwh NUMBER, or add it to {user_folder() / 'grids.yaml'}:\n"
                f"    grids:\n      - {{region: {name}, code: {name}, name: {name}, g_per_kwh: 400, source: who, "
                "date: 2026}")

    def mfu(self) -> Interval:
        """The 10th, 50th and 90th percentile of what published runs reached."""
        values = sorted(run.mfu for run in self.runs if run.mfu is not None)
        return Interval(_percentile(values, 0.1), _percentile(values, 0.5), _percentile(values, 0.9))

    def grid_spread(self) -> Interval:
        """kg CO2e a kWh where no region is named: the world's, between the 10th and 90th percentile of regions."""
        values = sorted(grid.kg_per_kwh for grid in self.grids.values())
        return Interval(_percentile(values, 0.1), self.grids["WORLD"].kg_per_kwh, _percentile(values, 0.9))


def from_files(*files: Path) -> Tables:
    """Ours, then those of the user's folder, then `files`, whose rows win."""
    rows: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    read = [OURS / f"{section}.yaml" for section in SECTIONS]
    read += [path for section in SECTIONS if (path := user_folder() / f"{section}.yaml").is_file()]
    for path in (*read, *files):
        for section, found in _read(path).items():
            rows[section] |= found
    prices = {name: Interval.of(_interval(row, "usd_per_hour")) for name, row in rows["prices"].items()}
    devices = {name: _device(row) for name, row in rows["hardware"].items()}
    for name in prices:
        if name not in devices:
            unknown("hardware", name, devices, "give its row under hardware as well")
    return Tables(
        devices, prices, {name: f"{row['source']}, {row['date']}" for name, row in rows["prices"].items()},
        {name: Grid(region=name, code=str(row.get("code", name)), name=str(row.get("name", name)),
                    kg_per_kwh=_number(row, "g_per_kwh") / 1000, source=row["source"], date=row["date"])
         for name, row in rows["grids"].items()},
        tuple(_run(row) for row in rows["runs"].values()),
        {name: Assumption(name=name, value=_interval(row, "value"), unit=str(row.get("unit", "")), source=row["source"],
                          date=row["date"]) for name, row in rows["assumptions"].items()},
        tuple(str(path) for path in read[len(SECTIONS):]) + tuple(map(str, files)),
    )


def user_folder() -> Path:
    """Where a user's own rows lie: `gristmill/` under XDG_CONFIG_HOME, else under ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gristmill"


def unknown(what: str, name: str, known: Iterable[str], add: str) -> NoReturn:
    """A UserError that names the nearest, lists what is known and shows how to add one."""
    names = list(known)
    begun = [n for n in names if name and n.lower().startswith(name.lower())]
    near = begun or difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"the {what} {name!r} is not known{hint}; known: {', '.join(names)}", where=what, fix=add)


# -- reading ---------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("this file cannot be read", where=str(path), fix="check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"this is no YAML ({str(error).splitlines()[0]})", where=str(path)) from error
    if not isinstance(content, dict) or not set(content) <= {*SECTIONS, "sources"}:
        raise UserError(f"a table file has the sections {', '.join(SECTIONS)} and sources", where=str(path))
    sources = content.get("sources") or {}
    found: dict[str, dict[str, Any]] = {}
    for section, key in SECTIONS.items():
        for number, row in enumerate(content.get(section) or []):
            where = f"{path}: {section}, row {number + 1}"
            if not isinstance(row, dict) or not row.get(key):
                raise UserError(f"every row is a mapping with {key}", where=where)
            missing = [name for name in ("source", "date") if not row.get(name)]
            if missing:
                raise UserError(f"this row has no {' and no '.join(missing)}", where=where,
                                fix="say where the numbers come from, and of when they are")
            row = {**row, "source": str(sources.get(row["source"], row["source"])), "date": str(row["date"]),
                   "where": where}
            found.setdefault(section, {})[str(row[key])] = row
    return found


def _number(row: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = row.get(name, default)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or number <= 0:
        raise UserError(f"{name} must be a positive number, but it is {value!r}", where=row["where"])
    return number


def _interval(row: Mapping[str, Any], name: str) -> Interval:
    value = row.get(name)
    try:
        return Interval.of(value if isinstance(value, dict) else float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{name} must be a number, or {{low: ..., expected: ..., high: ...}} in this order",
                        where=row["where"]) from error


def _device(row: Mapping[str, Any]) -> Device:
    peaks = row.get("peak_tflops")
    if not isinstance(peaks, dict) or not peaks:
        raise UserError("peak_tflops must be a mapping such as {bf16: 300}", where=row["where"])
    gb = 1e9
    return Device(
        name=str(row["name"]), title=str(row.get("title", row["name"])), kind=str(row.get("kind", "gpu")),
        memory_bytes=_number(row, "memory_gb") * gb, bandwidth=_number(row, "bandwidth_gb_s") * gb,
        watts=_number(row, "watts"),
        peak_flops={str(name): _number({**row, **peaks}, name) * 1e12 for name in peaks},
        per_host=int(_number(row, "per_host", 1)),
        link=_number(row, "link_gb_s", 32) * gb, network=_number(row, "network_gb_s", 1.25) * gb,
        embodied_kg=_number(row, "embodied_kg") if "embodied_kg" in row else None,
        mfu=_interval(row, "mfu") if "mfu" in row else None,
        reported=tuple(str(name) for name in row.get("reported") or ()), source=row["source"], date=row["date"])


def _run(row: Mapping[str, Any]) -> PublishedRun:
    optional = {name: _number(row, name) for name in ("tokens", "device_hours", "kwh", "co2e_kg", "mfu") if name in row}
    return PublishedRun(name=str(row["name"]), parameters=_number(row, "parameters"), hardware=str(row["hardware"]),
                        source=row["source"], date=row["date"], **optional)


def _percentile(values: list[float], share: float) -> float:
    """Linear between the two neighbours; values sorted."""
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)
