"""Histograms of signals count every document once and show every threshold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.decide import Filter
from gristmill.data.histograms import _edges
from gristmill.data.rules import Rule
from gristmill.data.split import Split
from gristmill.pipeline.report.signal_panels import signal_panels
from tests.data.test_stage import data, run, text


def test_every_document_is_counted_as_kept_or_dropped(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for seed in range(12):
        (texts / f"{seed:02}.txt").write_text(text(seed, 30 if seed < 4 else 200))
    run(tmp_path / "out", data(texts, filter=Filter(preset="gopher"), split=Split(valid=0, test=0)))
    signals = json.loads((tmp_path / "out/signals.json").read_text())
    gone = len(pq.read_table(tmp_path / "out/rejects/rejects-00000.parquet"))
    for name, entry in signals.items():
        assert len(entry["kept"]) == len(entry["dropped"]) == len(entry["edges"]) - 1, name
        assert (sum(entry["kept"]), sum(entry["dropped"])) == (12 - gone, gone), name
    words = signals["length_v1.words"]
    assert {"rule": "min_words", "low": 50, "high": None} in words["rules"]
    below = sum(n for n, edge in zip(words["dropped"], words["edges"][1:], strict=True) if edge <= 50)
    assert below <= gone == 4
    assert "code_symbols_v1.encoded" not in signals, "no program was measured"


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=40), st.floats(0, 1e6))
def test_edges_rise_and_hold_the_threshold(values: list[float], bound: float) -> None:
    edges = _edges(np.array(values), [Rule("r", "s", high=bound)])
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= bound * (1 + 1e-9)
    assert edges[-1] >= bound * (1 - 1e-9)


def test_a_threshold_is_drawn_where_its_value_lies() -> None:
    rules = [{"rule": "r", "low": 55, "high": None}]
    panels = signal_panels({
        "a": {"edges": [0, 10, 100], "kept": [3, 96], "dropped": [1, 0], "rules": rules},
        "b": {"edges": [0, 1], "kept": [5], "dropped": [0], "rules": []}, "broken": {"edges": [0, 1], "kept": []}})
    (panel,), (other,) = panels["judged"], panels["others"]
    assert panel.thresholds == [(180.0, "r: at least 55")]
    assert [block.dropped for block in panel.blocks] == [1.0, 0.0], "one document among a hundred can be seen"
    assert panel.blocks[1].kept == pytest.approx(64)
    assert (other.name, other.low, other.high) == ("b", "0", "1")
