"""One process: what is saved comes back, nothing damaged or cut short is ever read, and the last good one stays."""

import errno
import json
import os
import random
import shutil
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gristmill.core.errors import MachineError, UserError
from gristmill.training.checkpoints import Checkpoints, staging, store
from gristmill.training.checkpoints.format import NAMES
from gristmill.training.parallel import World
from tests.shared import HANG

quick = settings(max_examples=20, deadline=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def checkpoints(place, **options):
    return Checkpoints(place, World.alone(), **options)


def some(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """What a small run has: matrices, a number of steps, codes of eight bits, averages."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, 5, generator=generator)
    return {
        "model": {"blocks.0.weight": weight, "norm.weight": torch.randn(5, generator=generator).bfloat16()},
        "optimizer": {"blocks.0.weight/step": torch.tensor(float(seed)),
                      "blocks.0.weight/codes": torch.randint(256, (7, 5), generator=generator).to(torch.uint8),
                      "blocks.0.weight/scales": torch.rand(1, generator=generator)},
    }


def blank(tensors):
    return {group: {name: torch.zeros_like(tensor) for name, tensor in named.items()}
            for group, named in tensors.items()}


def same(one, other) -> bool:
    return all(torch.equal(tensor.view(torch.uint8) if tensor.ndim else tensor,
                           other[group][name].view(torch.uint8) if tensor.ndim else other[group][name])
               for group, named in one.items() for name, tensor in named.items())


def loaded(made, found):
    into = blank(some(0))
    made.load_into(found, into)
    return into


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@pytest.mark.parametrize("place", ["folder", "file", "memory"])
@pytest.mark.parametrize("asynchronous", [False, True])
@quick
@given(kinds=st.lists(st.tuples(st.sampled_from(list(NAMES)), SHAPES), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_every_type_and_shape_comes_back_bit_for_bit(tmp_path_factory, place, asynchronous, kinds, seed):
    folder = tmp_path_factory.mktemp("run")
    where = {"folder": folder, "file": f"file://{folder}", "memory": f"memory://{folder}"}[place]
    generator = torch.Generator().manual_seed(seed)
    tensors = {"model": {}, "other": {}}
    for number, (dtype, shape) in enumerate(kinds):
        data = torch.randint(0, 2 if dtype == torch.bool else 256, (*shape, dtype.itemsize), generator=generator)
        tensor = data.to(torch.uint8).view(dtype).view(shape)
        tensors["other" if number % 2 else "model"][f"layer.{number}/{place}"] = tensor
    made = checkpoints(where, asynchronous=asynchronous)
    made.save(12, tensors, {"tokens": 5, "text": "ä", "nested": {"rate": 0.1}})
    found = checkpoints(where).newest()
    if asynchronous:
        made.wait()
        found = checkpoints(where).newest()
    assert (found.step, found.layout, found.processes) == (12, "none", 1)
    assert found.state == {"tokens": 5, "text": "ä", "nested": {"rate": 0.1}}
    into = blank(tensors)
    made.load_into(found, into)
    assert same(into, tensors)
    assert same({"other": made.read(found, "other")}, {"other": tensors["other"]})
    made.close()


def test_files_are_plain_safetensors_and_nothing_is_pickled(tmp_path):
    tensors = some(1)
    checkpoints(tmp_path).save(3, tensors, {})
    folder = tmp_path / "step-00000003"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "optimizer.safetensors", "index.json",
                                                        "state.json"}
    assert same({group: load_file(folder / f"{group}.safetensors") for group in tensors}, tensors)
    assert json.loads((folder / "state.json").read_text())["files"].keys() == {
        "model.safetensors", "optimizer.safetensors", "index.json"}


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "memory"])
@quick
@given(data=st.data())
def test_any_flipped_bit_is_noticed(tmp_path_factory, place, data):
    folder = tmp_path_factory.mktemp("run")
    where = folder if place == "folder" else f"memory://{folder}"
    made = checkpoints(where)
    older, newer = some(1), some(2)
    made.save(1, older, {})
    made.save(2, newer, {})
    name = data.draw(st.sampled_from(["model.safetensors", "optimizer.safetensors", "index.json", "state.json"]))
    path = made.store.where(2, name).removeprefix("memory://") if place == "memory" else made.store.where(2, name)
    files = made.store.files if place == "memory" else None
    content = bytearray(files.cat_file(path) if files else Path(path).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if files:
        files.pipe_file(path, bytes(content))
    else:
        Path(path).write_bytes(content)
    found = made.newest()
    assert found.step == 1
    assert same(loaded(made, found), older)


def test_files_that_are_missing_or_cut_are_noticed_and_with_none_left_it_is_said(tmp_path):
    made = checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        made.save(step, some(step), {})
    (tmp_path / "step-00000003" / "model.safetensors").unlink()
    cut = tmp_path / "step-00000002" / "optimizer.safetensors"
    os.truncate(cut, cut.stat().st_size - 1)
    assert made.newest().step == 1
    (tmp_path / "step-00000001" / "index.json").write_text("{}")
    with pytest.raises(UserError, match="damaged or missing") as caught:
        made.newest()
    assert "step-00000003" in caught.value.where
    assert "delete" in caught.value.fix


def test_where_there_is_none_there_is_none(tmp_path):
    assert checkpoints(tmp_path / "new").newest() is None
    assert checkpoints("memory://nothing/here").newest() is None
    (tmp_path / "step-00000001").mkdir()  # without a state it is none
    (tmp_path / "step-x").mkdir()
    assert checkpoints(tmp_path).newest() is None


def test_another_format_is_named(tmp_path):
    made = checkpoints(tmp_path)
    made.save(1, some(1), {})
    path = tmp_path / "step-00000001" / "state.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(UserError, match="another format"):
        made.newest()


# -- cut short ---------------------------------------------------------------------------------------------------------


class Events:
    """Counts what is done to the disk, and at event `at` does `then`: half of a write, or nothing of the rest."""

    def __init__(self, at, then):
        self.at, self.then, self.count = at, then, 0

    def __call__(self):
        self.count += 1
        if self.count == self.at:
            self.then()

    @contextmanager
    def watched(self):
        kept = {(owner, name): getattr(owner, name) for owner, name in (
            (store.os, "fsync"), (Path, "rename"), (Path, "mkdir"), (store.shutil, "rmtree"))}
        writing = store.Disk.writing

        def counted(function):
            def call(*args, **kwargs):
                self()
                return function(*args, **kwargs)
            return call

        events = self

        class Written:
            def __init__(self, file):
                self.file = file

            def write(self, data):
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                events()
                self.file.write(data[len(data) // 2:])

            def __getattr__(self, name):
                return getattr(self.file, name)

        @contextmanager
        def watched_writing(this, step, name):
            with writing(this, step, name) as file:
                yield Written(file)

        try:
            for (owner, name), function in kept.items():
                setattr(owner, name, counted(function))
            store.Disk.writing = watched_writing
            yield self
        finally:
            store.Disk.writing = writing
            for (owner, name), function in kept.items():
                setattr(owner, name, function)


def full():
    raise OSError(errno.ENOSPC, "No space left on device")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def save_and_wait(made, step, tokens):
    made.save(step, some(tokens), {"tokens": tokens})
    made.wait()


def every_event(folder, second, keep):
    made = checkpoints(folder, keep=keep)
    made.save(3, some(3), {"tokens": 3})
    with Events(0, None).watched() as events:
        made.save(second, some(4), {"tokens": 4})
    shutil.rmtree(folder)
    return events.count


@pytest.mark.parametrize(("second", "keep", "asynchronous"), [(3, 1, False), (4, 1, True), (4, 2, False)])
def test_a_disk_that_is_full_at_any_point_leaves_the_one_before(tmp_path, second, keep, asynchronous):
    count = every_event(tmp_path / "count", second, keep)
    assert count > 12
    for at in range(1, count + 1):
        folder = tmp_path / str(at)
        made = checkpoints(folder, keep=keep, asynchronous=asynchronous)
        save_and_wait(made, 3, 3)
        with Events(at, full).watched(), pytest.raises(MachineError, match="disk is full"):
            save_and_wait(made, second, 4)
        made.close()
        check_left(folder, second, keep)


@pytest.mark.parametrize(("second", "keep"), [(3, 1), (4, 2)])
def test_a_kill_at_any_point_leaves_a_whole_one(tmp_path, second, keep):
    for at in range(1, every_event(tmp_path / "count", second, keep) + 1):
        folder = tmp_path / str(at)
        made = checkpoints(folder, keep=keep)
        made.save(3, some(3), {"tokens": 3})
        child = os.fork()
        if child == 0:
            try:
                with Events(at, killed).watched():
                    made.save(second, some(4), {"tokens": 4})
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), at
        check_left(folder, second, keep)


def check_left(folder, second, keep):
    """Either the one before or the new one, whole; and it goes on from there without leaving anything behind."""
    made = checkpoints(folder, keep=keep)
    found = made.newest()
    tokens = found.state["tokens"]
    assert tokens in (3, 4)
    assert found.step == (3 if tokens == 3 else second)
    assert same(loaded(made, found), some(tokens))
    made.save(5, some(5), {"tokens": 5})
    assert made.newest().state == {"tokens": 5}
    assert all(path.name.startswith("step-") for path in folder.iterdir())
    assert len(list(folder.iterdir())) <= keep


def test_elsewhere_than_on_a_disk_what_is_cut_short_is_not_listed():
    made = checkpoints("memory://cut/short", keep=1)
    made.save(1, some(1), {})
    kept = made.store.commit
    made.store.commit = lambda *args: full()
    with pytest.raises(MachineError, match="disk is full"):
        made.save(2, some(2), {})
    made.store.commit = kept
    assert made.newest().step == 1
    made.save(2, some(2), {})
    assert made.store.steps() == [2]
    assert same(loaded(made, made.newest()), some(2))


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_the_newest_and_every_so_many_are_kept(tmp_path, place):
    made = checkpoints(tmp_path if place == "folder" else f"memory://{tmp_path}", keep=2, keep_every=10)
    for step in range(5, 45, 5):
        made.save(step, some(step), {})
    assert made.store.steps() == [10, 20, 30, 35, 40]
    assert [step for step in range(1, 31) if made.permanent(step)] == [10, 20, 30]


@quick
@given(keep=st.integers(1, 3), every=st.none() | st.integers(1, 4),
       actions=st.lists(st.sampled_from(["save", "save", "damage", "restart"]), max_size=14))
def test_the_last_good_one_is_never_dropped(tmp_path_factory, keep, every, actions):
    folder = tmp_path_factory.mktemp("run")
    made = checkpoints(folder, keep=keep, keep_every=every)
    step = good = 0
    for number, action in enumerate(actions):
        listed = made.store.steps()
        if action == "save":
            step += 1
            made.save(step, some(number), {"number": number})
            good = step
        elif action == "damage" and listed and listed != [good]:
            victim = random.Random(number).choice([known for known in listed if known != good])
            (folder / f"step-{victim:08d}" / "model.safetensors").write_bytes(b"")
        elif action == "damage" and len(listed) > 1:
            (folder / f"step-{listed[-1]:08d}" / "model.safetensors").write_bytes(b"")
        elif action == "restart" and listed:
            found = made.newest()
            step = good = found.step
        if made.store.steps():
            assert made.newest() is not None


# -- names -------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_and_nothing_is_changed(tmp_path):
    made = checkpoints(tmp_path)
    made.save(1, some(1), {})
    found = made.newest()
    for change, said in [
        (lambda t: t["model"].pop("norm.weight"), "model/norm.weight of the checkpoint is not asked for"),
        (lambda t: t["model"].update(head=torch.zeros(2)), "model/head is not in the checkpoint"),
        (lambda t: t["model"].update({"norm.weight": torch.zeros(6).bfloat16()}),
         r"model/norm.weight is bfloat16 \(5,\) in the checkpoint and bfloat16 \(6,\) here"),
        (lambda t: t["model"].update({"norm.weight": torch.zeros(5)}), r"float32 \(5,\) here"),
        (lambda t: t.update(average={"a": torch.zeros(1)}), "average/a is not in the checkpoint"),
    ]:
        into = blank(some(1))
        change(into)
        with pytest.raises(UserError, match=said) as caught:
            made.load_into(found, into)
        assert "step-00000001" in caught.value.where
        assert all(float(t.float().abs().sum()) == 0 for named in into.values() for t in named.values())


def test_a_group_that_nobody_asks_for_is_left_alone(tmp_path):
    made = checkpoints(tmp_path)
    made.save(1, some(1), {})
    into = {"model": blank(some(1))["model"]}
    made.load_into(made.newest(), into)
    assert same(into, {"model": some(1)["model"]})


def test_state_that_does_not_exist_yet_is_made_like_its_parameter(tmp_path):
    made = checkpoints(tmp_path)
    made.save(1, some(1), {})
    found = made.newest()
    assert found.groups == ["model", "optimizer"]
    parameter = torch.nn.Parameter(torch.zeros(7, 5))
    state = made.empty(found, "optimizer", {"blocks.0.weight": parameter})
    made.load_into(found, {"optimizer": state})
    assert same({"optimizer": state}, {"optimizer": some(1)["optimizer"]})
    assert not any(tensor.requires_grad for tensor in state.values())
    assert made.empty(found, "optimizer", {}) == {}


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep_every": 0}])
def test_a_senseless_number_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="at least 1"):
        checkpoints(tmp_path, **options)


def test_storage_that_nobody_knows_is_refused():
    with pytest.raises(UserError, match="cannot be reached"):
        checkpoints("nowhere://bucket")


@pytest.mark.parametrize("state", [{"loss": float("nan")}, {"set": {1}}])
def test_state_that_json_cannot_keep_is_refused_at_once(tmp_path, state):
    with pytest.raises(UserError):
        checkpoints(tmp_path, asynchronous=True).save(1, some(1), state)


# -- asynchronously ----------------------------------------------------------------------------------------------------


class Gate:
    """Holds back the writing thread until it is opened."""

    def __init__(self, monkeypatch, owner, name):
        self.opened, self.reached, self.copied = threading.Event(), threading.Event(), threading.Event()
        function = getattr(owner, name)

        def held(*args, **kwargs):
            self.reached.set()
            assert self.opened.wait(HANG)
            try:
                return function(*args, **kwargs)
            finally:
                self.copied.set()

        monkeypatch.setattr(owner, name, held)


def test_what_changes_after_the_return_is_not_saved(tmp_path, monkeypatch):
    gate = Gate(monkeypatch, store.Disk, "begin")
    made = checkpoints(tmp_path, asynchronous=True)
    tensors, state = some(1), {"tokens": 1, "nested": [1]}
    made.save(1, tensors, state)
    for named in tensors.values():
        for tensor in named.values():
            tensor.fill_(0)
    state["nested"].append(2)
    assert store.Disk(tmp_path).steps() == []
    gate.opened.set()
    found = made.newest()  # waits
    assert found.state == {"tokens": 1, "nested": [1]}
    assert same(loaded(made, found), some(1))
    made.close()


def test_overlapping_save_returns_before_the_copies_and_staged_waits_for_them(tmp_path, monkeypatch):
    gate = Gate(monkeypatch, staging.Staging, "copy")
    made = checkpoints(tmp_path, asynchronous=True)
    tensors = some(1)
    made.save(1, tensors, {}, overlap=True)
    assert gate.reached.wait(HANG)  # on the other thread: this one was not held up
    threading.Timer(0.2, gate.opened.set).start()
    made.staged()
    assert gate.copied.is_set()
    for named in tensors.values():
        for tensor in named.values():
            tensor.fill_(0)
    assert same(loaded(made, made.newest()), some(1))
    made.close()


def test_one_at_a_time_and_the_same_buffers_again(tmp_path, monkeypatch):
    running, most = [], []
    write = Checkpoints._write

    def counted(self, *args):
        running.append(1)
        most.append(len(running))
        write(self, *args)
        running.pop()

    monkeypatch.setattr(Checkpoints, "_write", counted)
    made = checkpoints(tmp_path, asynchronous=True, keep=9)
    addresses = set()
    for step in range(1, 6):
        made.save(step, some(step), {})
        made.staged()
        addresses.add(tuple(buffer.data_ptr() for buffer in made.staging.buffers.values()))
    made.wait()
    assert made.store.steps() == [1, 2, 3, 4, 5]
    assert max(most) == 1
    assert len(addresses) == 1
    made.close()
    assert not made.staging.buffers


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("ask", ["save", "wait", "newest", "close"])
def test_a_failure_is_raised_by_the_next_call_and_once(tmp_path, monkeypatch, ask, overlap):
    made = checkpoints(tmp_path, asynchronous=True)
    made.save(1, some(1), {})
    made.wait()
    with monkeypatch.context() as patched:
        if overlap:
            patched.setattr(made.staging, "copy", lambda tensors: full())
        else:
            patched.setattr(store.Disk, "commit", lambda *args: full())
        made.save(2, some(2), {}, overlap=overlap)
        made.staged()
        calls = {"save": lambda: made.save(3, some(3), {}), "wait": made.wait, "newest": made.newest,
                 "close": made.close}
        with pytest.raises(MachineError, match="disk is full"):
            calls[ask]()
    assert made.newest().step == 1
