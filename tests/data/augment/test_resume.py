"""Kill -9 at any moment, and again: nothing that was answered is asked twice, and the corpus is the same."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.hashing import digest_folder
from gristmill.pipeline.runner import run
from tests.data.augment.chat_server import ChatServer, slowly
from tests.data.augment.corpora import write_corpus
from tests.processes import start
from tests.shared import wait_for


def augment(recipe: Path, runs: Path) -> None:
    """In a process of its own."""
    run(recipe, runs_dir=runs, report=False)


def finish(recipe: Path, runs: Path) -> Artifact:
    process = start(augment, recipe, runs)
    assert process.ended() == 0, process.err
    return Artifact.open(runs / "more" / "artifacts" / "more@1")


@pytest.mark.slow
def test_kills(tmp_path, serve):
    corpus = write_corpus(tmp_path / "corpus", train=60)
    server: ChatServer = serve(slowly(0.02))
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
        wanted = len(server.bodies) + chance.randint(5, 25)
        process = start(augment, recipe, runs)
        wait_for(lambda wanted=wanted: len(server.bodies) >= wanted, process.alive)
        process.tell(signal.SIGTERM if killed == 1 else signal.SIGKILL)  # a polite stop loses nothing either
        process.ended()
        assert killed != 1 or "Interrupted" in process.err
        killed += 1
    # What was under way when the process died may be asked again: at most as many as there were at once, each time.
    done = finish(recipe, runs)
    times = Counter(json.dumps(body, sort_keys=True) for body in server.bodies)
    assert len(times) == asked
    assert sum(times.values()) <= asked + 3 * 3
    assert done.digest == whole.digest
    assert digest_folder(done.path) == digest_folder(whole.path)
