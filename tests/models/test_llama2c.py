"""llama2.c checkpoints: the golden tokens of its own run.c, and damaged files."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from gristmill.core.errors import UserError
from gristmill.generation import Engine, Sampling
from gristmill.models import proof
from gristmill.models.llama2c import MAGIC, V1_HEADER
from gristmill.models.loading import load_model
from tests.models.random_models import random_decoder
from tests.shared import DATA

MODEL_DATA = DATA / "model"
BIN = MODEL_DATA / "aidreams260K.bin"
needs_data = pytest.mark.skipif(not BIN.exists(), reason="the shared test data are not here")


@needs_data
def test_greedy_tokens_equal_those_of_run_c():
    golden = json.loads((MODEL_DATA / "aidreams260K_golden.json").read_text())
    wanted = golden["token_ids_after_bos"]
    out = Engine(load_model(BIN)).generate([[golden["bos"]]], Sampling(max_tokens=len(wanted), temperature=0))
    assert out[0].tokens == wanted


@needs_data
def test_the_slow_reading_in_the_files_own_layout_agrees():
    model = load_model(BIN)
    found = proof.prove(model, {"slow": lambda inputs: proof.trace_reference(BIN, inputs)}, "here")
    assert found["witnesses"]["slow"]["largest"] < 1e-5


@needs_data
@pytest.mark.parametrize("change", [lambda b: b[:-4], lambda b: b + b"\0" * 4, lambda b: b[:20],
                                    lambda b: struct.pack("<i", 63) + b[4:], lambda b: b"PK\3\4" + b[4:]])
def test_a_file_of_the_wrong_length_is_refused(change, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(change(BIN.read_bytes()))
    with pytest.raises(UserError, match="this is no llama2"):
        load_model(path)


def halves_to_pairs(weight, heads):
    size = weight.shape[0] // heads
    return weight.reshape(heads, 2, size // 2, -1).transpose(1, 2).reshape(weight.shape)


@pytest.mark.parametrize("tied", [True, False])
def test_version_1_is_read(tied, tmp_path):
    model = random_decoder(tied_head=tied)
    state, c = model.state_dict(), model.config
    parts = [state[f"blocks.{i}.{name}.weight"] for name in ("attention_norm", "mlp_norm") for i in range(c.layers)]
    parts += [state["norm.weight"], state["embedding.weight"]]
    for name in ("query", "key", "value", "output"):
        for i in range(c.layers):
            weight = state[f"blocks.{i}.attention.{name}.weight"]
            heads = {"query": c.heads, "key": c.kv_heads}.get(name)
            parts.append(weight if heads is None else halves_to_pairs(weight, heads))
    parts += [state[f"blocks.{i}.mlp.{name}.weight"] for name in ("gate", "down", "up") for i in range(c.layers)]
    parts += [] if tied else [state["head.weight"]]
    header = struct.pack("<Ii7iB", MAGIC, 1, c.dim, c.mlp_dim, c.layers, c.heads, c.kv_heads, c.vocab_size, c.context,
                         tied)
    path = tmp_path / "model.bin"
    path.write_bytes(header.ljust(V1_HEADER, b"\0") + b"".join(np.asarray(p, "<f4").tobytes() for p in parts))
    read = load_model(path).state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
