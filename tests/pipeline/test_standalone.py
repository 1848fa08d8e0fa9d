"""One stage into a folder of the user's."""

import pytest
import toy_stages

from gristmill.core.errors import InternalError, UserError
from gristmill.pipeline.runner import run
from gristmill.pipeline.standalone import run_alone


def test_a_stage_alone_leaves_its_payload_or_nothing(runs, tmp_path):
    base = run(toy_stages.RECIPE, runs_dir=runs, report=False, until="base")["base"]
    out = tmp_path / "out"
    out.mkdir()
    metrics = run_alone(toy_stages.ToyModel(start="toy/base"), {"toy/base": base}, out)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "trace.jsonl"]
    assert set(metrics) == {"loss"}
    with pytest.raises(UserError, match="already exists and would be overwritten"):
        run_alone(toy_stages.ToyModel(), {}, out)
    with pytest.raises(InternalError):
        run_alone(toy_stages.ToyModel(mode="fail"), {}, tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "runs"]
