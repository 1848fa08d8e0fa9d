"""Stub commands that write down how they were called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shared import HANG

sys.path.insert(0, str(Path(__file__).parent))

RECORD = r'''#!{python} -SE
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open(os.environ["STUB"] + "/term", "a").write("x"), time.sleep(0.3),
                                          os._exit(143)))
with open(os.environ["STUB"] + "/pid", "w") as file:
    file.write(str(os.getpid()))
with open(os.environ["STUB"] + "/called.tmp", "w") as file:
    json.dump({{"program": os.path.basename(sys.argv[0]), "argv": sys.argv[1:], "cwd": os.getcwd(),
               "environment": dict(os.environ)}}, file)
os.rename(os.environ["STUB"] + "/called.tmp", os.environ["STUB"] + "/called.json")
if "STUB_SLEEP" in os.environ:
    time.sleep(float(os.environ["STUB_SLEEP"]))
sys.exit(int(os.environ.get("STUB_CODE", "0")))
'''

SRUN = r'''#!/bin/bash
printf '%s\n' "$@" > "$STUB/srun.said"
while [[ "$1" == --* ]]; do shift; done
export SLURM_NODEID="${STUB_NODE:-0}" SLURMD_NODENAME="n${STUB_NODE:-0}"
exec "$@"
'''

SCONTROL = r'''#!/bin/bash
printf '%s ' "$@" >> "$STUB/scontrol.said"
[ "$1" != requeue ] || exit 1
printf 'n%s\n' 0 1 2
'''

SCANCEL = r'''#!/bin/bash
printf '%s ' "$@" >> "$STUB/scancel.said"
kill -TERM "$(cat "$STUB/pid")"
'''


class Stubs:
    """A folder of stub commands, and bash with nothing else of a scheduler in its PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in {"gristmill": RECORD, "torchrun": RECORD, "python": RECORD, "srun": SRUN,
                           "scontrol": SCONTROL, "scancel": SCANCEL}.items():
            (folder / name).write_text(text.format(python=sys.executable) if text is RECORD else text)
            (folder / name).chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.folder}:/usr/bin:/bin"
        return {"PATH": path, "STUB": str(self.folder), "LANG": "C.UTF-8", "HOME": "/", **more}

    def bash(self, *arguments: str, cwd: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
        self.forget()
        return subprocess.run(["bash", *arguments], env=self.environment(**environment), cwd=cwd or self.folder,
                              capture_output=True, text=True, timeout=HANG)

    def start(self, script: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(["bash", script], env=self.environment(**environment), cwd=self.folder, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def forget(self) -> None:
        for name in ("called.json", "term", "pid", "srun.said", "scontrol.said", "scancel.said"):
            (self.folder / name).unlink(missing_ok=True)

    def said(self, name: str) -> str:
        path = self.folder / f"{name}.said"
        return path.read_text() if path.exists() else ""

    @property
    def called(self) -> dict:
        return json.loads((self.folder / "called.json").read_text())


@pytest.fixture(scope="module")
def stubs(tmp_path_factory) -> Stubs:
    folder = tmp_path_factory.mktemp("stubs")
    assert os.access(folder, os.W_OK)
    return Stubs(folder)
