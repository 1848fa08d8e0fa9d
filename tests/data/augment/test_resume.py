"""Kill -9 at any moment, and again: nothing that was answered is asked twice, and the corpus is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.hashing import digest_folder
from tests.data.augment.chat_server import ChatServer, slowly
from tests.data.augment.corpora import write_corpus

PROGRAM = """
import sys
from gristmill.pipeline.runner import run
run(sys.argv[1], runs_dir=sys.argv[2], report=False)
"""


def start(recipe: Path, runs: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(recipe), str(runs)], env=environment,
                            stderr=subprocess.PIPE)


def finish(recipe: Path, runs: Path) -> Artifact:
    process = start(recipe, runs)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    return Artifact.open(runs / "more" / "artifacts" / "more@1")


@pytest.mark.slow
def test_kills(tmp_path, serve):
    corpus = write_corpus(tmp_path / "corpus", train=60)
    server: ChatServer = serve(slowly(0.04))
    recipe = tmp_path / "recipe.yaml"
    writer = {"kind": "server", "base_url": server.url, "model": "tiny", "concurrency": 3}
    recipe.write_text(json.dumps({"name": "more", "seed": 1, "stages": {"more": {
        "uses": "augment", "corpus": str(corpus.path),
        "methods": [{"kind": "edits"},
                    {"kind": "paraphrase", "writer": writer, "copies": 2, "most_tokens": 500_000}]}}}))
    whole = finish(recipe, tmp_path / "whole")
    asked = len(server.bodies)
    assert asked == 120
    server.bodies.clear()
    chance, killed = random.Random(3), 0
    runs = tmp_path / "killed"
    while killed < 3:
        process = start(recipe, runs)
        seen = len(server.bodies)
        deadline = time.monotonic() + 60
        wanted = seen + chance.randint(5, 25)
        while len(server.bodies) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()[1].decode()
        process.send_signal(signal.SIGTERM if killed == 1 else signal.SIGKILL)  # a polite stop loses nothing either
        _, errors = process.communicate(timeout=30)
        assert killed != 1 or b"Interrupted" in errors
        killed += 1
    # What was under way when the process died may be asked again: at most as many as there were at once, each time.
    done = finish(recipe, runs)
    times = Counter(json.dumps(body, sort_keys=True) for body in server.bodies)
    assert len(times) == asked
    assert sum(times.values()) <= asked + 3 * 3
    assert done.digest == whole.digest
    assert digest_folder(done.path) == digest_folder(whole.path)
