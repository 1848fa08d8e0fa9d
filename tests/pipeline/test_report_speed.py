"""The panels of speed and power: there where it was measured, and estimates never shown as measurements."""

from __future__ import annotations

import json

import pytest

from gristmill.pipeline.report.run import Stage
from gristmill.pipeline.report.speed_panels import energy, measured_watts, speed_facts, speed_panels


def stage(folder, meters=None):
    (folder / "telemetry").mkdir()
    if meters is not None:
        (folder / "telemetry" / "meters.json").write_text(json.dumps(meters))
    return Stage("base", "pretrain", "done", path=folder)


def test_measured(tmp_path):
    speed = [{"step": s, "mfu": 0.4, "data_wait": 0.01, "watts": 500.0, "joules": 7.2e6, "watts_estimated": 1.0}
             for s in range(1, 4)]
    meters = {"peak": {"flops": 989e12, "kind": "table"}, "power": "nvml"}
    utilisation, waiting, watts = speed_panels(stage(tmp_path, meters), speed)
    assert (utilisation.title, utilisation.note) == ("Utilisation, %", "share of 989 TFLOP/s, by the data sheet")
    assert waiting.title == "Waiting for data, %"
    assert (watts.title, watts.note) == ("Watts", "measured (nvml)")
    assert speed_facts(speed) == [("utilisation (MFU)", "40 %"), ("energy of its steps, measured", "6 kWh")]


def test_estimated_is_said(tmp_path):
    speed = [{"step": s, "mfu": 0.31, "data_wait": 0.01, "watts_estimated": 8.0, "joules_estimated": 3600.0}
             for s in range(1, 4)]
    panels = speed_panels(stage(tmp_path, {"peak": {"flops": 7.91e11, "kind": "measured"}}), speed)
    assert panels[0].note == "share of 0.791 TFLOP/s, measured here"
    assert panels[2].note == "estimated, not measured"
    assert speed_facts(speed)[1] == ("energy of its steps, estimated", "3 Wh")


def test_an_older_run_has_what_it_had(tmp_path):
    speed = [{"step": 1, "data_wait": 0.1, "seconds": 1.0}]
    assert [panel and panel.title for panel in speed_panels(stage(tmp_path), speed)] == [
        None, "Waiting for data, %", None]
    assert speed_panels(stage_without(tmp_path), []) == [None, None, None]
    assert speed_facts([]) == []


def test_stages_of_a_pipeline_beside_their_schedule(tmp_path):
    speed = [{"step": s, "data_wait": 0.01, "pipeline_bubble": 0.2, "pipeline_idle": 0.3,
              **{f"pipeline_idle_{place}": 0.02 * place for place in range(12)}} for s in (2, 3)]
    *others, waiting = speed_panels(stage(tmp_path), [{"step": 1, "data_wait": 0.2}, *speed])
    assert len(others) == 3
    assert waiting.title == "Waiting for other stages, %"
    assert [(series.name, series.y) for series in waiting.legend] == [
        (f"stage {place}", pytest.approx([2 * place] * 2)) for place in range(12)]
    assert [placed.level.name for placed in waiting.levels] == ["by the schedule 20 %"]
    assert speed_facts(speed) == [("stages waited", "30 % of an update, by the schedule 20 %")]


def stage_without(folder):
    return Stage("base", "pretrain", "done", path=folder)


def test_power_is_weighted_by_time():
    speed = [{"joules": 100.0, "seconds": 1.0}, {"joules": 900.0, "seconds": 3.0}, {"seconds": 9.0},
             {"joules_estimated": 5.0, "seconds": 9.0}]
    assert measured_watts(speed) == pytest.approx(250.0)
    assert measured_watts(speed[2:]) is None


@pytest.mark.parametrize(("joules", "said"), [(3600, "1 Wh"), (3.6e6, "1 kWh"), (4.5e6, "1.25 kWh"), (0, "0 Wh")])
def test_energy(joules, said):
    assert energy(joules) == said


def test_the_costs_of_a_run_use_what_was_measured(tmp_path):
    from gristmill.pipeline.report.account import _cost

    folder = stage(tmp_path).path
    (folder / "telemetry" / "speed.jsonl").write_text('{"step": 1, "seconds": 2.0, "joules": 1000.0}\n')
    row = _cost(Stage("base", "pretrain", "done", path=folder, record={"seconds": 36.0}))
    assert row["measured"]
    assert row["watt_hours"] == pytest.approx(500 * 36 / 3600)
