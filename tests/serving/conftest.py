"""A tiny tokenizer and model, and server processes that are always ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Started, start
from tests.serving import scripted as scripts
from tests.shared import HANG, wait_for

TEXTS = ["def read_text(path, encoding=None):\n    return path.read_text(encoding)\n", "Return the text of the file.",
         "héllo wörld, 日本語 🎉", "What does this function do?", "0123456789 <img src=x onerror=alert(1)> ```python\n"]


@dataclass
class Running:
    """A server process: its URL, and a client for it."""

    process: Started
    url: str
    state_dir: Path

    @property
    def errors(self) -> str:
        return self.process.err

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=HANG, trust_env=False)

    def openai(self, key: str = "no key needed") -> Any:
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=HANG,
                      http_client=httpx.Client(trust_env=False))

    def health(self) -> str:
        return str(httpx.get(f"{self.url}/health", timeout=HANG, trust_env=False).json()["status"])

    def is_ready(self) -> bool:
        try:
            return self.health() == "ready"
        except httpx.TransportError:
            return False

    def metric(self, name: str) -> float:
        with self.client() as client:
            line = next(row for row in client.get("/metrics").text.splitlines() if row.startswith(f"gristmill_{name} "))
        return float(line.split()[-1])

    def wait_until(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, self.process.alive, lambda: self.errors[-2000:])

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        self.process.tell(signal.SIGTERM)
        return self.process.ended()


def start_server(told: dict[str, Any], wait: bool = True) -> Running:
    """A server process with these settings, see scripted.py."""
    environment = {name: value for name, value in os.environ.items() if name != "GRISTMILL_API_KEYS"}
    process = start(scripts.main, json.dumps(told), environment=environment)
    running = Running(process, "", Path(told["state_dir"]))
    try:
        running.wait_until(lambda: process.out.endswith("\n"))
        running.url = process.out.strip()
        if wait:
            running.wait_until(running.is_ready)
    except BaseException:
        process.kill()
        raise
    return running


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gristmill.tokenizer.train import train_bpe

    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe([TEXTS], vocab_size=290).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random little decoder with a real tokenizer, saved as a public folder; logits wide enough to argue about."""
    import torch

    from gristmill.models import Decoder, DecoderConfig
    from gristmill.models.saving import save_model
    from gristmill.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = Tokenizer.load(tokenizer_folder)
    model = Decoder(DecoderConfig(vocab_size=tokenizer.vocab_size, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8,
                                  mlp_dim=64, context=128))
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 0.35, generator=generator)
    save_model(model, folder, tokenizer=tokenizer)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The tiny model behind the API, shared by the tests of a module."""
    running = start_server({"folder": str(tiny_model), "state_dir": str(tmp_path_factory.mktemp("state"))})
    yield running
    running.stop()


@pytest.fixture
def scripted(tokenizer_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts servers whose engine is scripted; all are ended after the test. With `hold` an answer stops after so many
    tokens until `gate`, a file, is there."""
    started: list[Running] = []

    def begin(answer: str = "Return the text of the file. " * 20, wait: bool = True, **told: Any) -> Running:
        told = {"folder": str(tokenizer_folder), "state_dir": str(tmp_path / "state"), "answer": answer} | told
        started.append(start_server(told, wait))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
