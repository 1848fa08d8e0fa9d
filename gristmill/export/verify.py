"""Checking a release later: are these still the files that were proven, and do they still compute the same?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gristmill.core.errors import InternalError
from gristmill.core.files import read_json
from gristmill.core.hashing import digest_file
from gristmill.export.release import PROOF, prove_folder
from gristmill.models.loading import load_model


def verify_release(folder: Path | str) -> dict[str, Any]:
    """Digests against proof.json where there is one, then logits: our reader, the slow one, and transformers if here.

    Works on any public Llama folder. InternalError names the changed file or the first block that differs; UserError
    where the folder is no readable model.
    """
    folder = Path(folder)
    stated = read_json(folder / PROOF).get("files", {}) if (folder / PROOF).is_file() else {}
    for name, expected in stated.items():
        path = folder / Path(name).name
        if not path.is_file() or digest_file(path) != expected:
            raise InternalError("this file is not the one that was proven at the export", where=str(path),
                                fix="export the model again")
    return {**prove_folder(load_model(folder), folder), "files_checked": len(stated)}
