"""Tables: every row has a source and a date, a user's rows win, and what is unknown names the known."""

from __future__ import annotations

import re

import pytest
import yaml

from gristmill.core.errors import UserError
from gristmill.planning.inputs import Cluster, Given, number
from gristmill.planning.interval import Interval
from gristmill.planning.tables import OURS, SECTIONS, from_files, user_folder

MINE = """
hardware:
  - {name: mine, title: my device, memory_gb: 48, bandwidth_gb_s: 900, watts: 300, peak_tflops: {bf16: 200},
     source: measured, date: 2026-03}
  - {name: h100-sxm, memory_gb: 80, bandwidth_gb_s: 3350, watts: 650, peak_tflops: {bf16: 900}, source: me,
     date: 2026-03}
prices:
  - {hardware: mine, usd_per_hour: 0.5, source: an offer, date: 2026-03}
grids:
  - {region: HOME, g_per_kwh: 12, source: my roof, date: 2026}
assumptions:
  - {name: pue, value: 1.05, source: our hall, date: 2026-02}
"""


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_has_a_source_and_a_date(section):
    content = yaml.safe_load((OURS / f"{section}.yaml").read_text(encoding="utf-8"))
    rows = content[section]
    assert rows
    for row in rows:
        assert row["source"] in content["sources"], row  # spelled out once, at the top of the file
        assert len(content["sources"][row["source"]]) > 10
        assert re.fullmatch(r"20[12]\d(-\d\d)?", str(row["date"])), row
    names = [row[SECTIONS[section]] for row in rows]
    assert len(set(names)) == len(names)


def test_tables_agree_with_each_other():
    tables = from_files()
    assert {run.hardware for run in tables.runs} <= set(tables.devices)
    assert set(tables.prices) <= set(tables.devices)
    for device in tables.devices.values():
        assert device.watts > 0
        assert device.memory_bytes >= 1e9
        assert all(1e12 < peak < 1e16 for peak in device.peak_flops.values()), device
    assert tables.grid("fr") == tables.grid("FRA") == tables.grid("France")
    assert tables.grid("FR").kg_per_kwh == pytest.approx(0.056)
    assert tables.grid_spread().expected == tables.grid("world").kg_per_kwh


def test_rows_of_the_user_win_and_those_of_a_file_by_hand_win_over_them(tmp_path):
    folder = user_folder()
    folder.mkdir(parents=True)
    (folder / "hardware.yaml").write_text(MINE)
    tables = from_files()
    assert tables.device("mine").peak("bf16") == 200e12
    assert (tables.device("h100-sxm").watts, tables.device("h100-sxm").source) == (650, "me")
    assert tables.prices["mine"] == Interval.of(0.5)
    assert tables.grid("HOME").kg_per_kwh == pytest.approx(0.012)
    assert tables.assumptions["pue"].value == Interval.of(1.05)
    assert tables.files == (str(folder / "hardware.yaml"),)
    by_hand = tmp_path / "more.yaml"
    by_hand.write_text("prices:\n  - {hardware: mine, usd_per_hour: 0.7, source: a better offer, date: 2026-04}\n")
    assert from_files(by_hand).prices["mine"] == Interval.of(0.7)


@pytest.mark.parametrize(("text", "said"), [
    ("hardware: [{name: x, memory_gb: 1}]", "no source and no date"),
    ("prices: [{hardware: x, usd_per_hour: 1, source: a, date: 2026}]", "'x' is not known"),
    ("prices: [{hardware: l4, usd_per_hour: {low: 2, expected: 1, high: 3}, source: a, date: 2026}]", "in this order"),
    ("grids: [{region: X, g_per_kwh: -1, source: a, date: 2026}]", "positive number"),
    ("hardware: [{name: x, memory_gb: 8, bandwidth_gb_s: 1, watts: 1, source: a, date: 2026}]", "peak_tflops"),
    ("nonsense: []", "sections"), ("- 1", "sections"), ("a: [", "no YAML"),
])
def test_broken_tables_are_refused(tmp_path, text, said):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        from_files(path)


def test_unknown_hardware_lists_the_known_and_shows_a_row_that_works(tmp_path):
    tables = from_files()
    with pytest.raises(UserError) as caught:
        tables.device("h100")
    text = str(caught.value)
    assert "did you mean h100-sxm" in text
    assert "a100-80" in text
    assert "hardware.yaml" in text
    shown = caught.value.fix[caught.value.fix.index("hardware:\n"):]  # what it shows can be pasted
    path = tmp_path / "pasted.yaml"
    path.write_text("\n".join(line.removeprefix("    ") for line in shown.splitlines()))
    assert from_files(path).device("h100").memory_bytes == 80e9


def test_unknown_regions_list_the_known():
    with pytest.raises(UserError) as caught:
        from_files().grid("Atlantis")
    assert "FR (France)" in str(caught.value)
    assert "--grid-g-per-kwh" in str(caught.value)


def test_a_precision_without_a_peak_is_refused():
    tables = from_files()
    assert tables.device("v100").peak("bf16") == 125e12  # fp16 is what it has
    with pytest.raises(UserError, match="no peak for fp8"):
        tables.device("a100-80").peak("fp8")


@pytest.mark.parametrize(("text", "value"), [("15T", 15e12), ("2e9", 2e9), ("300B", 300e9), ("1_000", 1000),
                                             ("1.5k", 1500), (7, 7)])
def test_numbers(text, value):
    assert number(text, "here") == value


@pytest.mark.parametrize("text", ["-5", "0", "many", "", "1e999", "nan", True, None, "5 apples"])
def test_what_is_no_positive_number(text):
    with pytest.raises(UserError, match="no positive number"):
        number(text, "--tokens")


@pytest.mark.parametrize("text", ["h100-sxm:0", "h100-sxm:-2", "h100-sxm:many", "h100-sxm:1.5"])
def test_devices_are_counted_from_one(text):
    with pytest.raises(UserError, match="devices"):
        Cluster.parse(text, from_files())


def test_given_numbers():
    found = Given.from_plain({"pue": {"low": 1, "expected": 1.1, "high": 1.2}, "host_share": 0}, "here")
    assert (found.pue, found.host_share) == (Interval(1, 1.1, 1.2), Interval.of(0))
    for wrong, said in (({"pu": 1}, "cannot be given"), ({"pue": {"low": 1}}, "low, expected and high"),
                        ({"pue": {"low": 2, "expected": 1, "high": 3}}, "does not hold"), ({"pue": -1}, "positive")):
        with pytest.raises(UserError, match=said):
            Given.from_plain(wrong, "here")


def test_intervals_take_the_worst_corner():
    one, two = Interval(1, 2, 4), Interval(2, 3, 5)
    assert one * two == Interval(2, 6, 20)
    assert one + 1 == Interval(2, 3, 5)
    assert one / two == Interval(1 / 5, 2 / 3, 2)
    assert 8 / one == Interval(2, 4, 8)
    for wrong in ((2, 1, 3), (-1, 0, 1), (0, 1, float("inf"))):
        with pytest.raises(ValueError):
            Interval(*wrong)
