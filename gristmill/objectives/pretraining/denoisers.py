"""A mixture of denoisers: span corruption of several kinds, from a few short gaps to the whole end of a text (UL2: Tay
et al. 2022, arXiv:2205.05131, table 1)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from gristmill.core.config import config, require
from gristmill.core.errors import UserError
from gristmill.objectives.pretraining.corrupted import CorruptedBatches, corrupted
from gristmill.objectives.pretraining.rows import HeldOutRows
from gristmill.objectives.pretraining.span_corruption import check_denoising, check_encoder_decoder, guess_gap
from gristmill.objectives.sequence_to_sequence import SequenceToSequence
from gristmill.objectives.span_corruption import Denoiser
from gristmill.tokenizer import Tokenizer
from gristmill.tokens import TokenShards

UL2 = (
    Denoiser(density=0.15, mean_span=3.0, mode="[R]"),
    Denoiser(density=0.15, mean_span=8.0, mode="[R]"),
    Denoiser(density=0.25, mean_span=None, mode="[S]"),
    Denoiser(density=0.5, mean_span=3.0, mode="[X]"),
    Denoiser(density=0.5, mean_span=8.0, mode="[X]"),
    Denoiser(density=0.15, mean_span=64.0, mode="[X]"),
    Denoiser(density=0.5, mean_span=64.0, mode="[X]"),
)
"""The seven of the paper, equally often: regular (short gaps), sequential (the end is missing), extreme (long gaps or
many)."""


@config
class MixtureOfDenoisers:
    """Every row is made by one of several denoisers, drawn by their shares."""

    kind: Literal["denoisers"] = "denoisers"
    denoisers: list[Denoiser] = UL2  # type: ignore[assignment]
    """Density, mean span, mode and share of each; default the seven of UL2."""
    mode_tokens: bool = False
    """Begin every text that is read with the denoiser's `mode` token, which the tokenizer must have
    (`special_tokens: ["[R]", "[S]", "[X]"]`)."""
    targets: int | None = None
    """Tokens of a row for the decoder; default what the denoiser that writes most needs, about as many as are read."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over the whole vocabulary. `loss` is reported without it."""
    z_loss: float = 0.0
    """Weight of log(Z)². `loss` is reported without it."""

    def __post_init__(self) -> None:
        require(bool(self.denoisers), "denoisers", "name at least one")
        require(not self.mode_tokens or all(one.mode for one in self.denoisers), "denoisers",
                "with mode_tokens each needs its `mode`")
        check_denoising(self.targets, self.label_smoothing, self.z_loss)

    def check(self, model_config: Any, tokenizer: Tokenizer) -> None:
        check_encoder_decoder(self.kind, model_config, tokenizer)
        modes = sorted({one.mode for one in self.denoisers})
        missing = [mode for mode in modes if tokenizer.token_id(mode) is None]
        if self.mode_tokens and missing:
            listed = ", ".join(f'"{mode}"' for mode in modes)
            raise UserError(f"the tokenizer has no mode token {', '.join(missing)}", where="objective.mode_tokens",
                            fix=f"give the tokenizer stage `special_tokens: [{listed}]`, or leave mode_tokens out")

    def loss(self, model_config: Any) -> SequenceToSequence:
        return SequenceToSequence(label_smoothing=self.label_smoothing, z_loss=self.z_loss)

    def batches(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, seed: int
    ) -> CorruptedBatches:
        return corrupted(self.denoisers, shards, tokenizer, context=context, batch=batch, seed=seed,
                         targets=self.targets, modes=self.mode_tokens)

    def held_out(
        self, shards: TokenShards, tokenizer: Tokenizer, *, context: int, batch: int, limit_tokens: int, seed: int
    ) -> HeldOutRows:
        """Every denoiser makes rows of the same documents."""
        return HeldOutRows(corrupted(
            self.denoisers, shards, tokenizer, context=context, batch=batch, seed=seed, targets=self.targets,
            modes=self.mode_tokens, limit_tokens=max(1, limit_tokens // len(self.denoisers))))

    def guess(self, model: Any, tokenizer: Tokenizer, before: str, true: str) -> tuple[Tensor, int]:
        """In the mode of the denoiser that cuts off the end, or else of the last."""
        chosen = next((one for one in self.denoisers if one.mean_span is None), self.denoisers[-1])
        mode = tokenizer.token_id(chosen.mode) if self.mode_tokens else None
        return guess_gap(model, tokenizer, before, true, mode)
