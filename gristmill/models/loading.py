"""Loading weights that others or we ourselves wrote: a public folder, a GGUF file, a llama2.c file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.core.files import read_json
from gristmill.models.extension import extended_config
from gristmill.models.families import FAMILIES, Family
from gristmill.models.layers.rotary import Tables

KINDS = "a folder with config.json and model.safetensors, a .gguf file, or a llama2.c .bin file"


def load_model(
    source: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32,
    context: int | None = None, rope_scaling: str | Mapping[str, Any] | None = None,
) -> Any:
    """A model of whatever family, from a public folder, a `.gguf` file or a llama2.c `.bin` file, in eval mode.

    dtype: of the weights in memory; None keeps what the file has. context, rope_scaling: another context than the
    file's (`extension.extended_config`). Raises UserError where the source is missing, damaged, incomplete, or asks for
    what we cannot compute.
    """
    source = Path(source)
    if source.is_dir():
        family, config = read_config(source)
        state = family.from_public(read_tensors(source), config, str(source))
    elif not source.exists():
        raise UserError("there is no model here", where=str(source), fix=f"name {KINDS}")
    elif source.suffix == ".gguf":
        from gristmill.models.gguf import read_gguf

        config, state = read_gguf(source)
    elif source.suffix == ".bin":
        from gristmill.models.llama2c import read_llama2c

        config, state = read_llama2c(source)
    else:
        raise UserError("this is no model file that we read", where=str(source), fix=f"name {KINDS}")
    if context is not None or rope_scaling is not None:
        config = extended_config(config, context, rope_scaling)
    return build(config, state, device=device, dtype=dtype, where=str(source))


def build(
    config: Any, state: Mapping[str, Tensor], *, device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None, where: str = "weights",
) -> Any:
    """A model around tensors that are already there; nothing is initialised first."""
    model = skeleton(config)
    wrong = [f"{name} is {tuple(state[name].shape)}, the config says {tuple(wanted.shape)}"
             for name, wanted in model.state_dict().items()
             if name in state and state[name].shape != wanted.shape]
    if wrong:
        raise UserError(f"{len(wrong)} weights have another shape than the config says: {'; '.join(wrong[:6])}",
                        where=where, fix="take config.json and weights from the same model")
    model.load_state_dict({name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}, assign=True)
    # Tables are no weights and still lie on the meta device; they stay fp32 whatever the weights are.
    for module in model.modules():
        if isinstance(module, Tables):
            module.build_tables(torch.device(device))
    return model.eval()


def skeleton(config: Any) -> Any:
    """A model without storage (meta device): its shapes, names and counts cost nothing at any size."""
    with torch.device("meta"):
        return FAMILIES[config.family].body(config)


def count_parameters(config: Any) -> int:
    """Parameters of a model of this config; a tied head counts once."""
    return sum(parameter.numel() for parameter in skeleton(config).parameters())


def read_config(folder: Path) -> tuple[Family, Any]:
    """Family and config of a public folder; UserError lists the families where it is none of ours."""
    where = str(folder / "config.json")
    public = read_json(folder / "config.json")
    if not isinstance(public, dict):
        raise UserError("this is no JSON object", where=where)
    named = set(public.get("architectures") or [])
    for family in FAMILIES.values():
        if named & set(family.architectures) or (
                not named and public.get("model_type") in (family.model_types or (family.name,))):
            try:
                return family, family.config_from_public(public)
            except UserError as error:
                raise UserError(error.what, where=where, fix=error.fix) from error
    known = ", ".join(name for family in FAMILIES.values() for name in family.architectures)
    raise UserError(f"the architecture {', '.join(sorted(named)) or public.get('model_type')!r} is not supported",
                    where=where, fix=f"supported: {known}")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a public folder under their public names: safetensors, or a pickle-free read of .bin."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_safetensors(single)
    if index.is_file():
        return _read_shards(folder, read_json(index), index)
    old, index = folder / "pytorch_model.bin", folder / "pytorch_model.bin.index.json"
    if old.is_file():
        return _read_torch(old)
    if index.is_file():
        return _read_shards(folder, read_json(index), index)
    raise UserError("there are no weights here", where=str(folder), fix="expected model.safetensors")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file; UserError if it is damaged or cut short."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise UserError("this file is missing", where=str(path)) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"this safetensors file is damaged or cut short ({error})", where=str(path),
                        fix="copy or download it again") from error


def _read_shards(folder: Path, index: Any, where: Path) -> dict[str, Tensor]:
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError("the index has no weight_map", where=str(where))
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"the index names {name!r}, which is no file of this folder", where=str(where))
        tensors.update((_read_torch if name.endswith(".bin") else read_safetensors)(folder / name))
    lost = sorted(set(weight_map) - set(tensors))
    if lost:
        raise UserError(f"the index promises {', '.join(lost[:6])}, but no shard holds it", where=str(where),
                        fix="download the shards again")
    return tensors


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise UserError("this file is missing", where=str(path)) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
        raise UserError(f"this file holds more than weights, or is damaged ({str(error).splitlines()[0]})",
                        where=str(path), fix="use a safetensors file") from error
