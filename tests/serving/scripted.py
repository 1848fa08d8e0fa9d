"""A server process for tests: `main('{"folder": ..., ...}')` prints its URL and serves until SIGTERM.

With "answer" a scripted engine speaks instead of the model: the tests then choose the words, the pace and the faults.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.shared import HANG


class ScriptedEngine:
    """The engine's interface; every request gets `answer`, one character's tokens at a time. hold: after so many
    tokens a request waits for the file `gate` (without one for ever, or until it is cut)."""

    context = 512

    def __init__(self, tokenizer: Any, slots: int, answer: str, delay: float, hold: int | None = None,
                 gate: str = "") -> None:
        self.tokenizer, self.slots, self.delay, self.hold, self.gate = tokenizer, slots, delay, hold, gate
        self.script = [*tokenizer.encode(answer), tokenizer.eos_id]
        self.live: dict[int, list[Any]] = {}
        self.submitted = 0
        self.most_live = 0

    def submit(self, prompt: list[int], sampling: Any) -> int:
        assert len(self.live) < self.slots, "more requests than slots"
        self.submitted += 1
        self.live[self.submitted] = [sampling, 0, "EXPLODE" in self.tokenizer.decode(prompt)]
        self.most_live = max(self.most_live, len(self.live))
        return self.submitted

    def cancel(self, request: int) -> None:
        self.live.pop(request, None)

    @property
    def busy(self) -> bool:
        return bool(self.live)

    def step(self) -> list[Any]:
        time.sleep(self.delay)
        if any(explodes for _, _, explodes in self.live.values()):
            raise RuntimeError("the engine exploded, as the test wanted")
        events = []
        for request, state in list(self.live.items()):
            sampling, done, _ = state
            if self.hold is not None and done >= self.hold and not (self.gate and Path(self.gate).exists()):
                time.sleep(0.002)
                continue
            token = self.script[done] if done < len(self.script) else self.tokenizer.eos_id
            state[1] += 1
            finish = "stop" if token in sampling.stop_ids else "length" if done + 1 >= sampling.max_tokens else None
            if finish:
                del self.live[request]
            events.append(SimpleNamespace(request=request, token=token, logprob=-0.25, finish=finish,
                                          top=[(token, -0.25)][: sampling.logprobs]))
        return events


def scripted_model(folder: str | Path, loaded: str = "") -> Any:
    """What the server needs of a LanguageModel, with a real tokenizer. loaded: a file; it loads until that is there."""
    import torch

    from gristmill.tokenizer import Tokenizer

    while loaded and not Path(loaded).exists():
        time.sleep(0.005)
    return SimpleNamespace(name="tiny", tokenizer=Tokenizer.load(folder), model=torch.nn.Linear(100, 100))


def opened(folder: str) -> Any:
    """The real model on one thread: tests share their cores."""
    import torch

    from gristmill.generation import LanguageModel

    model = LanguageModel.open(folder, device="cpu", dtype=torch.float32)
    torch.set_num_threads(1)
    return model


def main(settings_json: str) -> None:
    import torch

    from gristmill.core.errors import GristmillError
    from gristmill.serving import Limits, Settings, serve
    from gristmill.serving.settings import hash_keys

    torch.set_num_threads(1)
    told = json.loads(settings_json)
    settings = Settings(port=told.get("port", 0), key_digests=hash_keys(told.get("keys", [])),
                        limits=Limits(**told.get("limits", {})), page=told.get("page", False),
                        state_dir=Path(told["state_dir"]), drain_seconds=told.get("drain_seconds", HANG), dtype="fp32")
    scripts: dict[str, Any] = {}
    if "answer" not in told:
        scripts["open_model"] = lambda: opened(told["folder"])
    else:
        scripts["open_model"] = lambda: scripted_model(told["folder"], told.get("loaded", ""))
        scripts["make_engine"] = lambda model, slots: ScriptedEngine(
            model.tokenizer, slots, told["answer"], told.get("delay", 0.0), told.get("hold"), told.get("gate", ""))
    try:
        serve(told["folder"], settings, announce=lambda url: print(url, flush=True), **scripts)
    except GristmillError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
