"""Muon's orthogonal updates, and one rule for each parameter."""

import pytest
import torch

from gristmill.models import Decoder, DecoderConfig
from gristmill.training.optimizers import Muon, OptimizerConfig, build_optimizer, muon
from gristmill.training.optimizers.muon import orthogonalise

TINY = DecoderConfig(vocab_size=50, dim=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_dim=64, context=32)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 40, 12), (2, 12, 40)])
def test_orthogonalised_matrices_have_singular_values_near_one_and_the_same_directions(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    result = orthogonalise(matrices).float()
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3
    assert values.max() < 1.4
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    exact = u @ v
    cosine = (result * exact).sum((1, 2)) / (result.norm(dim=(1, 2)) * exact.norm(dim=(1, 2)))
    assert cosine.min() > 0.95


def test_equal_shapes_in_a_batch_equal_one_at_a_time():
    torch.manual_seed(0)
    values = [torch.randn(8, 12) for _ in range(3)]
    gradients = [torch.randn(8, 12) for _ in range(3)]
    together = [torch.nn.Parameter(v.clone()) for v in values]
    alone = [torch.nn.Parameter(v.clone()) for v in values]
    for parameters in (together, alone):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    Muon(together, lr=0.1).step()
    for parameter in alone:
        Muon([parameter], lr=0.1).step()
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96), (3, 24, 40)])
@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_the_size_of_batches_changes_nothing_but_rounding(shape, count, monkeypatch):
    results = []
    for limit in (1, 2**13, 2**26):
        monkeypatch.setitem(muon.BATCH, "cpu", limit)
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(count)]
        sizes = [len(batch) for batch in muon._batches(parameters)]
        assert sum(sizes) == count
        assert min(sizes) >= min(2, count)
        optimizer = Muon(parameters, lr=0.1)
        for _ in range(2):
            for parameter in parameters:
                parameter.grad = torch.randn(shape, generator=generator)
            optimizer.step()
        results.append(torch.stack([p.detach() for p in parameters]))
    # 8 bits of mantissa in five iterations, on directions whose entries are lr * 0.2 large.
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-3, rtol=0)


def test_without_fast_bf16_the_iteration_is_the_same_in_fp32(monkeypatch):
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 40)
    low = orthogonalise(matrices)
    monkeypatch.setattr(muon, "bf16_pays", lambda device: False)
    exact = orthogonalise(matrices)
    assert exact.dtype == torch.float32
    a, b, c = muon.NEWTON_SCHULZ
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    for _ in range(5):  # the polynomial acts on the singular values alone
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(exact.double(), u * s.unsqueeze(-2) @ v, atol=1e-4, rtol=1e-4)
    assert float((low.float() - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("kind", ["muon", "adamw", "adam", "sgd", "adafactor", "lion", "adamw8bit"])
def test_every_parameter_has_exactly_one_rule(kind):
    model = Decoder(TINY)
    optimizer = build_optimizer(model, OptimizerConfig(kind=kind, weight_decay=0.1))
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(owned) == len({id(p) for p in owned}) == len(list(model.parameters()))
    decay = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay["vectors"] == decay["embedding"] == 0
    assert decay["matrices"] == 0.1


def test_adamw_equals_torchs_own(tmp_path):
    torch.manual_seed(0)
    ours, theirs = Decoder(TINY), Decoder(TINY)
    ours.initialise(0)
    theirs.load_state_dict(ours.state_dict())
    config = OptimizerConfig(kind="adamw", learning_rate=0.01, weight_decay=0.0)
    one = build_optimizer(ours, config)
    two = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(3):
        ids = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, one), (theirs, two)):
            model(ids).float().log_softmax(-1)[..., 0].sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("deviation", [1.0, 0.02])
def test_the_rate_of_an_embedding_is_measured_by_its_own_weights(deviation):
    model = Decoder(TINY)
    torch.nn.init.normal_(model.embedding.weight, 0.0, deviation)
    found = {}
    for config in (OptimizerConfig(learning_rate=0.01), OptimizerConfig(kind="adamw", learning_rate=0.01),
                   OptimizerConfig(embedding_learning_rate=0.5)):
        optimizer = build_optimizer(model, config)
        found[config.kind, config.embedding_learning_rate] = {
            group["name"]: group["peak_lr"] for group in optimizer.param_groups}["embedding"]
    assert found["muon", None] == pytest.approx(0.3 * deviation, rel=0.1)
    assert found["adamw", None] == 0.01
    assert found["muon", 0.5] == 0.5


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_rates_of_embedding_and_head_are_theirs_alone(kind, rate):
    plain, embedding, head = (
        {group["name"]: group["peak_lr"] for group in build_optimizer(Decoder(TINY), OptimizerConfig(
            kind=kind, **{"embedding_learning_rate": 0.25, **given})).param_groups}
        for given in ({}, {"embedding_learning_rate": rate}, {"head_learning_rate": rate}))
    assert set(plain) == {"matrices", "embedding", "head", "vectors"}
    assert embedding == {**plain, "embedding": rate}
    assert head == {**plain, "head": rate}


@pytest.mark.parametrize(("wrong", "said"), [
    ({"momentum": 1.0}, "momentum"), ({"epsilon": -1e-8}, "epsilon"), ({"betas": [0.9]}, "betas"),
    ({"head_learning_rate": -1.0}, "head_learning_rate"),
    ({"embedding_learning_rate": -1.0}, "embedding_learning_rate"),
    ({"betas": [0.9, 1.0]}, "betas"), ({"nesterov": True}, "nesterov"),
    ({"kind": "sgd", "nesterov": True, "momentum": 0.0}, "nesterov"),
    ({"kind": "adafactor", "momentum": 0.9}, "momentum: adafactor has none; it is for muon, sgd"),
    ({"kind": "adafactor", "betas": [0.9, 0.95]}, "betas: adafactor"), ({"kind": "lion", "epsilon": 1e-6}, "epsilon"),
    ({"kind": "sgd", "betas": [0.9, 0.95]}, "betas: sgd"), ({"kind": "adamw", "momentum": 0.9}, "momentum: adamw")])
def test_what_cannot_be_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        OptimizerConfig(**wrong)


def test_averages_are_those_of_the_kind():
    assert OptimizerConfig().averages == OptimizerConfig(kind="adamw").averages == (0.9, 0.95)
    assert OptimizerConfig(kind="lion").averages == (0.9, 0.99)
    assert OptimizerConfig(kind="lion", betas=[0.95, 0.98]).averages == (0.95, 0.98)
