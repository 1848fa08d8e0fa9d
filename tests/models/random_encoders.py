"""Small random encoders, and every comparison that each of their families has to pass."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import strategies as st

from gristmill.models import proof
from gristmill.models.config import EncoderConfig
from gristmill.models.encoder import Encoder, sinusoids
from gristmill.models.families import FAMILIES
from gristmill.models.loading import load_model
from gristmill.models.saving import save_model
from gristmill.objectives.masked_lm import MaskedLM
from tests.models.closeness import check_gradients, close, gradients_of

FAMILY_FIELDS = {
    "bert": {"segments": 2},
    "roberta": {"segments": 1, "offset_positions": True, "pad_id": 1},
    "xlm-roberta": {"segments": 1, "offset_positions": True, "pad_id": 1},
    "xlm": {"segments": 0, "transform": None, "pad_id": 2},
}


def tiny_config(family: str, **changes) -> EncoderConfig:
    dim = changes.get("dim", 24)
    heads = changes.get("heads", 3)
    sizes = {"vocab_size": 61, "dim": dim, "layers": 2, "heads": heads, "head_dim": dim // heads, "mlp_dim": 4 * dim,
             "context": 32}
    return EncoderConfig(family=family, **{**sizes, **FAMILY_FIELDS[family], **changes})


def random_encoder(config: EncoderConfig, seed: int = 0) -> Encoder:
    """Weights with deviation 0.3: flat logits would hide mistakes."""
    model = Encoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif name == "embedding.positions.weight" and config.positions == "sinusoidal":
                parameter.copy_(sinusoids(*parameter.shape))
            else:
                parameter.normal_(0.0, 0.3, generator=generator)
    return model.eval()


@st.composite
def configs(draw, family: str) -> EncoderConfig:
    heads = draw(st.integers(1, 4))
    # A norm over one or two channels gives -1, 0 or 1 whatever comes in: its gradients are rounding errors.
    dim = heads * draw(st.integers(-(-4 // heads), 9))
    mlp = draw(st.sampled_from(["gelu", "relu"] if family == "xlm" else ["gelu", "gelu_tanh", "relu"]))
    fields = {
        "vocab_size": draw(st.integers(5, 70)), "dim": dim, "layers": draw(st.integers(1, 3)), "heads": heads,
        "mlp_dim": 4 * dim if family == "xlm" else draw(st.integers(1, 40)), "context": draw(st.integers(1, 40)),
        "mlp": mlp, "norm_eps": draw(st.sampled_from([1e-12, 1e-5])), "tied_head": draw(st.booleans()),
        "pad_id": draw(st.integers(0, 4)), "dropout": draw(st.sampled_from([0.0, 0.1])),
    }
    if family == "bert":
        fields |= {"segments": draw(st.integers(1, 3)), "next_sentence": draw(st.booleans()), "transform": mlp}
    if family == "xlm":
        fields |= {"languages": draw(st.sampled_from([(), ("en", "de"), ("b", "a", "c")])),
                   "positions": draw(st.sampled_from(["learned", "sinusoidal"]))}
    return tiny_config(family, **fields)


def random_batch(config: EncoderConfig, seed: int, rows: int = 3) -> tuple[dict, dict]:
    """(our batch, the public inputs): padded rows, some targets; rows of every length, the shortest of one token."""
    generator = torch.Generator().manual_seed(seed)
    time = int(torch.randint(1, config.context + 1, (1,), generator=generator))
    lengths = torch.randint(1, time + 1, (rows,), generator=generator)
    lengths[0], lengths[-1] = time, 1
    real = torch.arange(time)[None] < lengths[:, None]
    ids = torch.randint(0, config.vocab_size, (rows, time), generator=generator)
    ids = torch.where(ids == config.pad_id, (ids + 1) % config.vocab_size, ids)
    targets = torch.randint(0, config.vocab_size, (rows, time), generator=generator)
    scored = real & (torch.rand(rows, time, generator=generator) < 0.4)
    scored[:, 0] = True
    ids, targets = torch.where(real, ids, config.pad_id), torch.where(scored, targets, -100)
    batch = {"input_ids": ids, "targets": targets, "document_ids": real.int() - 1}
    public = {"input_ids": ids, "attention_mask": real.long(), "labels": targets}
    if config.segments > 1:
        batch["token_type_ids"] = public["token_type_ids"] = torch.randint(
            0, config.segments, (rows, time), generator=generator)
    if config.languages:
        batch["langs"] = public["langs"] = torch.randint(0, len(config.languages), (rows, time), generator=generator)
    if config.next_sentence:
        batch["next_sentence_label"] = public["next_sentence_label"] = torch.randint(
            0, 2, (rows,), generator=generator)
    return batch, public


def public_model(folder: Path):
    """The folder in transformers, as the class that its config names, so that every head is there."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def our_losses(model: Encoder, batch: dict) -> dict[str, torch.Tensor]:
    """The mean of every term."""
    objective = MaskedLM(pairs="next_sentence_label" in batch)
    counts = objective.counts(batch)
    return {name: value / counts[name] for name, value in objective.terms(model, batch).sums.items()}


def check_family(config: EncoderConfig, folder: Path, seed: int = 0) -> None:
    """States, logits, loss, gradients and files of a random model, ours against transformers and the slow reading."""
    model = random_encoder(config, seed)
    save_model(model, folder)
    again = load_model(folder)
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))

    inputs = proof.probe(config)
    ours = proof.trace(model, inputs)
    for other in (proof.trace_reference(folder, inputs), proof.trace_transformers(folder, inputs)):
        found = proof.compare(ours, other)
        assert found["largest"] < 1e-5, found

    batch, public = random_batch(config, seed)
    theirs = public_model(folder)
    wanted = theirs(**public)
    losses = our_losses(model, batch)
    total = sum(losses.values())
    assert abs(total.item() - wanted.loss.item()) <= 1e-6 * max(1.0, abs(wanted.loss.item()))
    logits = wanted.get("prediction_logits", wanted.get("logits"))
    real = batch["document_ids"] >= 0
    assert close(model(**{k: v for k, v in batch.items() if k in ARGUMENTS})[real], logits[real])

    total.backward()
    wanted.loss.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    mapped = FAMILIES[config.family].to_public(gradients, config)
    for name, parameter in theirs.named_parameters():
        if name not in mapped:  # of tied parameters, the name that the public class happens to list first
            mapped[name] = mapped[FAMILIES[config.family].copies[name]]
        if "position_embeddings" in name and config.positions == "sinusoidal":
            parameter.grad = None  # a fixed table learns nothing here; transformers gives it a gradient all the same
    assert len(gradients_of(theirs)) > 10 * config.layers
    check_gradients(mapped, theirs, lambda twin: twin(**public).loss)


ARGUMENTS = ("input_ids", "document_ids", "token_type_ids", "langs", "position_ids")


def check_training_folder(folder: Path, public_config, public_class, seed: int = 0) -> None:
    """A folder that transformers wrote: we open it and compute the same, and write the same tensors again."""
    torch.manual_seed(seed)
    theirs = public_class(public_config).eval()
    theirs.save_pretrained(folder / "theirs")
    ours = load_model(folder / "theirs")
    config = ours.config
    batch, public = random_batch(config, seed)
    real = batch["document_ids"] >= 0
    with torch.no_grad():
        wanted = theirs(**public)
        found = ours(**{k: v for k, v in batch.items() if k in ARGUMENTS})
    logits = wanted.get("prediction_logits", wanted.get("logits"))
    assert close(found[real], logits[real])
    save_model(ours, folder / "ours")
    back = public_model(folder / "ours")
    with torch.no_grad():
        again = back(**public)
    assert close(again.get("prediction_logits", again.get("logits"))[real], logits[real])
