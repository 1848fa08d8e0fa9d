"""Small random two-stream models, their public twins, and inputs for both."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from gristmill.models.config import TwoStreamConfig
from gristmill.models.families import FAMILIES
from gristmill.models.two_stream import TwoStream, permutation_mask

XLNET = FAMILIES["xlnet"]


def tiny_config(**changes) -> TwoStreamConfig:
    sizes = {"vocab_size": 61, "dim": 24, "layers": 2, "heads": 3, "head_dim": 8, "mlp_dim": 40, "context": 32}
    return TwoStreamConfig(**{**sizes, **changes})


def random_two_stream(config: TwoStreamConfig, seed: int = 0) -> TwoStream:
    """Weights with deviation 0.3: flat logits would hide mistakes."""
    model = TwoStream(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.3, generator=generator)
    return model.eval()


@st.composite
def configs(draw) -> TwoStreamConfig:
    heads = draw(st.integers(1, 4))
    dim = 2 * heads * draw(st.integers(1, 5))
    causal = draw(st.booleans())
    limits = st.one_of(st.none(), st.integers(1, 12))
    return TwoStreamConfig(
        vocab_size=draw(st.integers(2, 70)), dim=dim, layers=draw(st.integers(1, 3)), heads=heads,
        head_dim=draw(st.one_of(st.just(dim // heads), st.integers(1, 9))), mlp_dim=draw(st.integers(1, 40)),
        context=draw(st.integers(1, 40)), causal=causal, same_length=causal and draw(st.booleans()),
        clamp=draw(limits), memory=draw(limits), reuse=draw(limits),
        mlp=draw(st.sampled_from(["gelu", "gelu_tanh", "relu"])), norm_eps=draw(st.sampled_from([1e-12, 1e-5])),
        tied_head=draw(st.booleans()), dropout=draw(st.sampled_from([0.0, 0.1])),
    )


def public_twin(model: TwoStream):
    """The public class with the same weights, made in memory: its files refuse heads that do not fill the width."""
    import transformers

    config = model.config
    fields = XLNET.config_to_public(config)
    own = ("architectures", "model_type", "d_head", "context", "untie_r")
    public_config = transformers.XLNetConfig(**{k: v for k, v in fields.items() if k not in own}, bos_token_id=None,
                                             eos_token_id=None, pad_token_id=None)
    public_config.d_head = config.head_dim
    public = transformers.XLNetLMHeadModel(public_config).eval()
    tensors = XLNET.to_public({k: v.detach().clone() for k, v in model.state_dict().items()}, config)
    missing, unexpected = public.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_loss.weight"} if config.tied_head else set())
    return public


def random_inputs(config: TwoStreamConfig, seed: int, rows: int = 3, time: int | None = None,
                  padded: bool = True) -> dict[str, Any]:
    """Inputs by our names: rows of every length, the shortest of one token, a random order of a random part of the
    tokens, queries for some of these, and for nothing."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    time = time or int(draw(1, 14, 1))
    lengths = torch.full((rows,), time)
    if padded:
        lengths = draw(1, time + 1, rows)
        lengths[0], lengths[-1] = time, 1
    real = torch.arange(time)[None] < lengths[:, None]
    ranks = torch.stack([torch.randperm(time, generator=generator) for _ in range(rows)])
    ranks = torch.where((torch.rand(rows, time, generator=generator) < 0.5) & real, ranks, -1)
    targets = torch.stack([torch.randperm(time, generator=generator) for _ in range(rows)])[:, :max(1, time // 2)]
    seen = visible(config, real, ranks)
    sighted = seen.any(-1).gather(1, targets) & real.gather(1, targets)
    return {
        "input_ids": draw(0, config.vocab_size, rows, time),
        "token_type_ids": draw(0, 3, rows, time),
        "document_ids": real.int() - 1,
        "perm_mask": permutation_mask(ranks),
        "targets": torch.where(sighted, targets, -1),
        "labels": torch.where(sighted, draw(0, config.vocab_size, *targets.shape), -100),
    }


def visible(config: TwoStreamConfig, real: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Which tokens of its row a query at each place sees, (rows, time, time), one pair after the other."""
    rows, time = real.shape
    seen = torch.zeros(rows, time, time, dtype=torch.bool)
    for row in range(rows):
        for i in range(time):
            for j in range(time):
                hidden = ranks[row, j] >= 0 and ranks[row, i] <= ranks[row, j]
                ahead = config.causal and (j > i or (config.same_length and j < i))
                seen[row, i, j] = bool(real[row, i]) == bool(real[row, j]) and not hidden and not ahead
    return seen


def target_mapping(targets: torch.Tensor, time: int) -> torch.Tensor:
    """The public form of places, (rows, targets, time)."""
    return (targets[..., None] == torch.arange(time)).float()


def public_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs by their public names."""
    time = inputs["input_ids"].shape[1]
    return {
        "input_ids": inputs["input_ids"], "token_type_ids": inputs["token_type_ids"],
        "attention_mask": (inputs["document_ids"] >= 0).float(), "perm_mask": inputs["perm_mask"].float(),
        "target_mapping": target_mapping(inputs["targets"], time),
    }


def streams_of(blocks: Any, run: Any, time_first: bool) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Both streams after every block, (rows, time, dim) and (rows, targets, dim)."""
    found: list[Any] = []

    def keep(module: Any, given: Any, out: Any) -> None:
        found.append(tuple(x.transpose(0, 1) if time_first and x is not None else x for x in out[:2]))

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found
