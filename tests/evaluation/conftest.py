"""A tiny world: a corpus of made-up Python modules, a tokenizer, and three models of two layers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gristmill.core.artifact import Artifact
from gristmill.core.files import write_json
from gristmill.core.hashing import digest_folder
from gristmill.core.seeds import fraction
from gristmill.core.stage import Runtime, StageContext
from gristmill.data.documents import Document, row, write_shard
from gristmill.models import Decoder, DecoderConfig
from gristmill.models.saving import save_model
from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.train import train_bpe
from gristmill.tokens import materialise

VERBS = ["add", "count", "find", "join", "load", "merge", "split", "write"]
NOUNS = ["bytes", "items", "lines", "names", "pairs", "rows", "words"]


def module(number: int) -> str:
    """Source text with a few documented functions, a pure function of its number."""
    parts = [f'"""Module {number}."""\n\nimport os\n']
    for k in range(4):
        verb = VERBS[int(fraction("verb", number, k) * len(VERBS))]
        noun = NOUNS[int(fraction("noun", number, k) * len(NOUNS))]
        parts.append(f'''
def {verb}_{noun}_{number}(values, start={k}):
    """{verb.capitalize()} the {noun} of all values."""
    result = start
    for value in values:
        result += len(value.{noun})
    return result
''')
    return "".join(parts)


def finish(folder: Path, kind: str, name: str, uses: str, inputs: dict[str, Artifact], **config: Any) -> Artifact:
    """Write a record beside a payload, as the pipeline does."""
    write_json(folder / "artifact.json", {
        "kind": kind, "name": f"tiny/{name}", "version": 1, "digest": digest_folder(folder), "uses": uses,
        "config": config, "metrics": {},
        "inputs": {reference: {"name": a.record["name"], "version": 1, "kind": a.kind, "digest": a.digest,
                               "path": f"../{a.path.name}"} for reference, a in inputs.items()}})
    return Artifact.open(folder)


@dataclass
class World:
    """Artifacts by name, and where they lie."""

    folder: Path
    artifacts: dict[str, Artifact]
    tokenizer: Tokenizer

    def context(self, work: Path, *references: str, progress: Any = None) -> StageContext:
        names = references or tuple(self.artifacts)
        extra = {"progress": progress} if progress else {}
        return StageContext(name="tiny/scores@1", seed=7, work=work, cache=self.folder / "cache",
                            inputs={n: self.artifacts[n] for n in names},
                            runtime=Runtime(device="cpu", threads=1, precision="fp32"), **extra)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    corpus_folder = folder / "corpus@1"
    texts: dict[str, list[str]] = {"train": [], "test": []}
    for split, numbers in (("train", range(60)), ("test", range(100, 130))):
        rows = []
        for n in numbers:
            texts[split].append(module(n))
            document = Document(f"m/{n:04d}.py", module(n), "m", language="python", metadata={"path": f"{n}.py"})
            rows.append(row(document, split=split))
        write_shard(corpus_folder / "documents" / f"{split}-00000.parquet", rows)
    corpus = finish(corpus_folder, "corpus", "corpus", "data", {})
    tokenizer = train_bpe([texts["train"]], vocab_size=400)
    config = DecoderConfig(vocab_size=400, dim=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp_dim=48, context=128)
    shards = materialise(corpus, tokenizer, "train", folder / "cache")
    artifacts = {"corpus": corpus}
    before: dict[str, Artifact] = {"corpus": corpus}
    for name, uses, seed in (("base", "pretrain", 1), ("assistant", "finetune", 2), ("aligned", "align", 3)):
        model = Decoder(config)
        model.initialise(seed)
        with torch.no_grad():  # a table of bigrams is all that these models know
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        save_model(model, folder / f"{name}@1", tokenizer=tokenizer)
        plan = {"steps": 5, "batch": 2, "context": 64, "seed": 11, "tokens": 640, "corpus_tokens": shards.total_tokens}
        plan = plan if uses == "pretrain" else {"steps": 3, "batch": 2, "seed": 1}
        write_json(folder / f"{name}@1" / "plan.json", plan)
        artifacts[name] = finish(folder / f"{name}@1", "model", name, uses, before)
        before = {name: artifacts[name], "corpus": corpus}
    return World(folder, artifacts, tokenizer)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    np.seterr(all="raise", under="ignore")


def payload(folder: Path) -> dict[str, Any]:
    """results.json and samples.json of a finished evaluation."""
    return {name: json.loads((folder / name).read_text()) for name in ("results.json", "samples.json")}
