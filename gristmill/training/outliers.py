"""Updates whose loss or gradient norm lies far outside of the last ones are not made.

The rule of llm.c and OLMo: beyond so many standard deviations of the last 128 updates. Everything stays on the device:
the decision is a 0-d tensor, and `Joined.step_unless` leaves weights and states as they are without anybody waiting.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

WINDOW = 128
"""Updates whose losses and gradient norms are remembered."""
FEWEST = WINDOW // 2
"""Nothing is judged before so many updates: at the start of a training the loss falls by itself."""
FLATTEST = 1e-3
"""Smallest deviation that counts, as a share of the mean: where the loss hardly changes, rounding would be an outlier.
"""


class Outliers:
    """The last losses and gradient norms, and what they say of the next.

    Outliers are remembered like the rest: a level that has changed for good stops being skipped after about
    WINDOW / (sigma² + 1) updates (four at six sigma), because it widens the deviation by itself. What is not finite is
    an outlier and is not remembered.
    """

    def __init__(self, sigma: float, device: torch.device | str = "cpu") -> None:
        self.sigma = sigma
        self.history = torch.zeros(2, WINDOW, device=device)
        self.seen = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        """Updates that were not made."""
        self.places = torch.arange(WINDOW, device=device)

    @torch.no_grad()
    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether the update of this loss and gradient norm is to be skipped, 0-d bool; both (0-d) are remembered.

        Of many processes, all must give the same numbers: those of the whole update.
        """
        now = torch.stack([loss.detach().float(), norm.detach().float()]).to(self.history.device)
        known = self.places < self.seen
        count = known.sum().clamp(min=1)
        mean = torch.where(known, self.history, 0).sum(1) / count
        spread = torch.where(known, self.history - mean[:, None], 0).square().sum(1) / (count - 1).clamp(min=1)
        limit = mean + self.sigma * torch.maximum(spread.sqrt(), FLATTEST * mean.abs())
        finite = now.isfinite().all()
        skip = ((now > limit).any() & (self.seen >= FEWEST)) | ~finite
        here = (self.places == self.seen % WINDOW) & finite
        self.history = torch.where(here, now[:, None], self.history)
        self.seen = self.seen + finite
        self.skipped = self.skipped + skip
        return skip

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"history": self.history, "seen": self.seen, "skipped": self.skipped}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        for name in self.tensors():
            current = getattr(self, name)
            setattr(self, name, tensors[name].to(current.device, copy=True))
