"""What a family is: presets, configs both ways, and names of weights both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig


@dataclass(frozen=True)
class WeightName:
    """One tensor, or one a layer where the names hold `{layer}`, as we and as the public format call it."""

    ours: str
    public: str
    present: Callable[[DecoderConfig], bool] = lambda config: True
    """Whether a model of this config has it."""

    def expand(self, config: DecoderConfig) -> Iterable[tuple[str, str]]:
        if not self.present(config):
            return
        if "{layer}" not in self.ours:
            yield self.ours, self.public
            return
        for layer in range(config.layers):
            yield self.ours.replace("{layer}", str(layer)), self.public.replace("{layer}", str(layer))


@dataclass(frozen=True)
class Family:
    """An architecture with its presets and its way to and from the public format."""

    name: str
    """`model_type` of its public configs."""
    architectures: tuple[str, ...]
    """Values of `architectures` that it reads; it writes the first."""
    presets: Mapping[str, DecoderConfig]
    """Published sizes."""
    config_from_public: Callable[[Mapping[str, Any]], DecoderConfig]
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    config_to_public: Callable[[DecoderConfig], dict[str, Any]]
    weights: tuple[WeightName, ...]
    ignored: tuple[str, ...] = ()
    """Ends of public tensor names that hold no weights (tables that older versions stored)."""

    def names(self, config: DecoderConfig) -> dict[str, str]:
        """Our name -> the public name, for every tensor of a model of this config."""
        return dict(pair for weight in self.weights for pair in weight.expand(config))

    def to_public(self, state: Mapping[str, Tensor], config: DecoderConfig) -> dict[str, Tensor]:
        """Our state dict under public names; the exact inverse of `from_public`."""
        names = self.names(config)
        _complain(state, names, "this model")
        return {public: state[ours] for ours, public in names.items()}

    def from_public(self, tensors: Mapping[str, Tensor], config: DecoderConfig, where: str) -> dict[str, Tensor]:
        """Public tensors under our names. UserError that lists what is missing, unexpected or of another shape."""
        names = self.names(config)
        known = {name: tensor for name, tensor in tensors.items() if not name.endswith(self.ignored or ("\0",))}
        _drop_tied_head(known, names, where)
        _complain(known, {public: public for public in names.values()}, where)
        return {ours: known[public] for ours, public in names.items()}


def _drop_tied_head(tensors: dict[str, Tensor], names: Mapping[str, str], where: str) -> None:
    """A head that the config calls tied may be stored a second time, if it is the same."""
    head, embedding = tensors.get("lm_head.weight"), tensors.get(names.get("embedding.weight", ""))
    if head is None or "head.weight" in names or embedding is None:
        return
    if head.shape != embedding.shape or not bool((head == embedding).all()):
        raise UserError("the config calls the head tied, but the file holds a head that differs from the embedding",
                        where=where, fix="set tie_word_embeddings to false in config.json")
    del tensors["lm_head.weight"]


def _complain(found: Mapping[str, Tensor], wanted: Mapping[str, str], where: str) -> None:
    missing = sorted(set(wanted) - set(found))
    unexpected = sorted(set(found) - set(wanted))
    if missing or unexpected:
        parts = [f"{len(names)} {word}: {_listed(names)}" for word, names in
                 (("missing", missing), ("unexpected", unexpected)) if names]
        raise UserError(f"the weights do not fit the config ({'; '.join(parts)})", where=where,
                        fix="take config.json and weights from the same model")


def _listed(names: list[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
