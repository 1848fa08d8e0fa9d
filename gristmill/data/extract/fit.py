"""Finds the classifier's weights from labelled blocks. Needs torch; reading pages does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gristmill.data.extract.classifier import FAR, LAYERS, NEAR, Classifier, Layers

Floats = npt.NDArray[np.float32]
GAP = max(FAR)
# Blocks of a page that are learned from; a few endless pages would otherwise outweigh all others.
LONGEST = 600


@dataclass(frozen=True)
class Labelled:
    """One page: features (blocks, len(NAMES)), the chance (blocks,) wanted for each block, and its weight (blocks,)."""

    features: Floats
    wanted: Floats
    weight: Floats


def fit(pages: Sequence[Labelled], *, epochs: int = 12, seed: int = 0, members: int = 4, threshold: float = 0.5,
        widths: tuple[int, int, int] = (24, 16, 12), rate: float = 4e-3, decay: float = 0.02,
        dropout: float = 0.15) -> Classifier:
    """`members` networks from the seeds `seed`, `seed` + 1, ...; the same weights for the same seed."""
    return Classifier(tuple(_fit(pages, epochs, seed + number, widths, rate, decay, dropout)
                            for number in range(members)), threshold)


def _fit(pages: Sequence[Labelled], epochs: int, seed: int, widths: tuple[int, int, int], rate: float, decay: float,
         dropout: float) -> Layers:
    """Weighted cross-entropy, AdamW, one rise and one cosine, batches of 16 pages."""
    import torch
    from torch.nn import functional as F

    everything = np.concatenate([page.features for page in pages])
    mean, spread = everything.mean(0), everything.std(0)
    spread[spread < 1e-6] = 1
    width1, width2, width3 = widths
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w1": (len(mean), width1), "w2": ((len(NEAR) + 1) * width1, width2), "w3": (len(FAR) * width2, width3),
              "w": (width3,)}
    parameters: dict[str, torch.Tensor] = {}
    for name in LAYERS:
        if name in shapes:
            shape = shapes[name]
            parameters[name] = torch.randn(shape, generator=generator) * (2 / shape[0]) ** 0.5
    parameters |= {"b1": torch.zeros(width1), "b2": torch.zeros(width2), "b3": torch.zeros(width3),
                   "b": torch.zeros(())}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [{"params": [parameters[name] for name in LAYERS if name in shapes], "weight_decay": decay},
         {"params": [parameters[name] for name in LAYERS if name not in shapes], "weight_decay": 0.0}], lr=rate)
    size = 16
    steps = epochs * -(-len(pages) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=0.1)

    def window(rows: torch.Tensor, offsets: tuple[int, ...]) -> torch.Tensor:
        padded = F.pad(rows, (0, 0, GAP, GAP))
        return torch.cat([padded[GAP + offset:GAP + offset + len(rows)] for offset in offsets], dim=1)

    def dropped(rows: torch.Tensor) -> torch.Tensor:
        return rows * ((torch.rand(rows.shape, generator=generator) >= dropout).float() / (1 - dropout))

    # A batch is its pages one below the other with GAP empty rows between, so that no neighbour is of another page.
    scaled = [torch.from_numpy(((page.features[:LONGEST] - mean) / spread).astype(np.float32)) for page in pages]
    empty = torch.zeros(GAP, len(mean))
    for _ in range(epochs):
        order = torch.randperm(len(pages), generator=generator).tolist()
        for begin in range(0, len(order), size):
            batch = order[begin:begin + size]
            counts = [len(scaled[number]) for number in batch]
            x = torch.cat([rows for number in batch for rows in (scaled[number], empty)])
            owner = torch.cat([torch.full((count + GAP,), row) for row, count in enumerate(counts)])
            there = torch.cat([part for count in counts for part in (torch.ones(count, 1), torch.zeros(GAP, 1))])
            wanted, weight = (torch.cat([part for number in batch for part in (
                torch.from_numpy(getattr(pages[number], field)[:LONGEST]), torch.zeros(GAP))])
                for field in ("wanted", "weight"))
            p = parameters
            first = dropped(torch.relu(x @ p["w1"] + p["b1"])) * there
            average = torch.zeros(len(batch), width1).index_add(0, owner, first) / torch.tensor(counts)[:, None]
            near = torch.cat([window(first, NEAR), average[owner]], 1)
            second = dropped(torch.relu(near @ p["w2"] + p["b2"])) * there
            third = torch.relu(window(second, FAR) @ p["w3"] + p["b3"])
            loss = F.binary_cross_entropy_with_logits(third @ p["w"] + p["b"], wanted, weight, reduction="sum")
            optimizer.zero_grad()
            (loss / weight.sum()).backward()
            optimizer.step()
            schedule.step()
    done = {name: parameter.detach().numpy().astype(np.float32) for name, parameter in parameters.items()}
    # The scaling of the features goes into the first layer.
    done["b1"] = done["b1"] - (mean / spread) @ done["w1"]
    done["w1"] = done["w1"] / spread[:, None]
    return Layers(**done)
