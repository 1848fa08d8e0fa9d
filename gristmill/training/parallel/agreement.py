"""Checks while running that processes agree: on what they train, on the rows that they read, on weights they share.

A process that was started with another recipe, reads other data or has a faulty memory does not stop a training; it
spoils it. Every check is a message of a few bytes a process, and the same error on all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from gristmill.core.errors import MachineError, UserError
from gristmill.objectives.base import Batch
from gristmill.training.parallel.world import World

Named = Iterable[tuple[str, Tensor]]
CHUNK = 2**22
"""Numbers that are looked at in one go, so that a digest needs no memory to speak of."""


@dataclass
class Agreement:
    """What a loop calls; a process alone agrees with itself."""

    world: World
    every: int = 0
    """Updates between comparisons of the weights; 0: at the start only."""

    def begin(self, parameters: Callable[[], Named], facts: Mapping[str, Any], window: Sequence[Batch]) -> None:
        """Before the first update. facts: JSON-ready, to be the same everywhere (recipe, data, versions). window: the
        first that is read; empty where it cannot be read twice, and then rows are not compared."""
        check_facts({**facts, "layout": self.world.layout.describe(), "torch": torch.__version__}, self.world)
        check_form(parameters(), self.world)
        if window:
            check_rows(window, self.world)
        check_weights(parameters(), self.world)

    def after(self, step: int, parameters: Callable[[], Named]) -> None:
        """After update `step`."""
        if self.every and step % self.every == 0:
            check_weights(parameters(), self.world)


def check_facts(facts: Mapping[str, Any], world: World) -> None:
    """UserError that names each fact on which processes differ, with the ranks of the minority."""
    said = world.gather({name: json.dumps(value, sort_keys=True, default=str) for name, value in facts.items()})
    for name in sorted({name for facts_of_rank in said for name in facts_of_rank}):
        usual, others = _minority([facts_of_rank.get(name) for facts_of_rank in said])
        if others:
            raise UserError(f"processes do not agree on {name}: {told_ranks(others)} {_has(others)} "
                            f"{_short(said[others[0]].get(name))}, the others {_short(usual)}", where="parallel",
                            fix="start all of them with the same recipe, data and versions")


def check_form(parameters: Named, world: World) -> None:
    """UserError where processes of a stage hold weights of other names, shapes, kinds or cuts."""
    form = [(name, list(p.shape), str(p.dtype), str(p.placements) if isinstance(p, DTensor) else "")
            for name, p in parameters]
    said = world.gather((world.place("pipeline"), form))
    for stage in range(world.layout.pipeline):
        ranks = [rank for rank, (place, _) in enumerate(said) if place == stage]
        usual, others = _minority([json.dumps(said[rank][1]) for rank in ranks])
        if others:
            strange = ranks[others[0]]
            known = json.loads(usual)
            first = next((" ".join(map(str, mine)).strip() for mine in said[strange][1] if list(mine) not in known),
                         "of which some are missing")
            raise UserError(f"processes hold other weights: {told_ranks([ranks[at] for at in others])}, first {first}",
                            where="parallel", fix="start all of them with the same recipe and versions")


def check_rows(window: Sequence[Batch], world: World) -> None:
    """UserError where processes that share rows (tensor, context, pipeline) read others, or where processes that are to
    read other rows all read the same."""
    said = world.gather((world.data_rank, [_digest_of_batch(batch) for batch in window]))
    by_place: dict[int, list[int]] = defaultdict(list)
    for rank, (place, _) in enumerate(said):
        by_place[place].append(rank)
    for ranks in by_place.values():
        _, others = _minority([json.dumps(said[rank][1]) for rank in ranks])
        if others:
            strange, usual = [ranks[at] for at in others], [r for at, r in enumerate(ranks) if at not in others]
            raise UserError(f"{told_ranks(strange)} read other rows than {told_ranks(usual)}, with which they share "
                            "them", where="parallel", fix="give all of them the same data and the same seed")
    read = {json.dumps(said[ranks[0]][1]) for ranks in by_place.values()}
    if len(by_place) > 1 and len(read) == 1:
        raise UserError(f"all {len(by_place)} shares of the data read the same rows", where="parallel",
                        fix="let each process read its own stretch of an update")


def check_weights(parameters: Named, world: World) -> None:
    """MachineError that names the weights whose copies differ, and the ranks of the minority."""
    parts = {name: (repr(_part(p)), _digest(p)) for name, p in parameters}
    said = world.gather((world.place("pipeline"), parts))
    copies: dict[Hashable, list[int]] = defaultdict(list)
    for rank, (stage, held) in enumerate(said):
        for name, (part, _) in held.items():
            copies[stage, name, part].append(rank)
    wrong: dict[str, set[int]] = {}
    for (_, name, _), ranks in copies.items():  # type: ignore[misc]
        _, others = _minority([said[rank][1][name][1] for rank in ranks])
        if others:
            wrong.setdefault(name, set()).update(ranks[at] for at in others)
    if wrong:
        ranks = sorted(set().union(*wrong.values()))
        raise MachineError(f"copies of {len(wrong)} weights differ on {told_ranks(ranks)}, first {next(iter(wrong))}",
                           where="parallel",
                           fix="go on from the last checkpoint without that machine: it computes or remembers wrongly")


def _minority(values: Sequence[Any]) -> tuple[Any, list[int]]:
    """The most frequent value (the first of several), and where there is another."""
    counts = Counter(values)
    usual = max(counts, key=lambda value: (counts[value], -values.index(value)))
    return usual, [at for at, value in enumerate(values) if value != usual]


def _part(parameter: Tensor) -> tuple[Any, ...]:
    """Which part of a weight lies here: the place along each axis that it is cut over."""
    if not isinstance(parameter, DTensor):
        return ()
    places: Sequence[int] = parameter.device_mesh.get_coordinate() or ()
    return tuple((str(placement), place) for placement, place in zip(parameter.placements, places, strict=True)
                 if not placement.is_replicate())


@torch.no_grad()
def _digest(tensor: Tensor) -> tuple[int, ...]:
    """Two sums over the bits, the second weighted by place: what differs in one bit differs here."""
    flat = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().reshape(-1)
    flat = flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])
    sums = torch.zeros(2, dtype=torch.int64, device=flat.device)
    for start in range(0, len(flat), CHUNK):
        bits = flat[start:start + CHUNK].long()
        places = torch.arange(start + 1, start + 1 + len(bits), device=flat.device)
        sums += torch.stack([bits.sum(), (bits * places).sum()])
    return tuple(sums.tolist())


def _digest_of_batch(batch: Batch) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(batch.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def told_ranks(ranks: Sequence[int]) -> str:
    """Some processes, in words."""
    shown = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def _has(ranks: Sequence[int]) -> str:
    return "has" if len(ranks) == 1 else "have"


def _short(text: str | None) -> str:
    return "nothing" if text is None else text if len(text) < 100 else text[:97] + "..."
