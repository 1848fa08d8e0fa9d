"""What a run will take, said before anything is read."""

from pathlib import Path

import pytest

from gristmill.data import needs
from gristmill.data.needs import estimate
from gristmill.data.sources import Files
from gristmill.data.units import Listing

GB = 10**9


@pytest.fixture
def listing(tmp_path: Path) -> Listing:
    (tmp_path / "a.jsonl").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b.jsonl.gz").write_bytes(b"x" * 1_000_000)
    return Listing([Files(path=str(tmp_path))])


def test_the_estimate_grows_with_the_text_and_the_workers(listing: Listing) -> None:
    found = estimate(listing, units=8, workers=4, share=1.0)
    assert (found.inputs, found.stored, found.units, found.workers) == (2, 4_000_000, 8, 4)
    assert found.disk == pytest.approx(7_000_000 * needs.DISK)  # a compressed byte counts four times
    assert found.memory == needs.BASE + 4 * needs.WORKER + 7_000_000 // needs.DOCUMENT * needs.A_DOCUMENT + 100
    assert estimate(listing, units=2, workers=4, share=1.0).workers == 2
    assert estimate(listing, units=8, workers=4, share=0.5).disk == pytest.approx(found.disk / 2)
    listing.inputs = [[item for item in listing.inputs[0] for _ in range(10**4)]]
    large = estimate(listing, units=8, workers=4, share=1.0)
    assert large.memory < needs.MOST_GROUPING + 7e10 / needs.DOCUMENT * 101 + 4 * needs.WORKER + needs.BASE
    assert "2 inputs, 4 MB in 8 units" in found.line()
    assert "(4 workers)" in found.line()


def test_a_machine_that_is_too_small_is_warned_of(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = estimate(listing, units=8, workers=4, share=1.0)
    monkeypatch.setattr(needs, "available_memory", lambda: 100 * GB)
    assert found.warnings(tmp_path) == []
    monkeypatch.setattr(needs, "available_memory", lambda: GB // 2)
    [warning] = found.warnings(tmp_path)
    assert "500 MB of memory are free" in warning
    monkeypatch.setattr(needs, "available_memory", lambda: None)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda folder: type("U", (), {"free": 1000})())
    [warning] = found.warnings(tmp_path)
    assert "1 kB left" in warning


def test_the_memory_of_this_machine_is_known() -> None:
    found = needs.available_memory()
    assert found is None or found > 10**6
