"""Small random encoder-decoders, inputs for them, and the comparison with the public classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from gristmill.models import proof
from gristmill.models.config import EncoderDecoderConfig
from gristmill.models.encoder_decoder import EncoderDecoder
from gristmill.models.families import FAMILIES
from gristmill.models.loading import load_model
from gristmill.models.saving import save_model
from tests.models.closeness import check_gradients, close, gradients_of


def tiny_config(**changes: Any) -> EncoderDecoderConfig:
    sizes = {"vocab_size": 61, "dim": 24, "layers": 2, "heads": 3, "head_dim": 8, "mlp_dim": 40, "context": 32,
             "buckets": 8, "furthest": 20}
    if changes.get("family") == "mt5":
        sizes |= {"mlp": "geglu", "tied_head": False}
    return EncoderDecoderConfig(**{**sizes, **changes})


def random_encoder_decoder(config: EncoderDecoderConfig, seed: int = 0) -> EncoderDecoder:
    """Weights with deviation 0.3: flat logits would hide mistakes. Embeddings with 1 and queries with what stands for
    the missing 1/sqrt(head_dim), as the public ones begin: else the model itself would blow up rounding errors."""
    model = EncoderDecoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                scale = config.head_dim**-0.5 if name.endswith("query.weight") else 1.0
                parameter.normal_(0.0, 1.0 if name == "embedding.weight" else 0.3 * scale, generator=generator)
    return model.eval()


@st.composite
def configs(draw: Any, family: str = "t5") -> EncoderDecoderConfig:
    """Odd sizes, heads that do not fill the width, stacks of unlike depth, few and many buckets."""
    buckets = draw(st.sampled_from([4, 5, 6, 7, 8, 13, 32]))
    return EncoderDecoderConfig(
        family=family, vocab_size=draw(st.integers(5, 70)), dim=draw(st.integers(8, 33)),
        layers=draw(st.integers(1, 3)), decoder_layers=draw(st.integers(0, 3)), heads=draw(st.integers(1, 4)),
        head_dim=draw(st.integers(1, 9)), mlp_dim=draw(st.integers(1, 40)), context=draw(st.integers(2, 40)),
        buckets=buckets, furthest=draw(st.integers(buckets // 2 + 1, 140)),
        mlp=draw(st.sampled_from(["relu", "gelu", "gelu_tanh", "geglu", "swiglu"])),
        norm_eps=draw(st.sampled_from([1e-6, 1e-5])), tied_head=family == "t5" and draw(st.booleans()),
        pad_id=draw(st.integers(0, 4)), start_id=draw(st.integers(0, 4)), dropout=draw(st.sampled_from([0.0, 0.1])),
    )


def random_batch(config: EncoderDecoderConfig, seed: int, rows: int = 3) -> tuple[dict[str, Any], dict[str, Any]]:
    """(our batch, the public inputs): padded rows of every length on both sides, the shortest of one token, some
    targets of none; the public decoder's input is made by public code from its labels."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    def lengths(longest: int) -> torch.Tensor:
        found = draw(1, longest + 1, rows)
        found[0], found[-1] = longest, 1
        return torch.arange(longest)[None] < found[:, None]

    read, written = lengths(int(draw(1, config.context + 1, 1))), lengths(int(draw(1, config.context + 1, 1)))
    ids = torch.where(read, draw(0, config.vocab_size, *read.shape), config.pad_id)
    labels = draw(0, config.vocab_size, *written.shape)
    given = torch.cat([torch.full((rows, 1), config.start_id), labels[:, :-1]], dim=1)
    batch = {
        "input_ids": ids, "document_ids": read.int() - 1, "decoder_document_ids": written.int() - 1,
        "decoder_input_ids": torch.where(written, given, config.pad_id),
        "targets": torch.where(written, labels, -100),
    }
    return batch, {"input_ids": ids, "attention_mask": read.long(), "labels": batch["targets"]}


def public_model(folder: Path) -> Any:
    """The folder in transformers."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def traced(model: Any, blocks: Any, inputs: dict[str, Any]) -> tuple[list[torch.Tensor], Any]:
    """States after every block, and what the model gives."""
    states: list[torch.Tensor] = []

    def keep(module: Any, given: Any, out: Any) -> None:
        states.append(out[0] if isinstance(out, tuple) else out)

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        return states, model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()


def check_against_public(config: EncoderDecoderConfig, folder: Path, seed: int = 0) -> None:
    """States of every block of both stacks, logits, loss, gradients and files of a random model: ours against
    transformers and the slow reading."""
    family = FAMILIES[config.family]
    model = random_encoder_decoder(config, seed)
    save_model(model, folder)
    again = load_model(folder)
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))

    inputs = proof.probe(config)
    ours = proof.trace(model, inputs)
    assert len(ours[0]) == config.layers + config.decoder_layers
    for other in (proof.trace_reference(folder, inputs), proof.trace_transformers(folder, inputs)):
        found = proof.compare(ours, other)
        assert found["largest"] < 1e-5, found

    batch, public = random_batch(config, seed)
    theirs = public_model(folder)
    read, written = batch["document_ids"] >= 0, batch["decoder_document_ids"] >= 0
    arguments = {name: tensor for name, tensor in batch.items() if name != "targets"}
    states, logits = traced(model, model.all_blocks, arguments)
    blocks = [block for path in family.public_blocks for block in theirs.get_submodule(path)]
    wanted_states, wanted = traced(theirs, blocks, public)
    for number, (a, b) in enumerate(zip(states, wanted_states, strict=True)):
        real = read if number < config.layers else written
        assert close(a[real], b[real]), number
    assert close(logits[written], wanted.logits[written])
    loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    assert abs(float((loss - wanted.loss).detach())) <= 1e-6 * max(1.0, float(loss.detach()))

    loss.backward()
    wanted.loss.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    mapped = family.to_public(gradients, config)
    assert len(gradients_of(theirs)) == len(mapped), "every tensor has a gradient in both"
    check_gradients(mapped, theirs, lambda twin: twin(**public).loss)
