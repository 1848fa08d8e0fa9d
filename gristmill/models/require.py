"""What only some bodies can do, refused for the others with a sentence."""

from __future__ import annotations

from typing import Any

from gristmill.core.errors import UserError
from gristmill.models.decoder import Decoder
from gristmill.models.encoder import Encoder


def require_decoder(model: Any, where: str) -> Decoder:
    """`model`, if it predicts each token from the ones before it; UserError for another body."""
    if isinstance(model, Decoder):
        return model
    raise UserError(f"{model.config.family} is no decoder: it cannot go on with a text, and has no probability of one",
                    where=where, fix="use a decoder; gristmill.load(MODEL)." + (
                        "fill(TEXT) says what stands at the mask tokens of a text" if isinstance(model, Encoder)
                        else "logits(IDS) gives this one's predictions"))
