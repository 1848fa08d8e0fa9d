"""However rows are laid out, and by however many workers, the loss and its gradients are the same."""

import pytest
import torch

from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import CausalLM
from gristmill.tokens import Loader, RowBatches, pack_examples, pad_examples

TINY = DecoderConfig(vocab_size=50, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_dim=64, context=48)


def examples(count=23):
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        length = int(torch.randint(3, 40, (1,), generator=generator))
        ids = torch.randint(0, 50, (length,), generator=generator).tolist()
        made.append((ids, [0] + [int(torch.rand(1, generator=generator) < 0.6) for _ in ids[1:]]))
    return made


def loss_and_gradients(batches):
    torch.manual_seed(0)
    model, objective = Decoder(TINY), CausalLM()
    batches = [dict(b) for b in batches]
    count = sum(objective.counts(b)["loss"] for b in batches)
    total = 0.0
    for batch in batches:
        loss = objective.terms(model, batch).sums["loss"] / count
        loss.backward()
        total += float(loss)
    return total, {n: p.grad for n, p in model.named_parameters()}


def compare(one, other):
    assert one[0] == pytest.approx(other[0], abs=1e-6)
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-6, rtol=0)


def test_packed_equals_padded():
    data = examples()
    packed, padded = pack_examples(data, 48), pad_examples(data, 48)
    assert len(packed) < len(padded), "or nothing was packed"
    compare(loss_and_gradients([packed.batch(range(len(packed)))]),
            loss_and_gradients([padded.batch(range(len(padded)))]))


@pytest.mark.parametrize("prefetch", [1, 2])
def test_loader_workers_change_nothing(prefetch):
    source = RowBatches(pack_examples(examples(), 48), batch=3, seed=5, epochs=1)
    plain = [source.batch(step) for step in range(source.steps)]
    with Loader(source, 0, source.steps, prefetch=prefetch) as loader:
        loaded = [batch for _, batch in loader]
    compare(loss_and_gradients(plain), loss_and_gradients(loaded))
