"""Tokens a second of the engine beside transformers' `generate`: same weights, same prompts, greedy, taking turns.

    python benchmarks/generation.py MODEL [--dtype float32 bfloat16] [--batch 1 4 16] [--new 24] [--threads 2] [--json]

MODEL is a public folder. Prompt reading is measured up to the first token, decoding by the median time of a step.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor
from transformers.utils import logging

from gristmill.generation import Engine, Sampling
from gristmill.models.loading import load_model

Times = tuple[float, list[float]]
"""Seconds to the first token, seconds of every later step."""


class Clock(LogitsProcessor):
    """Notes when logits are there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return scores


def ours(engine: Engine, prompts: torch.Tensor, new: int) -> Times:
    for prompt in prompts.tolist():
        engine.submit(prompt, Sampling(max_tokens=new + 1, temperature=0))
    began, first, steps, started = time.perf_counter(), 0.0, [], 0
    while engine.busy:
        before = time.perf_counter()
        events = engine.step()
        after = time.perf_counter()
        if started < len(prompts):
            started += len({event.request for event in events})
            first = after - began
        else:
            steps.append(after - before)
    return first, steps


def theirs(model: torch.nn.Module, prompts: torch.Tensor, new: int) -> Times:
    clock, began = Clock(), time.perf_counter()
    model.generate(prompts, max_new_tokens=new + 1, do_sample=False, attention_mask=torch.ones_like(prompts),
                   logits_processor=[clock])
    return clock.times[0] - began, [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    version = importlib.metadata.version("transformers")
    chance = torch.Generator().manual_seed(0)
    for name in options.dtype:
        dtype = getattr(torch, name)
        peer = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
        peer.generation_config.eos_token_id, peer.generation_config.pad_token_id = None, 0
        model = load_model(options.model, dtype=dtype)
        engine = Engine(model, slots=max(options.batch))
        for batch in options.batch:
            runs: list[tuple[Times, Times]] = []
            for _ in range(options.rounds + 1):  # the first warms up
                prompts = torch.randint(1, model.config.vocab_size, (batch, options.prompt), generator=chance)
                runs.append((ours(engine, prompts, options.new), theirs(peer, prompts, options.new)))
            for what, rate in (("decode", lambda t, n=batch: n / statistics.median(t[1])),
                               ("prompt", lambda t, n=batch * options.prompt: n / t[0])):
                mine, other = (statistics.median(rate(run[side]) for run in runs[1:]) for side in (0, 1))
                found = {"name": f"{what}, {name}, batch {batch}, {options.threads} threads", "peer": "transformers",
                         "peer_version": version, "ours": round(mine, 1), "theirs": round(other, 1),
                         "unit": "tokens/s", "ratio": round(mine / other, 3), "runs": options.rounds}
                print(json.dumps(found) if options.json else
                      f"{found['name']}: {mine:.1f} tokens/s, transformers {version} {other:.1f}, "
                      f"ratio {mine / other:.2f}", flush=True)


if __name__ == "__main__":
    main()
