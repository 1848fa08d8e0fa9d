"""What a family is: presets, configs both ways, and names of weights both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.models.families.forms import SAME, Form

Names = str | tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """Some tensors of ours, and the public ones that hold the same numbers."""

    ours: tuple[str, ...]
    public: tuple[str, ...]
    form: Form


@dataclass(frozen=True)
class WeightName:
    """One tensor, or one a layer where the names hold `{layer}`, as we and as the public format call it.

    Several names on either side, with a `form` that says how one side becomes the other, stand for fused or split
    tensors. `{expert}` in a public name stands for one tensor an expert.
    """

    ours: Names
    public: Names
    present: Callable[[Any], bool] = lambda config: True
    """Whether a model of this config has it."""
    form: Form = SAME
    layers: Callable[[Any], Sequence[int]] = lambda config: range(config.layers)
    """The layers that have it."""

    def expand(self, config: Any) -> Iterator[Rule]:
        """The rules for a model of this config."""
        if not self.present(config):
            return
        ours, public = _tuple(self.ours), _tuple(self.public)
        layered = any("{layer}" in name for name in (*ours, *public))
        for layer in self.layers(config) if layered else [0]:
            yield Rule(tuple(name.replace("{layer}", str(layer)) for name in ours),
                       tuple(_per_expert([name.replace("{layer}", str(layer)) for name in public], config)), self.form)


@dataclass(frozen=True)
class Family:
    """An architecture with its presets and its way to and from the public format."""

    name: str
    """What recipes call it; also the `family` of its configs."""
    architectures: tuple[str, ...]
    """Values of `architectures` in public configs that it reads."""
    body: Callable[[Any], Any]
    """Config -> model."""
    config: type
    """Class of its configs."""
    presets: Mapping[str, Any]
    """Published sizes."""
    config_from_public: Callable[[Mapping[str, Any]], Any]
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    config_to_public: Callable[[Any], dict[str, Any]]
    """The inverse, `architectures` and `model_type` included."""
    weights: tuple[WeightName, ...]
    ignored: tuple[str, ...] = ()
    """Ends of public tensor names that hold no weights of ours (tables that older versions stored, heads that the
    architecture does not use); what a model of this config does have is never ignored."""
    base: str = ""
    """Prefix of public names that files of the model without its head leave out."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Ends of public tensor names as older files write them -> as they are now."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Public names of tied tensors that files may store a second time -> the public name whose values they repeat."""
    respell: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors
    """Public tensors that may be in another layout of the same format -> in the one that `weights` names."""
    model_types: tuple[str, ...] = ()
    """Values of `model_type` for configs that name no architecture; default the name."""
    traits: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the config that make a model trained from scratch one of this family."""
    mlp_ratio: float = 4.0
    """Inner width of the feed-forward over `dim`, where nothing else is said."""
    objective: str = "causal_lm"
    """What it is pretrained on where a recipe does not say."""
    public_class: str = "AutoModelForCausalLM"
    """Class of transformers that opens the folder with the same logits; empty where there is none."""
    public_blocks: tuple[str, ...] = ("model.layers",)
    """Where its blocks are in that class, in the order of our `blocks`."""
    probe: Callable[[Any, list[int]], dict[str, Tensor]] = lambda config, ids: {"input_ids": torch.tensor([ids])}
    """Inputs of `forward`, ours and the public one's, for a proof over these token ids."""

    def public_config(self, config: Any) -> dict[str, Any]:
        """Our config as the content of config.json. UserError where the public format has no words for all of it, so
        that it would come back as another model."""
        public = self.config_to_public(config)
        back = self.config_from_public(public)
        if back != config:
            lost = [f"{one.name} = {getattr(config, one.name)!r}" for one in dataclasses.fields(config)
                    if getattr(back, one.name) != getattr(config, one.name)]
            raise UserError(f"a {self.name} model cannot have {', '.join(lost)}: its public format has no word for it",
                            where="model", fix="leave it out, or choose a family that has it (docs/attention.md)")
        return public

    def rules(self, config: Any) -> list[Rule]:
        """Every tensor of a model of this config, ours and public."""
        return [rule for weight in self.weights for rule in weight.expand(config)]

    def to_public(self, state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Our state dict under public names; the exact inverse of `from_public`."""
        rules = self.rules(config)
        _complain(state, [name for rule in rules for name in rule.ours], "this model")
        public: dict[str, Tensor] = {}
        for rule in rules:
            tensors = rule.form.to_public([state[name] for name in rule.ours], config)
            public |= zip(rule.public, tensors, strict=True)
        return public

    def from_public(self, tensors: Mapping[str, Tensor], config: Any, where: str) -> dict[str, Tensor]:
        """Public tensors under our names. UserError that lists what is missing, unexpected or of another shape."""
        rules = self.rules(config)
        wanted = [name for rule in rules for name in rule.public]
        needed = set(wanted)
        named = {self._full(_now(name, self.renamed), needed): tensor
                 for name, tensor in self.respell(tensors).items()}
        known = {name: tensor for name, tensor in named.items()
                 if name in needed or not name.endswith(self.ignored or ("\0",))}
        _drop_copies(known, self.copies, needed, where)
        _complain(known, wanted, where)
        ours: dict[str, Tensor] = {}
        for rule in rules:
            try:
                found = rule.form.from_public([known[name] for name in rule.public], config)
            except (RuntimeError, ValueError, IndexError) as error:
                shapes = ", ".join(f"{name} {tuple(known[name].shape)}" for name in rule.public[:4])
                raise UserError(f"these weights have another shape than the config says: {shapes}", where=where,
                                fix="take config.json and weights from the same model") from error
            ours |= zip(rule.ours, found, strict=True)
        return ours

    def _full(self, name: str, wanted: set[str]) -> str:
        """A public name with the prefix that files of the model without its head leave out."""
        return self.base + name if name not in wanted and self.base + name in wanted else name


def _now(name: str, renamed: Mapping[str, str]) -> str:
    """A public name with an end that older files write as they are now."""
    for old, new in renamed.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _per_expert(names: Sequence[str], config: Any) -> Iterator[str]:
    for name in names:
        if "{expert}" in name:
            yield from (name.replace("{expert}", str(expert)) for expert in range(config.experts))
        else:
            yield name


def _drop_copies(tensors: dict[str, Tensor], copies: Mapping[str, str], wanted: set[str], where: str) -> None:
    """A tensor that the config calls tied may be stored a second time, if it is the same."""
    for name, original in copies.items():
        copy, kept = tensors.get(name), tensors.get(original)
        if copy is None or name in wanted or kept is None:
            continue
        if copy.shape != kept.shape or not bool((copy == kept).all()):
            raise UserError(f"the config calls {name} tied to {original}, but the file holds other values for it",
                            where=where, fix="set tie_word_embeddings to false in config.json")
        del tensors[name]


def _complain(found: Mapping[str, Tensor], names: Sequence[str], where: str) -> None:
    wanted = set(names)
    missing = sorted(wanted - set(found))
    unexpected = sorted(set(found) - wanted)
    if missing or unexpected:
        parts = [f"{len(names)} {word}: {_listed(names)}" for word, names in
                 (("missing", missing), ("unexpected", unexpected)) if names]
        raise UserError(f"the weights do not fit the config ({'; '.join(parts)})", where=where,
                        fix="take config.json and weights from the same model")


def _listed(names: list[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
