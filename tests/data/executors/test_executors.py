"""Jobs in worker processes and on Ray: results, errors, deaths."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill.core.errors import InternalError, MachineError, UserError
from gristmill.core.stage import Runtime
from gristmill.data.executors import run_tasks
from gristmill.data.executors.job import described, raised

JOB = "json:dumps"


def test_results_come_with_their_tasks() -> None:
    for workers in (1, 3):
        found = {}
        run_tasks(JOB, [{"obj": i} for i in range(7)], Runtime(workers=workers),
                  lambda task, result: found.update({task["obj"]: result}))  # noqa: B023
        assert found == {i: str(i) for i in range(7)}


def test_no_tasks_are_done_at_once() -> None:
    run_tasks(JOB, [], Runtime(workers=2), lambda *_: None)


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_workers_arrive(workers: int) -> None:
    with pytest.raises((InternalError, TypeError), match="missing 1 required"):
        run_tasks(JOB, [{"obx": 1}, {"obx": 2}], Runtime(workers=workers), lambda *_: None)


def test_a_worker_that_dies_is_named() -> None:
    with pytest.raises(MachineError, match="worker process died"):
        run_tasks("os:abort", [{}, {}], Runtime(workers=2), lambda *_: None)


def test_an_error_keeps_its_class_and_advice() -> None:
    error = raised(described(UserError("too short", where="x", fix="make it longer")))
    assert (type(error), error.what, error.where, error.fix) == (UserError, "too short", "x", "make it longer")


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(UserError, match="no executor 'spark'"):
        run_tasks(JOB, [{"obj": 1}], Runtime(executor="spark"), lambda *_: None)


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MachineError, match=r"gristmill\[ray\]"):
        run_tasks(JOB, [{"obj": 1}], Runtime(executor="ray"), lambda *_: None)


@pytest.mark.verify
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install gristmill[ray])")
def test_ray_writes_the_same_corpus_byte_for_byte(tmp_path: Path) -> None:
    """A real local Ray, in a process of its own, against worker processes."""
    script = """
import sys
from pathlib import Path
from gristmill.core.hashing import digest_folder
from gristmill.core.stage import Runtime, StageContext
from gristmill.data import units
from gristmill.data.decide import Filter
from gristmill.data.sources import Files
from gristmill.data.stage import Data

units.UNIT_BYTES = 3000
for executor in ("local", "ray"):
    work = Path(sys.argv[1], executor)
    work.mkdir()
    runtime = Runtime(workers=2, executor=executor)
    context = StageContext(name="t/corpus@1", seed=1, work=work, cache=work, runtime=runtime)
    Data(sources=[Files(path=sys.argv[2])], languages="none", filter=Filter(preset="none")).run(context)
    print(digest_folder(work))
"""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(12):
        words = [f"{word}{number}" if i % 3 else word for i, word in enumerate(["the", "of", "and", "with"] * 40)]
        (texts / f"{number:02}.txt").write_text(" ".join(words))
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(texts)], capture_output=True, text=True,
                          check=True)
    local, on_ray = done.stdout.split()
    assert local == on_ray
