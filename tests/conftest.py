"""For all tests."""

import os
import signal

from hypothesis import settings

# A shell that starts the suite in the background leaves Ctrl-C ignored, and every child process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples for everybody, so that a change is judged by itself; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
