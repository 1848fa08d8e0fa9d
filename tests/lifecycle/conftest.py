"""A whole life, tiny: modules of the standard library, a model of a few thousand parameters, seconds a stage."""

import importlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.processes import run_command

MODULES = ("argparse", "ast", "base64", "bisect", "calendar", "cmd", "code", "codecs", "collections", "configparser",
           "contextlib", "copy", "csv", "dataclasses", "difflib", "enum", "fractions", "functools", "gettext", "glob",
           "gzip", "heapq", "inspect", "json.decoder", "json.encoder", "linecache", "locale", "mailbox", "mimetypes",
           "numbers", "operator", "optparse", "pathlib", "pickletools", "pprint", "queue", "random", "reprlib",
           "sched", "shelve", "shlex", "shutil", "socketserver", "statistics", "string", "tarfile", "tempfile",
           "textwrap", "threading", "timeit", "tokenize", "traceback", "types", "typing", "uuid", "weakref", "zipfile")

RECIPE = """
name: tiny
seed: 7
stages:
  corpus:
    uses: data
    sources: [{{kind: files, path: "{texts}", language: python}}]
    filter: {{preset: none}}
    split: {{valid: 0.15, test: 0.15}}
  tokenizer: {{uses: tokenizer, corpus: corpus, vocab_size: 512}}
  base:
    uses: pretrain
    corpus: corpus
    tokenizer: tokenizer
    model: {{depth: 1, dim: 64, heads: 2, context: 160}}
    budget: {{steps: 12}}
    batch: 8
    validation_tokens: 500
    training: {{evaluations: 2, checkpoint_seconds: 0.2}}
  assistant:
    uses: finetune
    model: base
    data: {{kind: docstrings, corpus: corpus, limit: 120}}
    replay: {{corpus: corpus, share: 0.25}}
    steps: 6
    batch: 8
    too_long: truncate
    training: {{evaluations: 2, checkpoint_seconds: 0.2}}
  aligned:
    uses: align
    model: assistant
    data: {{corpus: corpus, prompts: 24, samples: 3, max_tokens: 12}}
    steps: 4
    batch: 4
    without_pairs: keep
    training: {{evaluations: 2, checkpoint_seconds: 0.2}}
  scores:
    uses: evaluate
    models: [base, assistant, aligned]
    corpus: corpus
    max_bytes: 20000
    tasks: [perplexity, {{kind: python_functions, max_tokens: 12}}, docstring, forgetting, samples]
    prompts: 6
    samples: 1
  release: {{uses: export, model: aligned, evaluation: scores}}
"""



def write_recipe(folder: Path, modules: Sequence[str] = MODULES, stages: Sequence[str] = (), **changes: dict) -> Path:
    """tiny.yaml in the folder, beside the texts of these modules. stages: only these. changes: by stage."""
    rows = [{"text": inspect.getsource(importlib.import_module(name)), "id": name} for name in modules]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = yaml.safe_load(RECIPE.format(texts=folder / "texts.jsonl"))
    recipe["stages"] = {name: stage | changes.get(name, {}) for name, stage in recipe["stages"].items()
                        if not stages or name in stages}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    """A recipe from raw text to a release that runs in well under a minute."""
    return write_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe, tmp_path_factory) -> Path:
    """The finished, undisturbed run."""
    runs = tmp_path_factory.mktemp("runs")
    run_command("run", tiny_recipe, "--runs-dir", runs)
    return runs / "tiny"
