"""Other values in the place of a model's weights, such as their average during an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Swapped:
    """Puts other values into the parameters for a while."""

    def __init__(self, names: Mapping[nn.Parameter, str], values: Mapping[str, Tensor]) -> None:
        self.names, self.values = names, values

    def __enter__(self) -> None:
        self.kept = {n: p.detach().clone() for p, n in self.names.items()}
        self._put(self.values)

    def __exit__(self, *error: object) -> None:
        self._put(self.kept)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for parameter, name in self.names.items():
                parameter.copy_(values[name])
