"""Micro-batches as graphs: what is repeated is what would have been run.

Where there is no GPU, a graph is what `Tape` makes: the operations of a pass with the very tensors that they read and
wrote, done again without any Python between. Whatever a graph would freeze (a factor, a batch, the place of a
gradient), this freezes too; whatever a graph forbids (asking for a number), this refuses.
"""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gristmill.core.errors import MachineError, UserError
from gristmill.core.stage import Runtime
from gristmill.models import Decoder
from gristmill.objectives import CausalLM, cross_entropy
from gristmill.objectives.r_drop import RDrop
from gristmill.training.accumulate import Accumulation
from gristmill.training.cuda_graphs import (
    SHAPES,
    WAITED,
    Graphed,
    found_waits,
    problem,
    refuse_graphs_of_many_shapes,
)
from gristmill.training.device import Compute, prepare
from gristmill.training.fit_memory import OutOfMemory
from gristmill.training.parallel import World
from gristmill.training.parallel import weights as weights_of_others
from gristmill.training.parallel.apply import Settings, parallelise
from gristmill.training.parallel.layout import Layout
from tests.training.test_loop import TINY, Repeating, trainer, weights

ASKS = {"aten::_local_scalar_dense", "aten::nonzero"}


class Tape(TorchDispatchMode):
    """A recorder of the operations of a pass."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.operations, self.recorded, self.finished = model, [], 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.name() in ASKS:
            raise RuntimeError("operation not permitted when stream is capturing")
        given = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, given))
        return given

    def run(self, work) -> None:
        work()

    def waits(self, work) -> list[str]:
        work()
        return []

    def finish(self) -> None:
        self.finished += 1

    def record(self, work):
        self.operations = operations = []
        before = {parameter: parameter.grad.clone() for parameter in self.model.parameters()}
        with self:
            work()
        for parameter, gradient in before.items():  # a graph that is recorded does nothing yet
            parameter.grad.copy_(gradient)
        self.recorded += 1

        @torch.no_grad()
        def repeat() -> None:
            for func, args, kwargs, given in operations:
                again = func(*args, **kwargs)
                pairs = zip(given, again, strict=True) if isinstance(given, (tuple, list)) else [(given, again)]
                for old, new in pairs:
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return repeat


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """A CPU counts hits in a way of its own, by looking at them."""
    def hits(logits, wanted, weights):
        right = logits.argmax(-1) == wanted
        return (right if weights is None else right & (weights > 0)).sum()

    monkeypatch.setattr(cross_entropy, "_hits", hits)


def graphed(folder, **given):
    made = trainer(folder, **given)
    made.passes = Graphed(made.passes.module, made.compute, recorder=Tape(made.model), strict=True)
    made.begin()
    return made


@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_a_training_is_the_same(tmp_path, ignored):
    source = Repeating(pieces=2, ignored=ignored)
    plain, repeated = trainer(tmp_path / "a", source=source, steps=6), graphed(tmp_path / "b", source=source, steps=6)
    for step in range(6):
        one, other = plain.update(source.window(step)), repeated.update(source.window(step))
        assert other == pytest.approx(one, rel=1e-5)
    # Both pieces have some ignored targets, or none has: one graph.
    assert repeated.passes.recorder.recorded == len(repeated.passes.shapes) == 1
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(repeated)[name], tensor, rtol=1e-4, atol=1e-5)


def test_gradients_add_up_and_factors_may_be_tensors(tmp_path):
    made = graphed(tmp_path)
    source = Repeating(pieces=2)
    for step in range(3):
        given = {"loss": torch.tensor(0.1 * (step + 1))}
        made.optimizer.zero_grad()
        made.passes.run(source.window(step), given)
        found = {n: p.grad.clone() for n, p in made.model.named_parameters()}
        made.passes.run(source.window(step), {"loss": 0.5})  # on top of what is there
        twice = {n: p.grad.clone() for n, p in made.model.named_parameters()}
        made.optimizer.zero_grad()
        Accumulation(made.passes.module, made.compute).run(source.window(step), given)
        for name, parameter in made.model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
        Accumulation(made.passes.module, made.compute).run(source.window(step), {"loss": 0.5})
        for name, parameter in made.model.named_parameters():
            torch.testing.assert_close(twice[name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert made.passes.recorder.recorded == 1


def test_only_some_shapes_get_a_graph_and_all_can_be_forgotten(tmp_path):
    made, sizes = graphed(tmp_path), range(1, SHAPES + 3)
    losses = []
    for _ in range(4):
        losses.append([float(made.passes.run(Repeating(rows=size, ignored=0).window(0), {"loss": 1.0})[0]["loss"])
                       for size in sizes])
    assert losses[0] == pytest.approx(losses[-1])
    assert made.passes.recorder.recorded == len(made.passes.shapes) == SHAPES
    made.passes.forget()
    assert not made.passes.shapes
    assert made.passes.recorder.finished == 1
    made.passes.run(Repeating(rows=2).window(0), {"loss": 1.0})
    assert len(made.passes.shapes) == 1


@pytest.mark.parametrize("how", ["waits", "record"])
def test_what_cannot_be_a_graph_goes_on_as_written_or_is_told(tmp_path, monkeypatch, how):
    def waits(self, work):
        work()
        return ["there.py:7"] if how == "waits" else []

    def record(self, work):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Tape, "waits", waits)
    monkeypatch.setattr(Tape, "record", record)
    source = Repeating()
    plain, made = trainer(tmp_path / "a", source=source), graphed(tmp_path / "b", source=source)
    made.passes.strict = False
    for step in range(5):
        assert made.update(source.window(step)) == pytest.approx(plain.update(source.window(step)), rel=1e-5)
    assert ("there.py:7" if how == "waits" else "out of memory") in made.passes.refused
    strict = graphed(tmp_path / "c", source=source)
    with pytest.raises(MachineError, match="there.py:7" if how == "waits" else "out of memory") as caught:
        several(strict)
    assert isinstance(caught.value, OutOfMemory) == (how == "record"), "fewer rows may do"


def test_no_memory_is_found_behind_the_error_that_ends_a_recording(tmp_path, monkeypatch):
    def record(self, work):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(Tape, "record", record)
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        several(graphed(tmp_path, source=Repeating()))


def test_gradients_begin_with_zeros_in_one_operation(tmp_path):
    made = graphed(tmp_path, source=Repeating())
    several(made)
    with Tape(made.model) as tape:
        made.passes._begin({})
    assert [func.name() for func, *_ in tape.operations] == ["aten::_foreach_zero_"]
    assert not any(parameter.grad.any() for parameter in made.model.parameters())


def test_a_head_that_has_to_look_cannot_be_recorded(tmp_path, monkeypatch):
    made = graphed(tmp_path, source=Repeating())
    monkeypatch.setattr(cross_entropy, "known_of", lambda targets: None)
    with pytest.raises(MachineError, match="not permitted when stream is capturing"):
        several(made)


def several(made) -> None:
    for step in range(3):
        made.update(Repeating().window(step))


def on_gpu(**runtime) -> Compute:
    return Compute(torch.device("cuda"), torch.bfloat16, 1, runtime=Runtime(**runtime))


ROPE = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}


@pytest.mark.parametrize(("change", "told"), [
    ({}, None),
    ({"compute": prepare(Runtime(device="cpu", threads=1))}, "this trains on cpu"),
    ({"world": World(Layout(replicate=2), torch.device("cuda"), size=2)}, "send messages"),
    ({"objective": RDrop(CausalLM(), 1.0)}, "RDrop"),
    ({"attached": torch.nn.Linear(2, 2)}, "hangs on the data"),
    ({"model": torch.nn.Linear(2, 2)}, "for decoders"),
    ({"model": Decoder(dataclasses.replace(TINY, **ROPE))}, "dynamic rope"),
    ({"checkpointing": "full"}, "random numbers"),
    ({"checkpointing": "full", "compiled": True}, None),
], ids=["decoder", "cpu", "processes", "r-drop", "attached", "other body", "dynamic rope", "checkpointing", "compiled"])
def test_where_graphs_cannot_be(change, told):
    given = {"model": Decoder(TINY), "objective": CausalLM(), "attached": None,
             "world": World.alone("cuda"), "compute": on_gpu(), "compiled": False, "checkpointing": "none", **change}
    found = problem(**given)
    assert found is None if told is None else told in found


def test_the_choice(monkeypatch):
    monkeypatch.setattr(weights_of_others, "withhold", lambda module, world: None)  # would ask a GPU

    def passes(choice, compute=None, settings=Settings(), device="cuda"):
        model = Decoder(TINY)
        compute = compute or on_gpu(cuda_graphs=choice)
        made = parallelise(model, CausalLM(), None, World.alone(device), compute, settings)
        return made, model

    assert type(passes("never")[0]) is Accumulation
    made, model = passes("auto")
    assert type(made) is Graphed
    assert not made.strict
    assert made.knows_targets, "on a GPU nobody looks at targets"
    assert passes("always")[0].strict
    assert type(passes("auto", settings=Settings(checkpointing="full"))[0]) is Accumulation
    with pytest.raises(UserError, match="random numbers"):
        passes("always", settings=Settings(checkpointing="full"))
    with pytest.raises(UserError, match="is unknown"):
        passes("sometimes")
    on_cpu = prepare(Runtime(device="cpu", threads=1, cuda_graphs="always"))
    with pytest.raises(UserError, match="this trains on cpu") as error:
        passes("always", on_cpu, device="cpu")
    assert "--cuda-graphs" in str(error.value)
    made, model = passes("auto", dataclasses.replace(on_cpu, runtime=Runtime(cuda_graphs="auto")), device="cpu")
    assert type(made) is Accumulation
    assert not made.knows_targets
    assert not hasattr(model, "head_loss")


@pytest.mark.parametrize(("grows", "named"), [({"batches_grow": True}, "batch_warmup"),
                                              ({"rows_grow": True}, "curriculum.short_rows")])
def test_shapes_that_change_are_refused_where_graphs_are_asked_for(grows, named):
    given = {"batches_grow": False, "rows_grow": False, **grows}
    with pytest.raises(UserError, match=named):
        refuse_graphs_of_many_shapes("always", "run/base", **given)
    refuse_graphs_of_many_shapes("auto", "run/base", **given)
    refuse_graphs_of_many_shapes("always", "run/base", batches_grow=False, rows_grow=False)


def test_waits_are_told_from_other_warnings():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warnings.warn_explicit(WAITED, UserWarning, "model.py", 3)
        warnings.warn_explicit("something else", UserWarning, "model.py", 4)
    with pytest.warns(UserWarning, match="something else"):
        assert found_waits(said) == ["model.py:3"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are for CUDA")
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_on_a_gpu_a_training_is_the_same(ignored):
    source = Repeating(pieces=2, ignored=ignored)
    found = []
    for choice in ("never", "always"):
        model = Decoder(dataclasses.replace(TINY, head_dim=16))
        model.initialise(0)
        model.to("cuda")
        compute = prepare(Runtime(device="cuda", precision="fp32", cuda_graphs=choice))
        passes = parallelise(model, CausalLM(), None, World.alone(compute.device), compute)
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=0.01), []
        for step in range(8):
            sums, _ = passes.run(source.window(step), {"loss": 0.01 * (step + 1)})
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(sums["loss"]))
        found.append(losses)
        assert isinstance(passes, Graphed) == (choice == "always")
    assert any(shape.repeat for shape in passes.shapes.values())
    assert found[0] == pytest.approx(found[1], rel=1e-4)
