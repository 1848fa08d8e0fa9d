"""Batches of random tokens for each pretraining objective: what tokens say does not change what an update costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.core.seeds import derive_seed

HIDDEN = 0.15
"""Share of the tokens that masked language models predict (arXiv:1810.04805)."""
MEASURED = ("causal_lm", "masked_lm", "next_sentence", "translation_lm", "permutation_lm", "span_corruption")
"""Objectives for which there are batches here."""


@dataclass(frozen=True)
class RandomTokens:
    """Rows of two random documents, as packed rows have several."""

    config: Any
    objective: str
    rows: int
    context: int
    micro_batch: int

    def __post_init__(self) -> None:
        if self.objective not in MEASURED:
            raise UserError(f"how fast {self.objective} trains cannot be measured yet", where="--calibrate",
                            fix=f"say --mfu from a run of your own; measured are {', '.join(MEASURED)}")

    def window(self, step: int) -> list[dict[str, Tensor]]:
        """The micro-batches of an update: a pure function of its number."""
        generator = torch.Generator().manual_seed(derive_seed("calibrate", step))
        made = []
        for start in range(0, self.rows, self.micro_batch):
            shape = (min(self.micro_batch, self.rows - start), self.context)
            ids = torch.randint(self.config.vocab_size, shape, generator=generator)
            documents = (torch.arange(self.context) >= self.context // 2).to(torch.int32).expand(shape).contiguous()
            made.append(self._batch(ids, documents, generator, (step, start)))
        return made

    def _batch(self, ids: Tensor, documents: Tensor, generator: torch.Generator, seed: tuple[int, ...],
               ) -> dict[str, Tensor]:
        if self.objective == "causal_lm":
            return {"input_ids": ids, "targets": ids.roll(-1, 1), "document_ids": documents}
        if self.objective == "permutation_lm":
            from gristmill.objectives.pretraining import PermutationLanguageModelling
            from gristmill.objectives.pretraining.permutation_lm import with_targets

            return with_targets(ids, documents, PermutationLanguageModelling(), None, ("calibrate", *seed))
        if self.objective == "span_corruption":
            from gristmill.models.config.encoder_decoder import TARGETS_PER_INPUT

            time = max(1, round(self.context * TARGETS_PER_INPUT))
            written = torch.randint(self.config.vocab_size, (len(ids), time), generator=generator)
            of_written = (torch.arange(time) >= time // 2).to(torch.int32).expand(len(ids), -1).contiguous()
            return {"input_ids": ids, "document_ids": documents, "targets": written,
                    "decoder_input_ids": written.roll(1, 1), "decoder_document_ids": of_written}
        hidden = torch.rand(ids.shape, generator=generator) < HIDDEN
        hidden[:, 0] = True  # never none at all
        batch = {"input_ids": ids, "targets": ids.where(hidden, -100), "document_ids": documents}
        if self.objective == "next_sentence":
            batch |= {"document_ids": torch.zeros_like(documents), "token_type_ids": documents.long(),
                      "next_sentence_label": torch.randint(2, (len(ids),), generator=generator)}
        if getattr(self.config, "languages", ()):
            batch["langs"] = torch.zeros_like(ids)
        return batch


def loss_of(config: Any, said: Any, objective: str) -> Any:
    """The loss of an objective as a recipe says it, or with its defaults; losses of routers included."""
    from gristmill.objectives.moe_losses import with_router_losses
    from gristmill.objectives.pretraining import default_objective

    task = said if said is not None else default_objective(objective)
    return with_router_losses(task.loss(config), config)
