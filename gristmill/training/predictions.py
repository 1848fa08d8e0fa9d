"""The prediction trace: what the model would say next at fixed places (an encoder: what stands in a gap between both
sides), so that a person sees it learn."""

from __future__ import annotations

from typing import Any

import torch

from gristmill.core.config import config, require
from gristmill.models.decoder import Decoder
from gristmill.models.encoder import Encoder
from gristmill.objectives.pretraining import Pretraining
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
def trace_predictions(model: Any, tokenizer: Tokenizer, objective: Pretraining,
                      prompts: tuple[Prompt, ...] | list[Prompt], samples: int = 2) -> dict[str, Any]:
    """The five likeliest tokens after each prompt beside the true one (`rest` is what the model sees behind it); of
    decoders also greedy continuations of the first few."""
    rows, texts = [], []
    with eager(model):
        for number, prompt in enumerate(prompts):
            logs, true = objective.guess(model, tokenizer, prompt.text, prompt.true)
            top = logs[: tokenizer.vocab_size].topk(5)  # a model may have room for more than the tokenizer knows
            seen = tokenizer.decode(tokenizer.encode(prompt.true)[1:]) if isinstance(model, Encoder) else ""
            rows.append({
                "prompt": prompt.text,
                "true": tokenizer.decode([true]),
                **({"rest": seen} if seen else {}),
                "true_probability": round(float(logs[true].exp()), 6),
                "top": [[tokenizer.decode([int(i)]), round(float(p.exp()), 6)]
                        for i, p in zip(top.indices, top.values, strict=True)],
            })
            if number < samples and isinstance(model, Decoder):
                texts.append({"prompt": prompt.text, "text": _continue(model, tokenizer, prompt.text)})
    return {"prompts": rows, "samples": texts}


def _continue(model: Decoder, tokenizer: Tokenizer, prompt: str) -> str:
    """Greedy, a token at a time over the whole text: a few dozen tokens need no cache."""
    ids = ([] if tokenizer.bos_id is None else [tokenizer.bos_id]) + tokenizer.encode(prompt)
    made: list[int] = []
    for _ in range(SAMPLE_TOKENS):
        logits = model(torch.tensor([ids + made], device=model.head_weight.device))[0, -1]
        best = int(logits[: tokenizer.vocab_size].argmax())
        if best == tokenizer.eos_id:
            break
        made.append(best)
    return tokenizer.decode(made, skip_special=True)
