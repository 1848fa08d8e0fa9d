"""Tensor and sequence parallelism: every matrix is cut over neighbours that work on the same tokens.

Shoeybi et al. 2019, arXiv:1909.08053, section 3: heads and inner channels are dealt out, so a block sums twice over the
processes. Korthikanti et al. 2022, arXiv:2205.05198, section 4.2: between those sums every process keeps a stretch of
each row, and a sum becomes a reduce-scatter and a gather of the same size. A decoder's vocabulary is cut too
(`vocabulary_loss.py`).

All by torch's `parallelize_module`: matrices become DTensors, what a model computes itself (heads, positions,
residuals) stays a plain tensor that is smaller. A layer of experts is computed by all of the processes alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Placement

from gristmill.core.errors import UserError
from gristmill.models import decoder, encoder_decoder
from gristmill.models.body import Body
from gristmill.models.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig
from gristmill.models.layers.moe import MoE
from gristmill.objectives.base import Objective
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.r_drop import RDrop
from gristmill.training.parallel.layout import Layout
from gristmill.training.parallel.stretches import filled
from gristmill.training.parallel.vocabulary_loss import VocabularyLoss
from gristmill.training.parallel.world import World

Plan = dict[str, ParallelStyle]
WHOLE, TIME, HEADS = Replicate(), Shard(1), Shard(1)


def split_matrices(model: Body, objective: Objective, attached: nn.Module | None, world: World) -> None:
    """Cut `model`, or a stage of one, over `world`'s tensor axis, in place.

    Raises UserError where its numbers do not divide, and for models and objectives that reach into what is cut.
    """
    check(model.config, objective, world.layout, attached)
    assert world.mesh is not None
    mesh = world.mesh["tensor"]
    if isinstance(model, decoder.Decoder):
        _split_decoder(model, mesh, world)
    else:
        for block in model.all_blocks:
            _apply(block, mesh, _other_block(block))
    finish_sums(model)


def check(config: Any, objective: Objective, layout: Layout, attached: nn.Module | None = None) -> None:
    """UserError unless a model of this config can be cut so."""
    size, where = layout.tensor, f"parallel: {layout.describe()}"
    if not isinstance(config, (DecoderConfig, EncoderConfig, EncoderDecoderConfig)):
        raise UserError(f"the matrices of {config.family} cannot be cut yet", where=where,
                        fix="use shard in place of tensor; decoders, encoders and encoder-decoders can be cut")
    numbers = {"heads": config.heads, "mlp_dim": config.mlp_dim}
    if isinstance(config, DecoderConfig):
        numbers |= {"kv_heads": config.kv_heads, "vocab_size": config.vocab_size}
        if config.positions == "learned":
            numbers["dim"] = config.dim
        if config.moe is not None and config.moe.first_dense == 0:
            del numbers["mlp_dim"]
        innermost: Any = objective
        while hasattr(innermost, "objective") and not isinstance(innermost, RDrop):
            innermost = innermost.objective
        if attached is not None or not isinstance(innermost, CausalLM):
            raise UserError(f"{type(innermost).__name__} reads the whole vocabulary, which `tensor` cuts", where=where,
                            fix="use shard in place of tensor, or the objective causal_lm")
    for name, number in numbers.items():
        if number % size:
            raise UserError(f"{name} = {number} cannot be cut into {size} equal parts", where=where,
                            fix=f"choose tensor among the divisors of {number}, or {name} as a multiple of {size}")


def _split_decoder(model: decoder.Decoder, mesh: DeviceMesh, world: World) -> None:
    between: Placement = TIME if world.layout.sequence else WHOLE
    plan: Plan = {}
    if model.embedding is not None:
        plan["embedding"] = RowwiseParallel(input_layouts=WHOLE, output_layouts=between)
        if world.layout.sequence:
            model.embedding.register_forward_pre_hook(_Divides(world.layout.tensor))
    if model.positions is not None:
        plan["positions"] = ColwiseParallel(output_layouts=between)
    if model.head is not None:
        plan["head"] = ColwiseParallel(use_local_output=False)
    if world.layout.sequence and world.layout.pipeline == 1:
        model.hidden = _Hidden(model, world.layout.tensor)  # type: ignore[method-assign]
    _apply(model, mesh, plan)
    for block in model.blocks:
        _apply(block, mesh, _decoder_block(block, between))
    if model.norm is not None:
        if world.layout.sequence:
            _apply(model, mesh, {"norm": SequenceParallel()})
        _apply(model, mesh, {"norm": PrepareModuleOutput(
            output_layouts=between, desired_output_layouts=WHOLE, use_local_output=False)})
        # Called as a whole, the model gives whole logits; in training the loss takes what is here.
        _apply(model, mesh, {"": PrepareModuleOutput(output_layouts=Shard(-1), desired_output_layouts=WHOLE)})
    model.head_loss = VocabularyLoss(world.group("tensor"))  # type: ignore[assignment]


def _decoder_block(block: Any, between: Placement) -> Plan:
    attention = block.attention
    plan: Plan = {
        # Given on as a DTensor, so that the gradients of its readers are summed over processes once, not each.
        "attention": PrepareModuleInput(
            input_layouts=(between, *[None] * 5), desired_input_layouts=(WHOLE, *[None] * 5), use_local_output=False),
        "attention.query": ColwiseParallel(), "attention.key": ColwiseParallel(), "attention.value": ColwiseParallel(),
        "attention.output": RowwiseParallel(output_layouts=between),
    }
    if between is TIME:
        norms = ("attention_norm", "mlp_norm")
        plan |= {name: SequenceParallel() for name in norms if getattr(block, name) is not None}
    if attention.value_embedding is not None:
        plan |= {"attention.value_embedding": ColwiseParallel(), "attention.value_gate": ColwiseParallel()}
    if attention.query_norm is not None:
        # (batch, heads, time, head_dim): one weight for all heads, which lie on several processes.
        heads = SequenceParallel(sequence_dim=HEADS.dim, use_local_output=True)
        plan |= {"attention.query_norm": heads, "attention.key_norm": heads}
    if isinstance(block.mlp, MoE):
        plan["mlp"] = _Alike(between)
        return plan
    plan["mlp"] = PrepareModuleInput(input_layouts=(between,), desired_input_layouts=(WHOLE,), use_local_output=False)
    return plan | _feed_forward(block.mlp, "mlp", between)


def _feed_forward(mlp: nn.Module, at: str, between: Placement) -> Plan:
    inner = {f"{at}.{name}": ColwiseParallel() for name in ("gate", "up") if getattr(mlp, name, None) is not None}
    return {**inner, f"{at}.down": RowwiseParallel(output_layouts=between)}


def _other_block(block: Any) -> Plan:
    """A block of an encoder or encoder-decoder: heads and inner channels are cut, residuals and vocabulary are not."""
    plan = _feed_forward(block.mlp, "mlp", WHOLE)
    for at in ("attention", "cross"):
        if hasattr(block, at):
            plan |= {f"{at}.{name}": ColwiseParallel() for name in ("query", "key", "value")}
            plan[f"{at}.output"] = RowwiseParallel(output_layouts=WHOLE)
    if isinstance(block, (encoder_decoder.EncoderBlock, encoder_decoder.DecoderBlock)):
        plan["attention"] = _OwnBias()
    return plan


def _apply(module: nn.Module, mesh: DeviceMesh, plan: Plan) -> None:
    # None: every process has the same weights already, or shapes only.
    for path, style in plan.items():
        parallelize_module(module.get_submodule(path), mesh, style, src_data_rank=None)


def finish_sums(module: nn.Module) -> None:
    """From now on gradients are whole as soon as they are there. Not of parameters on meta: to be called again when
    they have storage, as hooks do not move with them."""
    for parameter in module.parameters():
        if isinstance(parameter, DTensor) and not parameter.is_meta:
            parameter.register_post_accumulate_grad_hook(_finish_sum)


@torch.no_grad()
def _finish_sum(parameter: Tensor) -> None:
    """A weight that all processes hold got a gradient from the tokens, or heads, of each. (FSDP2 does it itself.)"""
    if isinstance(parameter.grad, DTensor) and isinstance(parameter, DTensor):
        parameter.grad = parameter.grad.redistribute(placements=parameter.placements)


class _Alike(ParallelStyle):
    """A layer that every process computes over all tokens, with plain weights that are the same everywhere."""

    def __init__(self, between: Placement) -> None:
        super().__init__()
        self.between = between

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def whole(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x = inputs[0]
            if not isinstance(x, DTensor):
                x = DTensor.from_local(x, device_mesh, [self.between], run_check=False)
            return x.redistribute(placements=[WHOLE]).to_local(), *inputs[1:]

        def own(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            made = DTensor.from_local(output, device_mesh, [WHOLE], run_check=False)
            return made.redistribute(placements=[self.between]).to_local()

        module.register_forward_pre_hook(whole)
        module.register_forward_hook(own)
        return module


class _OwnBias(ParallelStyle):
    """A bias of the scores of all heads, of which a process needs its own heads'; it is the second argument."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def own(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, bias, *rest = inputs
            if bias is not None:
                bias = DTensor.from_local(bias, device_mesh, [WHOLE], run_check=False)
                bias = bias.redistribute(placements=[HEADS]).to_local()
            return x, bias, *rest

        module.register_forward_pre_hook(own)
        return module


class _Hidden:
    """`Decoder.hidden` of rows of any length: filled up until they can be cut into equal stretches."""

    def __init__(self, model: decoder.Decoder, size: int) -> None:
        self.model, self.size = model, size

    def __call__(self, input_ids: Tensor, *, document_ids: Tensor | None = None, position_ids: Tensor | None = None,
                 prefix: Tensor | None = None, cache: Any = None) -> Tensor:
        time, own = input_ids.shape[1], {"document_ids": document_ids, "position_ids": position_ids, "prefix": prefix}
        if time % self.size == 0 or cache is not None:
            return decoder.Decoder.hidden(self.model, input_ids, **own, cache=cache)
        # Before padding is there, so that it counts for no position.
        own["position_ids"] = self.model.placed(input_ids, document_ids, position_ids)
        given = {name: tensor for name, tensor in own.items() if tensor is not None}
        rows: Any = filled({"input_ids": input_ids, **given}, self.size)
        return decoder.Decoder.hidden(self.model, **rows)[:, :time]


class _Divides:
    """Before the embedding: rows have to be cut into equal stretches."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        check_rows(inputs[0].shape[1], self.size)


def check_rows(time: int, size: int) -> None:
    """UserError where a decoder's rows of `time` tokens cannot be shared out by `sequence`."""
    if time % size:
        raise UserError(f"a row of {time} tokens cannot be cut into {size} equal stretches", where="parallel",
                        fix=f"use rows of a multiple of {size} tokens, or sequence=false in the layout")
