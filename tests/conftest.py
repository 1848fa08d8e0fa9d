"""For all tests."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.shared import as_started

# A shell that starts the suite in the background leaves Ctrl-C ignored, and every child process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Whether the disk really has what was written is nothing that a test could see; to wait for it is what slow disks cost.
os.fsync = lambda descriptor: None

# The same examples for everybody, so that a change is judged by itself; HYPOTHESIS_PROFILE=search looks for new ones.
# Neither looks at the clock: how long an example takes says more about the computer than about the code.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", derandomize=True, **UNTIMED)
settings.register_profile("search", derandomize=False, **UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def next_one_begins_afresh():
    yield
    as_started()
