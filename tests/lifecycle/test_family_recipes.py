"""The ready recipes of the model families, each run to its end in seconds: the same stages, smaller numbers.

A new recipe is one entry in RECIPES.
"""

from __future__ import annotations

import importlib
import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import gristmill
from gristmill.core.files import read_jsonl
from gristmill.data.python_code import functions
from gristmill.pipeline.status import run_status
from tests.lifecycle.conftest import MODULES
from tests.processes import run_command

FOLDER = Path(__file__).parents[2] / "recipes"
TEXT = ("stages.corpus.sources=[{{kind: files, path: '{texts}', language: python}}]",
        "stages.corpus.filter.preset=none", "stages.corpus.split={{valid: 0.1, test: 0.1}}",
        "stages.tokenizer.vocab_size=640")
"""Some modules of the standard library in place of all of it."""
PAIRS = ("stages.corpus.sources=[{{kind: files, path: '{pairs}'}}]", *TEXT[1:])
"""Documentation and code of their functions."""
SHORT = ("stages.base.budget.steps=40", "stages.base.batch=8", "stages.base.validation_tokens=1500",
         "stages.base.training.evaluations=4")


@dataclass(frozen=True)
class Ready:
    """How a recipe is made small, and which public class opens what it releases."""

    overrides: tuple[str, ...]
    """Values of `--set`, in which {texts} and {pairs} are files of text and of parallel text (other braces doubled)."""
    public_class: str
    """Empty where no other library opens it."""
    stages: list[str] = field(default_factory=lambda: ["corpus", "tokenizer", "base", "release"])


RECIPES = {
    "gpt2-124m": Ready(
        (*TEXT, *SHORT, "stages.base.model={{family: gpt2, depth: 1, dim: 64, heads: 2, context: 64}}"),
        "GPT2LMHeadModel", ["corpus", "tokenizer", "base", "scores", "release"]),
    "gristmill-depth": Ready(
        (*TEXT, *SHORT, "stages.base.model={{family: gristmill, depth: 2, dim: 64, heads: 2, context: 64}}"),
        "", ["corpus", "tokenizer", "base", "scores", "release"]),
    "moe": Ready(
        (*TEXT, *SHORT, "stages.base.model={{family: moe, depth: 2, dim: 64, heads: 2, context: 64}}"),
        "Glm4MoeForCausalLM", ["corpus", "tokenizer", "base", "scores", "release"]),
    "bert-base": Ready(
        (*TEXT, *SHORT, "stages.base.model={{family: bert, depth: 1, dim: 64, heads: 2, context: 64}}"),
        "BertForPreTraining"),
    "roberta-base": Ready(
        (*TEXT, *SHORT, "stages.base.model={{family: roberta, depth: 1, dim: 64, heads: 2, context: 64}}"),
        "RobertaForMaskedLM"),
    "xlm-tiny": Ready(
        (*PAIRS, *SHORT,
         "stages.base.model={{family: xlm, depth: 1, dim: 64, heads: 2, options: {{languages: [en, python]}}}}"),
        "XLMWithLMHeadModel"),
    "t5-small": Ready(
        (*TEXT, *SHORT, "stages.base.model={{family: t5, depth: 1, dim: 64, heads: 2, context: 64}}"),
        "T5ForConditionalGeneration"),
    "xlnet-base": Ready(
        (*TEXT, *SHORT, "stages.base.model={{family: xlnet, depth: 1, dim: 64, heads: 2, context: 64}}"),
        "XLNetLMHeadModel"),
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    """Modules as they are, and their functions as pairs of documentation and code."""
    folder = tmp_path_factory.mktemp("texts")
    sources = {name: inspect.getsource(importlib.import_module(name)) for name in MODULES[::2]}
    pairs = [{"text": text, "language": language, "pair": f"{name}.{function.qualified_name}"}
             for name, source in sources.items() for function in functions(source) if len(function.docstring) > 20
             for language, text in (("en", function.docstring), ("python", f"{function.signature}\n{function.body}"))]
    rows = {"texts": [{"text": source, "id": name} for name, source in sources.items()], "pairs": pairs}
    for kind, records in rows.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")
    return {kind: folder / f"{kind}.jsonl" for kind in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_ready_recipe_runs_to_its_end_and_learns(name, texts, tmp_path):
    ready = RECIPES[name]
    run_command("run", FOLDER / f"{name}.yaml", "--runs-dir", tmp_path, "--no-report",
                *(word for override in ready.overrides for word in ("--set", override.format(**texts))))
    status = run_status(tmp_path / name)
    assert {stage["name"]: stage["state"] for stage in status["stages"]} == dict.fromkeys(ready.stages, "done")

    evaluations = read_jsonl(tmp_path / name / "artifacts" / "base@1" / "evaluations.jsonl")
    assert evaluations[-1]["valid_loss"] < 0.95 * evaluations[0]["valid_loss"]

    folder = tmp_path / name / "artifacts" / "release@1"
    ours = gristmill.load(folder)
    if not ready.public_class:
        assert json.loads((folder / "proof.json").read_text())["witnesses"].keys() == {"slow reading"}
        return
    transformers = pytest.importorskip("transformers")
    public = getattr(transformers, ready.public_class).from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([ours.tokenizer.encode("def main(argv):\n    return argv[0]")])
    second = {} if ours.continues else {"decoder_input_ids": ids}
    with torch.no_grad():
        theirs = public(input_ids=ids, **second)
    logits = theirs.get("logits", theirs.get("prediction_logits"))
    assert float((ours.logits(ids, **second) - logits).abs().max() / logits.abs().max()) < 1e-4
