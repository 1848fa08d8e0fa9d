"""Decoders with fine-grained and shared experts: our own, in GLM-4-MoE's layout, and Qwen's.

One shape of model, three public formats; which one a config is written in follows from its router. Sigmoid scores
with a selection bias and shared experts (DeepSeek-V3, arXiv:2412.19437): Glm4MoeForCausalLM, rotary positions over the
whole head. Softmax with gated shared experts (arXiv:2407.10671): Qwen2MoeForCausalLM. Softmax without shared experts,
with query and key norms (arXiv:2505.09388): Qwen3MoeForCausalLM.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig, MoEConfig
from gristmill.models.decoder import Decoder
from gristmill.models.families import llama
from gristmill.models.families.family import Family, WeightName
from gristmill.models.families.forms import STACKED
from gristmill.models.families.llama import BLOCK, PUBLIC_BLOCK, WEIGHTS, shared_from_public, shared_to_public
from gristmill.models.families.reading import WHERE, decoder, number, refuse

GLM, QWEN2, QWEN3 = "Glm4MoeForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"
MODEL_TYPES = {"glm4_moe": GLM, "qwen2_moe": QWEN2, "qwen3_moe": QWEN3}

FINE = MoEConfig(experts=16, active=3, granularity=4, shared=1, score="sigmoid", selection_bias=True, scale=3.0)
"""From scratch: a token meets 3 + 1 experts of a quarter of the width, as many parameters as one dense feed-forward.
The factor makes the weights of the chosen experts 1 on average, as they are for the shared one."""

PRESETS = {
    "tiny": DecoderConfig(
        family="moe", vocab_size=512, dim=64, layers=4, heads=4, kv_heads=2, head_dim=16, mlp_dim=192, context=256,
        tied_head=True, moe=dataclasses.replace(FINE, experts=8, first_dense=1)),
    "fine-7b-a1b": DecoderConfig(
        family="moe", vocab_size=50_304, dim=2048, layers=16, heads=16, kv_heads=16, head_dim=128, mlp_dim=8192,
        context=4096, qk_norm=True,
        moe=MoEConfig(experts=64, active=7, mlp_dim=1024, shared=1, score="sigmoid", selection_bias=True, scale=2.5,
                      first_dense=1)),
    "qwen1.5-moe-a2.7b": DecoderConfig(
        family="moe", vocab_size=151_936, dim=2048, layers=24, heads=16, kv_heads=16, head_dim=128, mlp_dim=5632,
        context=8192, rope_theta=1e6, norm_eps=1e-6, qkv_bias=True,
        moe=MoEConfig(experts=60, active=4, mlp_dim=1408, shared=4, shared_gate=True, renormalise=False,
                      balance_loss=0.001, pooled_balance=True)),
    "qwen3-30b-a3b": DecoderConfig(
        family="moe", vocab_size=151_936, dim=2048, layers=48, heads=32, kv_heads=4, head_dim=128, mlp_dim=6144,
        context=40_960, rope_theta=1e6, norm_eps=1e-6, qk_norm=True,
        moe=MoEConfig(experts=128, active=8, mlp_dim=768, balance_loss=0.001, pooled_balance=True)),
}

OURS, THEIRS = BLOCK + "mlp.", PUBLIC_BLOCK + "mlp."
OWN_KEYS = {"z_loss": "router_z_loss_coef", "bias_rate": "router_bias_update_rate",
            "capacity": "router_capacity_factor", "pooled_balance": "router_aux_loss_over_all_layers"}
"""What only training reads and public configs have no name for: stored beside, so that training can go on."""
UNCHECKED = {name: values for name, values in llama.REFUSED.items()
             if name not in ("num_local_experts", "use_qk_norm", "partial_rotary_factor")}


# What the families with experts share.

def surroundings(public: Mapping[str, Any], family: str, moe: dict[str, Any], **fields: Any) -> DecoderConfig:
    """Everything but the experts is Llama's; fields: what is not."""
    refuse(public, UNCHECKED)
    trained = {ours: public[theirs] for ours, theirs in OWN_KEYS.items() if public.get(theirs) is not None}
    try:
        experts = MoEConfig(**{**moe, **trained})
    except (ValueError, TypeError) as error:
        raise UserError(str(error), where=WHERE, fix="correct config.json") from error
    return decoder(family=family, moe=experts, **shared_from_public(public), **fields)


def written(
    config: DecoderConfig, read: Callable[[Mapping[str, Any]], DecoderConfig], content: dict[str, Any],
) -> dict[str, Any]:
    """config.json: Llama's keys, `content`, and what only training reads. UserError that names the fields which this
    format cannot say."""
    kept = {theirs: getattr(config.moe, ours) for ours, theirs in OWN_KEYS.items()
            if getattr(config.moe, ours) is not None}
    public = {**shared_to_public(config), **content, **kept}
    back = read(public)
    if back != config:
        lost = [*_differing(config, back, ""), *_differing(config.moe, back.moe, "moe.")]
        raise UserError(f"{content['architectures'][0]} has no place for {', '.join(lost)}",
                        where=f"model of the family {config.family}", fix="docs/models/moe.md says what fits together")
    return public


def _differing(config: Any, back: Any, prefix: str) -> list[str]:
    return [f"{prefix}{f.name} = {getattr(config, f.name)!r}" for f in dataclasses.fields(config)
            if f.name != "moe" and getattr(config, f.name) != getattr(back, f.name)]


def around(mlp: Iterable[WeightName]) -> tuple[WeightName, ...]:
    """All weights: Llama's but for the feed-forward, and norms of queries and keys where the config says so."""
    return (
        *(weight for weight in WEIGHTS if not str(weight.ours).startswith(OURS)),
        *(WeightName(f"{BLOCK}attention.{a}_norm.weight", f"{PUBLIC_BLOCK}self_attn.{a[0]}_norm.weight",
                     lambda c: c.qk_norm) for a in ("query", "key")),
        *mlp,
    )


def sparse(config: DecoderConfig) -> range:
    """The layers with experts."""
    assert config.moe is not None
    return range(config.moe.first_dense, config.layers)


def dense(config: DecoderConfig) -> range:
    """The layers without."""
    assert config.moe is not None
    return range(config.moe.first_dense)


def one_by_one(place: str, gate: str, up: str, down: str) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """For `Family.respell`: experts that are fused as transformers has them in memory (`mlp.experts.gate_up_proj`),
    under the names of the files; place: where a layer's experts are in those."""
    fused = re.compile(r"(model\.layers\.\d+\.)mlp\.experts\.(gate_up_proj|down_proj)")

    def respell(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            match = fused.fullmatch(name)
            if match is None:
                found[re.sub(r"^(model\.layers\.\d+\.)mlp\.gate\.weight$", rf"\1{place}.gate.weight", name)] = tensor
                continue
            joint = match[2] == "gate_up_proj"
            for expert, weight in enumerate(tensor):
                stem = f"{match[1]}{place}.experts.{expert}."
                parts = zip((gate, up), weight.chunk(2), strict=True) if joint else [(down, weight)]
                found |= {f"{stem}{role}.weight": part for role, part in parts}
        return found

    return respell


# This family.

def architecture(config: DecoderConfig) -> str:
    """The public format that a model of this config is written in."""
    assert config.moe is not None
    if config.moe.score == "sigmoid":
        return GLM
    return QWEN2 if config.moe.shared else QWEN3


def config_from_public(public: Mapping[str, Any]) -> DecoderConfig:
    """Content of config.json -> our config; UserError where it asks for what we cannot compute."""
    named = (public.get("architectures") or [MODEL_TYPES.get(public.get("model_type", ""))])[0]
    common = {"active": number(public, "num_experts_per_tok"), "mlp_dim": number(public, "moe_intermediate_size"),
              "renormalise": bool(public.get("norm_topk_prob", named == GLM))}
    if named == GLM:
        return _read_glm(public, common)
    refuse(public, {"decoder_sparse_step": (1, None), "use_sliding_window": (False, None)})
    first = list(public.get("mlp_only_layers") or [])
    if sorted(first) != list(range(len(first))):
        raise UserError(f"mlp_only_layers = {first} is not supported", where=WHERE,
                        fix="supported: none, or the first ones without a gap")
    common |= {"experts": expert_count(public), "first_dense": len(first), "pooled_balance": True,
               "balance_loss": float(number(public, "router_aux_loss_coef", 0.001))}
    if named == QWEN3:
        biased = bool(public.get("attention_bias", False))
        return surroundings(public, "moe", common, qk_norm=True, qkv_bias=biased, output_bias=biased)
    inner = number(public, "shared_expert_intermediate_size")
    if inner < 1 or inner % common["mlp_dim"]:
        raise UserError(f"a shared expert of width {inner} is no multiple of the others' {common['mlp_dim']}",
                        where=WHERE, fix="supported: multiples of moe_intermediate_size")
    return surroundings(public, "moe", {**common, "shared": inner // common["mlp_dim"], "shared_gate": True},
                        qkv_bias=bool(public.get("qkv_bias", True)))


def _read_glm(public: Mapping[str, Any], common: dict[str, Any]) -> DecoderConfig:
    refuse(public, {"n_group": (1, None), "topk_group": (1, None)})
    turned = {**public, **(public.get("rope_parameters") or {})}.get("partial_rotary_factor", 0.5)
    if turned != 1:
        raise UserError(f"rotary positions over {turned:g} of each head are not supported", where=WHERE,
                        fix="supported: partial_rotary_factor 1.0")
    moe = {
        **common, "experts": expert_count(public), "shared": number(public, "n_shared_experts", 1),
        "score": "sigmoid", "selection_bias": True, "scale": float(number(public, "routed_scaling_factor", 1.0)),
        "first_dense": number(public, "first_k_dense_replace", 1),
        "balance_loss": float(number(public, "router_aux_loss_coef", 0.0)),
    }
    return surroundings(public, "moe", moe, qk_norm=bool(public.get("use_qk_norm", False)),
                        qkv_bias=bool(public.get("attention_bias", False)))


def expert_count(public: Mapping[str, Any]) -> int:
    """The number of routed experts, by the names that it has had."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    return number(public, next((name for name in names if public.get(name) is not None), names[0]))


def config_to_public(config: DecoderConfig) -> dict[str, Any]:
    """Our config as the content of config.json; the exact inverse of `config_from_public`."""
    moe = config.moe
    assert moe is not None
    named = architecture(config)
    content = {
        "architectures": [named], "model_type": next(kind for kind, name in MODEL_TYPES.items() if name == named),
        "num_experts_per_tok": moe.active, "moe_intermediate_size": moe.width, "norm_topk_prob": moe.renormalise,
        "router_aux_loss_coef": moe.balance_loss, "output_router_logits": False,
    }
    if named == GLM:
        content |= {
            "n_routed_experts": moe.experts, "n_shared_experts": moe.shared, "routed_scaling_factor": moe.scale,
            "n_group": 1, "topk_group": 1, "first_k_dense_replace": moe.first_dense, "use_qk_norm": config.qk_norm,
            "attention_bias": config.qkv_bias, "partial_rotary_factor": 1.0, "num_nextn_predict_layers": 0,
        }
    else:
        content |= {"num_experts": moe.experts, "mlp_only_layers": list(range(moe.first_dense)),
                    "decoder_sparse_step": 1, "use_sliding_window": False}
        if named == QWEN3:
            content["attention_bias"] = config.qkv_bias
        else:
            content |= {"qkv_bias": config.qkv_bias, "shared_expert_intermediate_size": moe.shared * moe.width}
    return written(config, config_from_public, content)


MATRICES = llama.MLP


def _is(*names: str) -> Callable[[Any], bool]:
    return lambda config: architecture(config) in names


MOE = Family(
    name="moe",
    architectures=(GLM, QWEN2, QWEN3),
    model_types=tuple(MODEL_TYPES),
    body=Decoder,
    config=DecoderConfig,
    presets=PRESETS,
    config_from_public=config_from_public,
    config_to_public=config_to_public,
    weights=around((
        *(WeightName(f"{OURS}{a}.weight", f"{THEIRS}{b}.weight", layers=dense) for a, b in MATRICES.items()),
        WeightName(OURS + "router.weight", THEIRS + "gate.weight", layers=sparse),
        WeightName(OURS + "selection_bias", THEIRS + "gate.e_score_correction_bias", _is(GLM), layers=sparse),
        *(WeightName(f"{OURS}experts.{a}", THEIRS + f"experts.{{expert}}.{b}.weight", form=STACKED, layers=sparse)
          for a, b in MATRICES.items()),
        *(WeightName(f"{OURS}shared.{a}.weight", f"{THEIRS}shared_experts.{b}.weight",
                     lambda c: architecture(c) == GLM and c.moe.shared > 0, layers=sparse)
          for a, b in MATRICES.items()),
        *(WeightName(f"{OURS}shared.{a}.weight", f"{THEIRS}shared_expert.{b}.weight", _is(QWEN2), layers=sparse)
          for a, b in MATRICES.items()),
        WeightName(OURS + "shared_gate.weight", THEIRS + "shared_expert_gate.weight", _is(QWEN2), layers=sparse),
    )),
    ignored=("rotary_emb.inv_freq",),
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    traits={"moe": FINE},
    mlp_ratio=8 / 3,
    respell=one_by_one("mlp", *MATRICES.values()),
)
