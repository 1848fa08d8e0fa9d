"""Where real data for tests lies: outside the project, never copied into it; tests skip with a reason without it."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("GRISTMILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
