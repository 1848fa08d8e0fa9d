"""A real torchrun whose processes end in several ways."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import HANG

ENDING = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    {deed}
time.sleep({rest})
"""


@pytest.mark.parametrize(("deed", "rest", "code"), [
    ("sys.exit(2)", 600, 2), ("os.kill(os.getpid(), signal.SIGKILL)", 600, 128 + signal.SIGKILL), ("pass", 0, 0)])
def test_the_exit_code_of_the_process_that_failed_stays(tmp_path, deed, rest, code):
    (tmp_path / "ending.py").write_text(ENDING.format(deed=deed, rest=rest))
    done = subprocess.run(
        [sys.executable, "-m", "gristmill.pipeline.launch.nanny", "--standalone", "--nproc-per-node=2",
         tmp_path / "ending.py"], capture_output=True, text=True, timeout=HANG,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"})
    assert done.returncode == code, done.stderr
