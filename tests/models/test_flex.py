"""Flex attention inside of what is compiled, as a GPU runs it: masks are one kernel, not a way out of the graph."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import flex_attention

from gristmill.core.compiler import compiler_problem
from gristmill.models import Decoder, DecoderConfig, decoder, encoder, encoder_decoder
from gristmill.models.config import EncoderConfig, EncoderDecoderConfig
from gristmill.models.encoder_decoder import EncoderDecoder
from gristmill.models.layers import flex as flex_module
from gristmill.models.layers.attention import reference
from gristmill.models.layers.flex import flex
from gristmill.models.layers.masks import FULL, Pattern
from gristmill.training.activation_checkpointing import checkpoint_activations


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem() is not None, reason="no compiler")
@pytest.mark.parametrize("packed", [False, True])
def test_every_pattern_compiles_in_one_graph(packed):
    """torch 2.11 refuses a mask that gives its positions an axis; so forward only, which a CPU has, is enough."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 256, 16, generator=generator) for _ in range(3))
    documents = torch.arange(256).expand(2, -1) // 100 if packed else None
    pattern = Pattern(window=2, dilation=2, stride=8, global_tokens=1, block=4)

    def run(q, k, v, documents):
        return flex(q, k, v, documents, pattern=pattern, first=0)

    with torch.no_grad():
        found = torch.compile(run, fullgraph=True)(q, k, v, documents)
        torch.testing.assert_close(found, reference(q, k, v, documents, pattern=pattern), rtol=1e-3, atol=1e-4)


SIZES = {"vocab_size": 32, "dim": 32, "layers": 3, "heads": 2, "head_dim": 16, "mlp_dim": 32, "context": 64}


@pytest.mark.parametrize("choice", ["none", "selective", "full"])
@pytest.mark.parametrize("kind", ["decoder", "windows", "encoder"])
def test_blocks_get_one_mask_and_compile_whole_where_activations_are_made_again(kind, choice, monkeypatch):
    body = encoder if kind == "encoder" else decoder
    made, graphs = [], []

    def block_mask(*args, **kwargs):
        made.append(args[0])
        return original(*args, **kwargs)

    def as_on_gpu(q, k, v, document_ids=None, *, pattern, dropout, prefix=None, mask=None):
        return flex(q, k, v, document_ids, pattern=pattern, mask=mask)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def model():
        if kind == "encoder":
            made = encoder.Encoder(EncoderConfig(family="bert", **SIZES))
        else:
            windows = {"window": 16, "attention": ("window", "window", "full")} if kind == "windows" else {}
            made = Decoder(DecoderConfig(kv_heads=2, **SIZES, **windows))
        made.initialise(0)
        return made

    plain, ids = model(), torch.randint(32, (2, 64), generator=torch.Generator().manual_seed(0))
    original = flex_module.block_mask
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)  # with gradients: not on a CPU
    monkeypatch.setattr(flex_module, "block_mask", block_mask)
    monkeypatch.setattr(flex_module, "pays_flex", lambda *_: True)
    documents = [torch.arange(64).expand(2, -1) // length for length in (64, 20, 7)]
    wanted = [plain.hidden(ids, document_ids=each) for each in documents]
    made.clear()
    monkeypatch.setattr(body, "attention", as_on_gpu)
    monkeypatch.setattr(decoder, "takes_joined", lambda *_: False)
    given = model()
    checkpoint_activations(given, choice, compiled=True)
    for block in given.all_blocks:
        block.compile(dynamic=False, backend=backend, fullgraph=True)
    for each, true in zip(documents, wanted, strict=True):
        made.clear()
        found = given.hidden(ids, document_ids=each)
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-4)
        found.sum().backward()
        assert len(made) == (2 if kind == "windows" else 1), "one for each pattern, however many layers"
    assert len(graphs) == (2 if kind == "windows" else 1)


@pytest.mark.parametrize("choice", ["none", "full"])
def test_all_layers_look_at_another_text_by_one_mask(choice, monkeypatch):
    made, graphs, original = [], [], flex_module.block_mask

    def block_mask(*args, **kwargs):
        made.append(args[2:4])
        return original(*args, **kwargs)

    def as_on_gpu(q, k, v, document_ids=None, *, bias=None, mask=None, **more):
        if bias is not None:
            return reference(q, k, v, document_ids, bias=bias, **more)
        return flex(q, k, v, document_ids, mask=mask, **more)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def model():
        made = EncoderDecoder(EncoderDecoderConfig(family="t5", decoder_layers=3, **SIZES))
        made.initialise(0)
        for block in made.decoder.blocks:
            torch.nn.init.normal_(block.cross.output.weight, generator=torch.Generator().manual_seed(1))
        return made

    read, written = (torch.randint(32, (2, time), generator=torch.Generator().manual_seed(time)) for time in (48, 64))
    ids = {"document_ids": torch.arange(48).expand(2, -1) // 20,
           "decoder_document_ids": torch.arange(64).expand(2, -1) // 25}
    wanted = model().hidden(read, written, **ids)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)  # with gradients: not on a CPU
    monkeypatch.setattr(flex_module, "block_mask", block_mask)
    monkeypatch.setattr(flex_module, "pays_flex", lambda *_: True)
    monkeypatch.setattr(encoder_decoder, "attention", as_on_gpu)
    given = model()
    torch.compiler.reset()  # all that is checkpointed shares the count of its shapes
    checkpoint_activations(given, choice, compiled=True)
    for block in given.decoder.blocks:
        block.compile(dynamic=False, backend=backend, fullgraph=True)
    found = given.hidden(read, written, **ids)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    found.sum().backward()
    assert made == [(64, 48)], "one, however many layers"
    assert graphs


def test_masks_are_made_for_patterns_that_pay(monkeypatch):
    ids = torch.zeros(2, 64, dtype=torch.int64)
    assert flex_module.layer_masks([FULL], ids, 16) == {}
    monkeypatch.setattr(flex_module, "pays_flex", lambda q, keys, pattern, documents: not pattern.plain)
    local = Pattern(window=8)
    assert list(flex_module.layer_masks([FULL, local, local], ids, 16)) == [local]
