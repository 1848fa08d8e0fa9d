"""A corpus, a way to run a stage, and servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill.core.artifact import Artifact
from gristmill.core.stage import Runtime, StageContext
from tests.data.augment.chat_server import ChatServer
from tests.data.augment.corpora import write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Run a stage; gives its folder and metrics."""

    def go(stage: Any, corpus: Artifact, name: str = "out", *, workers: int = 1, seed: int = 5, open_writer: Any = None,
           inputs: dict[str, Artifact] | None = None, cache: Path | None = None) -> tuple[Path, dict[str, Any]]:
        work = tmp_path / name
        work.mkdir(exist_ok=True)
        context = StageContext(name=f"t/{name}@1", seed=seed, work=work, cache=cache or tmp_path / "cache",
                               inputs={"corpus": corpus, **(inputs or {})}, runtime=Runtime(workers=workers),
                               open_writer=open_writer)
        return work, dict(stage.run(context))

    return go


@pytest.fixture
def serve() -> Iterator[Callable[..., ChatServer]]:
    """Start servers that end with the test."""
    servers: list[ChatServer] = []

    def start(answer: Any) -> ChatServer:
        servers.append(ChatServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
