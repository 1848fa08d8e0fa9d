"""Mixtures of experts on causal language modelling: ours beside transformers' Mixtral.

    python -m benchmarks.learning.moe

Two more curves than elsewhere, at about the same work a token: `ours_fine`, fine-grained and shared experts, balanced
without an auxiliary loss; `ours_dense`, a Llama.
"""

from __future__ import annotations

from typing import Any

from benchmarks.learning.causal_lm import LLAMA, attention_mask
from benchmarks.learning.compare import Batch, Contest, Losses, loss_of_logits, main, public
from gristmill.objectives.pretraining import CausalLanguageModelling


def peer(config: Any) -> Any:
    """With a loop over experts: its grouped products are not for every processor."""
    model = public(config)
    model.set_experts_implementation("eager")
    return model


def their_loss(model: Any, batch: Batch, config: Any) -> Losses:
    """With the public balance loss. The public class cannot take it and a mask of packed rows at once."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    out = model.model(batch["input_ids"], attention_mask=attention_mask(batch), output_router_logits=True)
    value, _ = loss_of_logits(model.lm_head(out.last_hidden_state), batch["targets"])
    balance = load_balancing_loss_func(out.router_logits, config.moe.experts, config.moe.active)
    return value, value + config.moe.balance_loss * balance


# Two experts of 176, four of 88 and one feed-forward of 344 are about as much work.
SIZES = {**LLAMA, "kv_heads": 4, "tied_head": False}
CONTEST = Contest(
    kind="moe", objective=CausalLanguageModelling(), peer=peer, their_loss=their_loss,
    spec={**SIZES, "family": "mixtral", "mlp_dim": 176},
    others={"ours_fine": {**SIZES, "family": "moe", "options": {"moe": {"bias_rate": 0.01}}}, "ours_dense": SIZES})

if __name__ == "__main__":
    main(CONTEST)
