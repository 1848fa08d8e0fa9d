"""Mixtral: a Llama whose feed-forward is 8 experts, 2 of them for each token (arXiv:2401.04088)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.models.config import DecoderConfig, MoEConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.forms import STACKED
from gristmill.models.families.llama import PUBLIC_BLOCK
from gristmill.models.families.moe import OURS, around, expert_count, one_by_one, surroundings, written
from gristmill.models.families.reading import number, refuse

PRESETS = {
    "tiny": DecoderConfig(
        family="mixtral", vocab_size=512, dim=64, layers=4, heads=4, kv_heads=2, head_dim=16, mlp_dim=96, context=256,
        tied_head=True, moe=MoEConfig(experts=4, balance_loss=0.01, pooled_balance=True)),
    "mixtral-8x7b": DecoderConfig(
        family="mixtral", vocab_size=32_000, dim=4096, layers=32, heads=32, kv_heads=8, head_dim=128, mlp_dim=14_336,
        context=32_768, rope_theta=1e6, moe=MoEConfig(balance_loss=0.02, pooled_balance=True)),
    "mixtral-8x22b": DecoderConfig(
        family="mixtral", vocab_size=32_000, dim=6144, layers=56, heads=48, kv_heads=8, head_dim=128, mlp_dim=16_384,
        context=65_536, rope_theta=1e6, moe=MoEConfig(balance_loss=0.001, pooled_balance=True)),
}


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    refuse(public, {"router_jitter_noise": (0.0, None)})  # noise in training, which ours has not
    return surroundings(public, "mixtral", {
        "experts": expert_count(public), "active": number(public, "num_experts_per_tok", 2),
        "mlp_dim": number(public, "intermediate_size"), "pooled_balance": True,
        "balance_loss": float(number(public, "router_aux_loss_coef", 0.001)),
    }, window=public.get("sliding_window"))


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    moe = config.moe
    assert moe is not None
    return written(config, config_from_public, {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.active, "router_aux_loss_coef": moe.balance_loss, "output_router_logits": False,
        "sliding_window": config.window,
    })


THEIRS = PUBLIC_BLOCK + "block_sparse_moe."
EXPERTS = {"gate": "w1", "up": "w3", "down": "w2"}

MIXTRAL = Family(
    name="mixtral",
    architectures=("MixtralForCausalLM",),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=around((
        WeightName(OURS + "router.weight", THEIRS + "gate.weight"),
        *(WeightName(f"{OURS}experts.{a}", THEIRS + f"experts.{{expert}}.{b}.weight", form=STACKED)
          for a, b in EXPERTS.items()),
    )),
    ignored=("rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    traits={"moe": MoEConfig(balance_loss=0.01, pooled_balance=True)},
    mlp_ratio=8 / 3,
    respell=one_by_one("block_sparse_moe", "w1", "w3", "w2"),
)
