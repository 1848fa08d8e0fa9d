"""`gristmill generate MODEL --prompt P`: text from a model."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    model: Annotated[str, typer.Argument(help="A model: recipe/stage@N, a path to an artifact, or a public folder.")],
    prompt: Annotated[list[str] | None, typer.Option(
        "--prompt", "-p", help="The text to go on from; may be repeated; `-` reads stdin.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, max=10.0)] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Only the k likeliest tokens; 0 takes all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(min=0.1, max=10.0)] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same text.")] = None,
    logprobs: Annotated[int, typer.Option(min=0, max=20, help="Give the log-probabilities of this many tokens.")] = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Take the prompt as a question in the chat template.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a prompt.")] = False,
) -> None:
    """Continue a text.

    Example:  gristmill generate quickstart/base --prompt "def main(" --max-tokens 60 --greedy
    """
    import gristmill
    from gristmill.core.errors import UserError

    prompts = [sys.stdin.read() if p == "-" else p for p in prompt or []]
    if not prompts:
        raise UserError("no prompt", where="--prompt", fix='give --prompt "some text", or --prompt - to read stdin')
    language_model = gristmill.load(model, runs_dir=runs_dir, device=device)
    sampling: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop or ()),
        "logprobs": logprobs,
        "greedy": greedy,
    }
    if chat:
        made = [language_model.chat([{"role": "user", "content": text}], **sampling) for text in prompts]
    else:
        made = language_model.generate(prompts, **sampling)
    for text, completion in zip(prompts, made, strict=True):
        if as_json:
            typer.echo(
                json.dumps({"model": language_model.name, "prompt": text, **asdict(completion)}, ensure_ascii=False)
            )
        else:
            typer.echo(text + completion.text if language_model.continues and not chat else completion.text)
