"""Small random models, large enough in scale that a wrong mask, rotation or mapping shows."""

from __future__ import annotations

import torch

from gristmill.models import Decoder, DecoderConfig


def random_decoder(seed: int = 0, **changes) -> Decoder:
    """Weights with deviation 0.3, as in the oracle's tests: flat logits would hide mistakes."""
    sizes = {"vocab_size": 97, "dim": 32, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_dim": 48,
             "context": 64}
    model = Decoder(DecoderConfig(**{**sizes, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.3, generator=generator)
    return model.eval()
