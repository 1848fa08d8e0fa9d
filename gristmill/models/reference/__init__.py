"""Second, slow readings of public weights: the witnesses in every proof of an import or export.

Each is written from the papers and the descriptions of the file formats and shares no code with the rest of this room,
on purpose: a mistake in one of the two readings shows as a difference. fp32 throughout, one sequence at a time.
In: a folder or file, and inputs by name. Out: states after every block, and logits.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

READERS = {
    "LlamaForCausalLM": "decoder",
    "MistralForCausalLM": "decoder",
    "Qwen2ForCausalLM": "decoder",
    "Qwen3ForCausalLM": "decoder",
    "GristmillForCausalLM": "decoder",
    "GPT2LMHeadModel": "gpt",
    "GPT3LMHeadModel": "gpt",
    "CohereForCausalLM": "palm",
    "MixtralForCausalLM": "moe",
    "Glm4MoeForCausalLM": "moe",
    "Qwen2MoeForCausalLM": "moe",
    "Qwen3MoeForCausalLM": "moe",
    "BertForPreTraining": "encoder",
    "BertForMaskedLM": "encoder",
    "RobertaForMaskedLM": "encoder",
    "XLMRobertaForMaskedLM": "encoder",
    "XLMWithLMHeadModel": "encoder",
    "T5ForConditionalGeneration": "encoder_decoder",
    "MT5ForConditionalGeneration": "encoder_decoder",
    "XLNetLMHeadModel": "two_stream",
}
"""Architecture in config.json -> module of this package with `run(folder, inputs)`."""


def run(source: Path, inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """States (tokens, dim) after every block and logits (tokens, vocab) of inputs of one row, read from `source`."""
    reader = "decoder"
    if source.is_dir():
        named = json.loads((source / "config.json").read_text()).get("architectures") or ["LlamaForCausalLM"]
        if named[0] not in READERS:
            raise ValueError(f"no slow reading of {named[0]} yet; there are {', '.join(READERS)}")
        reader = READERS[named[0]]
    elif source.suffix == ".gguf":
        with source.open("rb") as file:
            reader = "gpt" if b"gpt2.block_count" in file.read(100_000) else "decoder"
    return importlib.import_module(f"gristmill.models.reference.{reader}").run(source, inputs)
