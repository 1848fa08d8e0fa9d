"""One comparison for every decoder family: a random public model against what we read from its folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from gristmill.generation import Engine, Sampling
from gristmill.models import proof
from gristmill.models.body import Body
from gristmill.models.families import FAMILIES
from gristmill.models.loading import load_model
from gristmill.models.saving import save_model
from tests.models.closeness import CLOSE, check_gradients, difference, gradients_of


def randomised(public: Any, seed: int) -> Any:
    """Every weight drawn anew, norms around 1 and biases too: what starts at 0 or 1 would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in public.parameters():
            if parameter.ndim == 1 and bool((parameter == 1).all()):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.3, generator=generator)
    return public.eval()


def check_both_ways(public: Any, folder: Path, *, time: int = 24, seed: int = 0, greedy: int = 12) -> Any:
    """States of every block, logits, loss and gradients; the slow reading; our folder opened by transformers; greedy
    text. `public` is a model of transformers; gives ours."""
    import transformers

    vocab = public.config.vocab_size
    ids = torch.randint(0, vocab, (2, time), generator=torch.Generator().manual_seed(seed))
    public.save_pretrained(folder / "theirs")
    ours = load_model(folder / "theirs")
    row = {"input_ids": ids[:1]}
    mine, theirs = proof.trace(ours, row), proof.trace_transformers(folder / "theirs", row)
    assert len(theirs[0]) == ours.config.layers
    for found in (proof.compare(mine, theirs), proof.compare(mine, proof.trace_reference(folder / "theirs", row))):
        assert found["largest"] < CLOSE, found

    loss, wanted = learned(public, ids)
    our_loss, found = learned(ours, ids)
    found = FAMILIES[ours.config.family].to_public(found, ours.config)
    assert abs(loss - our_loss) < 1e-6 * max(1.0, loss)
    assert wanted.keys() == found.keys()
    check_gradients(found, public, lambda twin: cross_entropy(twin, ids))

    save_model(ours, folder / "ours")
    again = load_model(folder / "ours")
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), ours.state_dict().values(), strict=True))
    with torch.no_grad():
        opened = type(public).from_pretrained(folder / "ours", dtype=torch.float32).eval()
        assert difference(opened(ids).logits, public(ids).logits) < CLOSE
        prompt = ids[0, :5].tolist()
        # The public cache of a window of 1 keeps all keys instead of none (its slice [-0:]); without it all is well.
        cached = getattr(public.config, "sliding_window", None) != 1
        text = opened.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, 5), max_new_tokens=greedy,
                               do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=cached)[0, 5:].tolist()
    assert isinstance(opened, transformers.PreTrainedModel)
    found = Engine(again, slots=2).generate([prompt], Sampling(max_tokens=greedy, temperature=0))[0]
    assert found.tokens == text
    return ours


def learned(model: Any, ids: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients over two rows. A public model reads each alone; ours both packed into one."""
    model.zero_grad()
    loss = cross_entropy(model, ids)
    loss.backward()
    return float(loss.detach()), gradients_of(model)


def cross_entropy(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The mean loss of every next token."""
    if isinstance(model, Body):
        documents = torch.arange(2).repeat_interleave(ids.shape[1] - 1)[None]
        logits = model(ids[:, :-1].reshape(1, -1), document_ids=documents)[0]
    else:
        logits = model(ids[:, :-1], use_cache=False).logits.flatten(0, 1)
    return F.cross_entropy(logits, ids[:, 1:].flatten())


def count_of(public_class: Any, config: Any) -> int:
    """Parameters of the public implementation, without storage."""
    with torch.device("meta"):
        model = public_class(config)
    return sum(parameter.numel() for parameter in model.parameters())
