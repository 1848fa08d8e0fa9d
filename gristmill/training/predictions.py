"""The prediction trace: what the model would say next at fixed places, so that a person sees it learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gristmill.core.config import config, require
from gristmill.tokenizer import Tokenizer
from gristmill.training.compile import eager


@config
class Prompt:
    """A text and what truly follows it."""

    text: str
    """The text before the place."""
    true: str
    """How it goes on; its first token is compared with the model's guesses."""

    def __post_init__(self) -> None:
        require(bool(self.text) and bool(self.true), "text", "text and true must not be empty")


PYTHON_PROMPTS = (
    Prompt(text="def __init__(self", true=", "),
    Prompt(text="import os\nimport sys\n\n\ndef main():\n    if len(sys.argv", true=") < 2:"),
    Prompt(text="    for i in range(", true="len(x)):"),
    Prompt(text="    try:\n        return int(value)\n    except", true=" ValueError:"),
    Prompt(text="class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n"
                "        self.items", true=".append(item)"),
)
SAMPLE_TOKENS = 32


@torch.no_grad()
def trace_predictions(model: nn.Module, tokenizer: Tokenizer, prompts: tuple[Prompt, ...] | list[Prompt],
                      samples: int = 2) -> dict[str, Any]:
    """The five likeliest next tokens at each prompt beside the true one, and greedy continuations of the first few."""
    device = next(model.parameters()).device
    rows, texts = [], []
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    with eager():
        for number, prompt in enumerate(prompts):
            ids = start + tokenizer.encode(prompt.text)
            true = tokenizer.encode(prompt.true)[0]
            logs = model(torch.tensor([ids], device=device))[0, -1].float().log_softmax(-1)
            top = logs.topk(5)
            rows.append({
                "prompt": prompt.text,
                "true": tokenizer.decode([true]),
                "true_probability": round(float(logs[true].exp()), 6),
                "top": [[tokenizer.decode([int(i)]), round(float(p.exp()), 6)]
                        for i, p in zip(top.indices, top.values, strict=True)],
            })
            if number < samples:
                texts.append({"prompt": prompt.text, "text": _continue(model, tokenizer, ids, device)})
    return {"prompts": rows, "samples": texts}


def _continue(model: nn.Module, tokenizer: Tokenizer, ids: list[int], device: torch.device) -> str:
    """Greedy, a token at a time over the whole text: a few dozen tokens need no cache."""
    made: list[int] = []
    for _ in range(SAMPLE_TOKENS):
        best = int(model(torch.tensor([ids + made], device=device))[0, -1].argmax())
        if best == tokenizer.eos_id:
            break
        made.append(best)
    return tokenizer.decode(made, skip_special=True)
