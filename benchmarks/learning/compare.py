"""Does an objective teach? Our model beside transformers' on the same text, batches, sizes, steps and schedule.

Three curves a contest: `ours` with the optimizer and first weights that recipes have; `theirs`, transformers' model
with its own first weights and AdamW; `ours_from_their_weights`, ours from those very weights with the same AdamW, which
must be the same curve. A contest is one small file beside this one:

    python -m benchmarks.learning.causal_lm [--steps 300] [--text FILE.gz] [--json]

The result, curves included, is stored in benchmarks/results/learning; docs/draw_learning.py draws it, and
docs/objectives.md shows it. tests/objectives/test_learning.py runs all of them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.core.config import to_plain
from gristmill.core.files import write_json
from gristmill.models.families import FAMILIES
from gristmill.models.layers.moe import rebalance
from gristmill.models.loading import load_model
from gristmill.models.spec import ModelSpec
from gristmill.objectives.base import Objective, attach
from gristmill.objectives.cross_entropy import IGNORED
from gristmill.objectives.moe_losses import with_router_losses
from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.train import MASK, train_bpe
from gristmill.tokens import ShardWriter, TokenShards
from gristmill.training.optimizers import OptimizerConfig, build_optimizer
from gristmill.training.schedules import ScheduleConfig, factor

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "learning"
DOCUMENT, HELD_OUT_TOKENS = 1500, 16_384
PEER_RATE = 1e-3
SPECIAL = (MASK, "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
           *(f"<extra_id_{number}>" for number in range(100)))
"""Tokens that one objective or another needs."""

Batch = Mapping[str, Tensor]
Losses = tuple[Tensor, Tensor]
"""Nats a target, and what is minimised; means over a batch."""
Loss = Callable[[Any, Batch], Losses]
"""Of a model on a batch."""


@dataclass(frozen=True)
class Document:
    """A text; `pair` is the same for translations of each other."""

    text: str
    language: str = ""
    pair: str = ""


def articles(path: Path) -> list[list[Document]]:
    """A gzipped text, an article a line, cut into pieces."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    return [[Document(line[start:start + DOCUMENT])] for line in lines for start in range(0, len(line), DOCUMENT)]


def public(config: Any) -> Any:
    """transformers' model for a config of ours, with its own first weights."""
    import transformers

    fields = dict(FAMILIES[config.family].config_to_public(config))
    name = fields.pop("architectures")[0]
    return getattr(transformers, name)(transformers.AutoConfig.for_model(**fields))


@dataclass(frozen=True, kw_only=True)
class Contest:
    """An objective, a model of ours, and the public one."""

    kind: str
    """Name of the result's file."""
    objective: Any
    """As a recipe would have it."""
    spec: Mapping[str, Any]
    """Fields of the ModelSpec, but for context."""
    their_loss: Callable[[Any, Batch, Any], Losses]
    """(the public model, a batch of ours, our config) -> its loss."""
    peer: Callable[[Any], Any] = public
    """Our config -> the public model, whose first weights are drawn from torch's generator."""
    same: bool = True
    """Whether the public model minimises the same, so that from the same weights it has the same curve."""
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further runs of ours by name: other specs."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Of ours."""
    context: int = 128
    batch: int = 16
    vocabulary: int = 2048
    special: Sequence[str] = SPECIAL
    """Special tokens of the tokenizer."""
    text: str = "text/wiki_demo.txt.gz"
    """Where in the shared data its text is."""
    read: Callable[[Path], list[list[Document]]] = articles
    """The text -> groups of documents, of which every fifteenth is held out."""

    def file(self) -> Path | None:
        """The text, where it is."""
        path = Path(os.environ.get("GRISTMILL_SHARED_DATA", ROOT.parent / "shared" / "data")) / self.text
        return path if path.is_file() else None


@dataclass(frozen=True)
class Material:
    """What all models of a contest are given."""

    tokenizer: Tokenizer
    batches: list[Batch]
    held_out: list[Batch]
    configs: dict[str, Any]
    """By the name of the run; the first is `ours`."""


def corpus(contest: Contest, path: Path, folder: Path) -> tuple[Tokenizer, TokenShards, TokenShards]:
    """Tokenizer, training and held-out text."""
    groups = contest.read(path)
    parts = {"train": [d for number, group in enumerate(groups) if number % 15 != 7 for d in group],
             "valid": [d for group in groups[7::15] for d in group]}
    tokenizer = train_bpe([[document.text for document in parts["train"]]], vocab_size=contest.vocabulary,
                          extra_special_tokens=list(contest.special))
    made = []
    for name, chosen in parts.items():
        with ShardWriter(folder / name, tokenizer.vocab_size) as writer:
            for number, document in enumerate(chosen):
                ids = [tokenizer.bos_id, *tokenizer.encode(document.text), tokenizer.eos_id]
                writer.add(np.array(ids), str(number), len(document.text.encode()), language=document.language,
                           pair=document.pair)
            made.append(writer.finish())
    return tokenizer, made[0], made[1]


def prepare(contest: Contest, path: Path, steps: int, seed: int = 0) -> Material:
    """Batches and configs of a contest."""
    sizes = {"context": contest.context, "batch": contest.batch, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, training, valid = corpus(contest, path, Path(folder))
        made = contest.objective.batches(training, tokenizer, **sizes)
        batches = [made.batch(step) for step in range(steps)]
        held_out = list(contest.objective.held_out(valid, tokenizer, limit_tokens=HELD_OUT_TOKENS, **sizes))
    configs = {name: ModelSpec(**{**spec, "context": contest.context}).resolve(tokenizer.vocab_size)[0]
               for name, spec in {"ours": contest.spec, **contest.others}.items()}
    for config in configs.values():
        contest.objective.check(config, tokenizer)
    return Material(tokenizer, batches, held_out, configs)


def objective_of(contest: Contest, config: Any) -> Objective:
    """What the stage `pretrain` would minimise."""
    return with_router_losses(contest.objective.loss(config), config)


def our_loss(objective: Objective) -> Loss:
    """The mean of the main term, and the weighted sum of all of them."""

    def loss(model: Any, batch: Batch) -> Losses:
        counts, terms = objective.counts(batch), objective.terms(model, batch)
        means = {name: value / max(counts[name], 1) for name, value in terms.sums.items()}
        return means["loss"], torch.stack([objective.weights[name] * value for name, value in means.items()]).sum()

    return loss


def loss_of_logits(logits: Tensor, targets: Tensor) -> Losses:
    """Where a public class leaves the loss to others: logits (batch, time, vocab), targets (batch, time)."""
    value = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
    return value, value


def fresh(contest: Contest, config: Any, seed: int) -> tuple[Any, Loss, Any]:
    """Our model with our first weights, its loss, and the contest's optimizer."""
    model, objective = FAMILIES[config.family].body(config), objective_of(contest, config)
    model.initialise(seed)
    extra = attach(objective, model)
    named = [*model.named_parameters()]
    if extra is not None:
        named += [(f"objective.{key}", value) for key, value in extra.named_parameters()]
    return model, our_loss(objective), build_optimizer(named, contest.optimizer)


def same_weights(model: Any) -> Any:
    """Our model with a public one's weights, through its folder."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_model(folder)


def plain_adamw(model: nn.Module) -> torch.optim.Optimizer:
    """The peer's optimizer: one rule for every parameter."""
    return torch.optim.AdamW(model.parameters(), lr=PEER_RATE, betas=(0.9, 0.95), weight_decay=0.01)


def train(model: nn.Module, loss: Loss, batches: Sequence[Batch], optimizer: Any,
          rate: Callable[[int], float] = lambda step: 1.0) -> list[float]:
    """Nats a target of every batch before its step; rate: factor of the peak learning rate, by the step."""
    model.train()
    peaks, curve = [group["lr"] for group in optimizer.param_groups], []
    for step, batch in enumerate(batches):
        value, minimised = loss(model, batch)
        optimizer.zero_grad()
        minimised.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate(step)
        optimizer.step()
        rebalance(model)
        curve.append(value.item())
    return curve


@torch.no_grad()
def held_out_loss(model: nn.Module, loss: Loss, batches: Iterable[Batch]) -> float:
    """Nats a target over all batches."""
    model.eval()
    total = count = 0.0
    for batch in batches:
        scored = int((batch["targets"] != IGNORED).sum())
        total, count = total + loss(model, batch)[0].item() * scored, count + scored
    return total / count


def unigram_entropy(batches: Iterable[Batch]) -> float:
    """Nats a target for somebody who knows how often each is one, and nothing else."""
    targets = torch.cat([batch["targets"].flatten() for batch in batches])
    shares = torch.bincount(targets[targets != IGNORED]).double()
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * shares.log()).sum())


def compare(contest: Contest, path: Path, steps: int, seed: int = 0, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """All curves (or the `chosen` ones) and held-out losses, and what is needed to read them."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    material = prepare(contest, path, steps, seed)
    config = material.configs["ours"]
    torch.manual_seed(seed)
    theirs = contest.peer(config)
    runs: dict[str, Callable[[], tuple[Any, Loss, Any]]] = {
        "theirs": lambda: (theirs, lambda model, batch: contest.their_loss(model, batch, config), plain_adamw(theirs))}
    if contest.same:
        twin = same_weights(theirs)
        runs["ours_from_their_weights"] = lambda: (twin, our_loss(objective_of(contest, config)), plain_adamw(twin))
    for name, of in material.configs.items():
        runs[name] = partial(fresh, contest, of, seed)
    result: dict[str, Any] = {
        "kind": contest.kind, "peer": "transformers", "peer_version": transformers.__version__, "steps": steps,
        "settings": {
            "objective": to_plain(contest.objective), "ours": dict(contest.spec),
            **{name: dict(spec) for name, spec in contest.others.items()}, "context": contest.context,
            "batch": contest.batch, "vocab_size": material.tokenizer.vocab_size, "text": path.name, "seed": seed,
            "optimizer": {"ours": described(contest.optimizer), "theirs": f"AdamW, learning rate {PEER_RATE:g}"}},
        "parameters": sum(p.numel() for p in theirs.parameters()),
        "unigram_entropy": round(unigram_entropy(material.batches), 4), "curves": {}, "valid_loss": {}, "seconds": {},
    }
    schedule = ScheduleConfig()
    for name, make in runs.items():
        if chosen and name not in chosen:
            continue
        model, loss, optimizer = make()
        began = time.process_time()
        curve = train(model, loss, material.batches, optimizer, lambda step: factor(schedule, step, steps))
        result["seconds"][name] = round(time.process_time() - began, 1)
        result["curves"][name] = [round(value, 5) for value in curve]
        result["valid_loss"][name] = round(held_out_loss(model, loss, material.held_out), 4)
    if {"ours", "theirs"} <= result["valid_loss"].keys():
        # Perplexities compare as time and money do: 1.2 means that theirs is a fifth more perplexed.
        result["ratio"] = round(math.exp(result["valid_loss"]["theirs"] - result["valid_loss"]["ours"]), 4)
    return result


def described(optimizer: OptimizerConfig) -> str:
    """In a few words."""
    return "the default of recipes" if optimizer == OptimizerConfig() else (
        f"{optimizer.kind}, learning rate {optimizer.learning_rate:g}")


def assert_learnt(result: Mapping[str, Any]) -> None:
    """What every contest must show; AssertionError where it does not."""
    scores = result["valid_loss"]
    for name in scores.keys() - {"theirs", "ours_from_their_weights"}:
        assert scores[name] < result["unigram_entropy"] - 0.3, (name, scores)
        assert scores[name] < scores["theirs"], (name, scores)
        assert result["seconds"][name] < 180, result["seconds"]
    assert abs(scores.get("ours_from_their_weights", scores["theirs"]) - scores["theirs"]) < 0.01, scores


def main(contest: Contest) -> None:
    """The command line of a contest."""
    parser = argparse.ArgumentParser(description=f"{contest.kind}: ours against transformers.")
    parser.add_argument("--steps", type=int, default=300, help="Updates of each model.")
    parser.add_argument("--text", type=Path, default=contest.file(), help=f"In place of {contest.text}.")
    parser.add_argument("--only", nargs="*", default=(), help="Names of curves.")
    parser.add_argument("--json", action="store_true", help="Print the result and do not store it.")
    chosen = parser.parse_args()
    if chosen.text is None:
        parser.error(f"there is no {contest.text}; name a text with --text")
    torch.set_num_threads(1)
    result = compare(contest, chosen.text, chosen.steps, chosen=chosen.only)
    if chosen.json:
        print(json.dumps(result))
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                            check=False).stdout.strip()
    write_json(RESULTS / f"{contest.kind}.json",
               {"date": datetime.now(UTC).date().isoformat(), "commit": commit, **result})
    losses = ", ".join(f"{name} {value:.3f}" for name, value in result["valid_loss"].items())
    print(f"{contest.kind}: held-out loss after {chosen.steps} steps, in nats a target: {losses}; unigram entropy "
          f"{result['unigram_entropy']:.3f}")
