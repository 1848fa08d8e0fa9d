"""Writing a release folder and proving it, before anybody sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gristmill.core.artifact import RECORD, Artifact
from gristmill.core.files import write_atomic, write_json
from gristmill.core.hashing import digest_file
from gristmill.export.card import Card, write_card
from gristmill.models import proof
from gristmill.models.loading import load_model
from gristmill.models.saving import save_model
from gristmill.tokenizer import Tokenizer

PROOF = "proof.json"


def write_release(source: Artifact, folder: Path, *, dtype: str, card: Card) -> dict[str, Any]:
    """Fill `folder` with the release of `source` and give its proof. InternalError if it does not compute the same."""
    wanted = getattr(torch, dtype)
    model = load_model(source.path, dtype=wanted)
    tokenizer = Tokenizer.load(source.path)
    save_model(model, folder, tokenizer=tokenizer, dtype=wanted)
    # The proof runs in fp32 on the very values that are stored, so that only mistakes differ, not precision.
    result = prove_folder(load_model(source.path, dtype=wanted).float() if wanted != torch.float32 else model, folder)
    write_atomic(folder / "README.md", write_card(card, source, model, tokenizer, result))
    result["files"] = {
        path.name: digest_file(path) for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in (PROOF, RECORD)
    }
    write_json(folder / PROOF, result)
    return result


def prove_folder(model: Any, folder: Path) -> dict[str, Any]:
    """Compare `model` (fp32) with every independent reader of `folder` that is here."""
    witnesses: dict[str, Any] = {"slow reading": lambda inputs: proof.trace_reference(folder, inputs)}
    if proof.has_transformers(model.config):
        witnesses["transformers"] = lambda inputs: proof.trace_transformers(folder, inputs)
    return proof.prove(model, witnesses, str(folder))
