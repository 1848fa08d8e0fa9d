"""Layouts built without weights: the shares are those of real processes, and the memory is what a real peak is."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from gristmill.cli.plan import app
from gristmill.core.errors import UserError
from gristmill.models.config import EncoderConfig, EncoderDecoderConfig, MoEConfig
from gristmill.objectives.causal_lm import CausalLM
from gristmill.objectives.masked_lm import MaskedLM
from gristmill.objectives.sequence_to_sequence import SequenceToSequence
from gristmill.planning.memory import USABLE
from gristmill.training import OptimizerConfig
from gristmill.training.optimizers import build_optimizer
from gristmill.training.parallel import Layout
from gristmill.training.parallel.apply import Settings, parallelise
from gristmill.training.parallel.auto import Workload, predicted
from gristmill.training.parallel.dry_run import dry_run
from gristmill.training.parallel.gradients import local
from tests.training.parallel.parity import COMPUTE, made, rows, tiny
from tests.training.parallel.ranks import run_ranks, world_of

LAYOUTS = [Layout(shard=4), Layout(replicate=2, shard=2), Layout(shard=2, tensor=2), Layout(pipeline=2, shard=2)]


def real_shares(rank, layout, config):
    model = made(config)
    parallelise(model, CausalLM(), None, world_of(layout), COMPUTE, Settings())
    return sum(local(parameter).numel() for parameter in model.parameters())


@pytest.mark.slow
def test_what_is_built_is_what_real_processes_hold():
    """Odd widths, so that shares are unequal."""
    config = tiny(dim=24, heads=4, head_dim=6, mlp_dim=52, layers=4)
    for layout in LAYOUTS:
        real = run_ranks(real_shares, 4, layout, config)
        work = Workload(config=config, rows=8, context=16, precision="fp32")
        built = dry_run(work, layout, tuple(range(4)), device="cpu")
        assert [one.parameters for one in built] == real, layout
        assert not torch.distributed.is_initialized()


LARGER = {"vocab_size": 1024, "dim": 128, "layers": 4, "heads": 4, "kv_heads": 4, "head_dim": 32, "mlp_dim": 384,
          "context": 128}
ROWS = 8


def measured_peak(rank, layout, config):
    """Bytes at the peak of the second update, as torch's tracker of tensors counts them."""
    from torch.distributed._tools.mem_tracker import MemTracker

    model = made(config)
    passes = parallelise(model, CausalLM(), None, world_of(layout), COMPUTE, Settings())
    optimizer = build_optimizer(list(model.named_parameters()), OptimizerConfig(kind="adamw", learning_rate=1e-3))
    batch = {name: tensor[:ROWS // (layout.replicate * layout.shard)]
             for name, tensor in rows(config, ROWS, config.context, documents=False).items()}

    def update():
        passes.run([batch], {"loss": 1 / 1000})
        optimizer.step()
        optimizer.zero_grad()

    update()
    tracker = MemTracker()
    tracker.track_external(model, *optimizer.parts)
    with tracker:
        update()
    return sum(found["Total"] for found in tracker.get_tracker_snapshot("peak").values())


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"family": "moe", "moe": MoEConfig(experts=4, active=2, mlp_dim=512)}],
                         ids=["llama", "experts"])
@pytest.mark.parametrize("layout", [Layout(), Layout(shard=2), Layout(tensor=2)], ids=lambda one: one.describe())
def test_the_prediction_is_within_15_percent_of_a_measured_peak(layout, changes):
    config = tiny(**LARGER | changes)
    found = run_ranks(measured_peak, layout.processes, layout, config)
    work = Workload(config=config, rows=ROWS, context=config.context, micro_batch=ROWS, precision="fp32")
    assert predicted(work, layout, device="cpu").total == pytest.approx(max(found), rel=0.15)


SEVENTY = ["layout", "llama:llama-3-70b", "--processes", "512", "--checkpointing", "full", "--build", "--json"]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["auto", "shard=64,tensor=8", "pipeline=8,shard=8,tensor=8"])
def test_seventy_billion_on_512_processes_in_this_one(parallel):
    done = CliRunner().invoke(app, [*SEVENTY, "--parallel", parallel])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    for one in found["built"]:
        assert one["fits"]
        assert one["total"] < USABLE * 80e9
        for part in ("weights", "gradients", "optimizer", "total"):
            assert one[part] == pytest.approx(found["predicted"][part], rel=0.15)
    assert len(found["built"]) == (2 if "pipeline" in found["layout"] else 1)
    least = 70.5e9 / 512
    assert all(one["parameters"] >= 0.99 * least for one in found["built"])


def test_what_cannot_be_cut_is_refused_as_a_training_would(tmp_path):
    done = CliRunner().invoke(app, ["layout", "llama:smollm2-135m", "--processes", "4", "--parallel", "tensor=4",
                                    "--build"])
    assert done.exit_code != 0
    assert "9 heads" in str(done.exception)


def test_a_layout_of_another_number_is_refused():
    done = CliRunner().invoke(app, ["layout", "llama:smollm2-135m", "--processes", "4", "--parallel", "shard=8"])
    assert done.exit_code != 0
    assert "--processes 8" in str(done.exception)



RECIPE = """
name: tiny
stages:
  corpus: {uses: data, sources: [{kind: files, path: "*.txt"}]}
  tokenizer: {uses: tokenizer, corpus: corpus, vocab_size: 512}
  base:
    uses: pretrain
    corpus: corpus
    tokenizer: tokenizer
    model: {family: llama, depth: 2, context: 64}
    objective: {kind: OBJECTIVE}
    batch: 8
    micro_batch: 4
    training: {activation_checkpointing: full, optimizer: {kind: sgd, learning_rate: 0.1}}
"""


def planned(folder, *options, objective="causal_lm"):
    (folder / "recipe.yaml").write_text(RECIPE.replace("OBJECTIVE", objective))
    done = CliRunner().invoke(app, ["layout", str(folder / "recipe.yaml"), "--processes", "2", "--json", *options])
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


def test_a_plan_takes_what_the_recipe_says(tmp_path):
    found = planned(tmp_path)
    assert found == planned(tmp_path, "--micro-batch", "4", "--checkpointing", "full", "--optimizer", "momentum")
    assert found["predicted"]["optimizer"] > 0
    assert found["predicted"]["activations"] < planned(tmp_path, "--checkpointing", "none")["predicted"]["activations"]
    assert found["predicted"]["activations"] > planned(tmp_path, "--micro-batch", "1")["predicted"]["activations"]


def test_a_plan_is_built_with_the_objective_and_the_batch_of_the_recipe(tmp_path):
    assert planned(tmp_path, "--parallel", "tensor=2", "--build")["built"]
    assert planned(tmp_path, "--parallel", "shard=2", "--build", objective="multi_token")["built"]
    with pytest.raises(UserError, match="MultiTokenLM reads the whole vocabulary"):
        planned(tmp_path, "--parallel", "tensor=2", "--build", objective="multi_token")
    with pytest.raises(UserError, match="1f1b needs one for each"):
        planned(tmp_path, "--parallel", "pipeline=2", "--micro-batch", "8", "--build")


SMALL = {"vocab_size": 512, "dim": 32, "layers": 2, "heads": 4, "head_dim": 8, "mlp_dim": 64, "context": 64}


@pytest.mark.parametrize(("config", "objective"), [
    (tiny(), CausalLM()),
    (tiny(family="moe", mlp_dim=64, moe=MoEConfig(experts=4, active=2)), CausalLM()),
    (tiny(family="moe", mlp_dim=64, moe=MoEConfig(experts=4, active=2, shared=2, shared_gate=True)), CausalLM()),
    (EncoderConfig(family="bert", **SMALL), MaskedLM()),
    (EncoderDecoderConfig(family="t5", decoder_layers=2, **SMALL), SequenceToSequence()),
], ids=["llama", "experts", "shared experts", "bert", "t5"])
@pytest.mark.parametrize("layout", [Layout(tensor=2), Layout(shard=2, tensor=2)], ids=lambda one: one.describe())
def test_what_tensor_leaves_whole_is_planned_whole(config, objective, layout):
    """Layers of experts with their routers, and the vocabulary outside of decoders."""
    work = Workload(config=config, rows=4, context=16, precision="fp32", objective=objective)
    [built] = dry_run(work, layout, device="cpu")
    assert built.memory.weights == pytest.approx(predicted(work, layout, device="cpu").weights, rel=0.02)


@pytest.mark.parametrize("expert", [2, 4])
def test_experts_over_the_processes_of_a_row_are_planned_as_they_are_built(expert):
    config = tiny(family="moe", layers=2, mlp_dim=64, moe=MoEConfig(experts=4, active=2))
    work = Workload(config=config, rows=4, context=16, precision="fp32")
    layout = Layout(context=4, expert=expert)
    [built] = dry_run(work, layout, device="cpu")
    assert built.memory.weights == pytest.approx(predicted(work, layout, device="cpu").weights, rel=0.05)
