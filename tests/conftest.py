"""For all tests."""

import signal

# A shell that starts the suite in the background leaves Ctrl-C ignored, and every child process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
