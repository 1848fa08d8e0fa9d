"""Storage that does not answer for a while, refuses, or holds what a kill has left."""

import errno

import pytest

from gristmill.core.errors import MachineError, UserError
from gristmill.training.checkpoints.store import STATE, Disk, Remote
from tests.training.test_checkpoints import checkpoints, loaded, same, some


def places(folder) -> list[str]:
    return [str(folder / "disk"), f"memory://{folder}"]


@pytest.mark.parametrize("method", ["steps", "state", "digest"])
@pytest.mark.parametrize("kind", [Disk, Remote])
def test_what_cannot_be_read_now_is_not_taken_for_damaged_and_deleted(tmp_path, monkeypatch, kind, method):
    """Passed over, the newest would be deleted by the next save, as newer than the one that the run goes on from."""
    place = places(tmp_path)[kind is Remote]
    made = checkpoints(place)
    for step in (1, 2):
        made.save(step, some(step), {})
    real = getattr(kind, method)

    def silent(self, *args):
        if not args or args[0] == 2:
            raise TimeoutError("no answer")
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(kind, method, silent)
        with pytest.raises(MachineError, match=r"this storage fails .*no answer") as error:
            made.newest()
    assert place in str(error.value)
    assert "run the same command again" in str(error.value)
    found = made.newest()
    assert found.step == 2
    assert same(loaded(made, found), some(2))


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EIO])
def test_a_write_that_fails_says_where_and_leaves_the_one_before(tmp_path, monkeypatch, number):
    made = checkpoints(tmp_path)
    made.save(1, some(1), {})

    def refused(*_):
        raise OSError(number, "refused")

    with monkeypatch.context() as patch:
        patch.setattr("gristmill.training.checkpoints.store.os.fsync", refused)
        with pytest.raises(MachineError, match=r"step-00000002.*this storage fails .*refused"):
            made.save(2, some(2), {})
    assert made.newest().step == 1


def test_what_is_wrong_with_newer_ones_is_told_with_the_one_that_holds(tmp_path):
    for place, spoil in zip(places(tmp_path), (
            lambda made: (tmp_path / "disk/step-00000003/model.safetensors").unlink(),
            lambda made: made.store.files.pipe(f"{made.store.root}/step-00000003/model.safetensors", b"short")),
            strict=True):
        made = checkpoints(place, keep=3)
        for step in (1, 2, 3):
            made.save(step, some(step), {})
        assert made.newest().passed_over == []
        spoil(made)
        found = made.newest()
        assert found.step == 2
        assert found.passed_over == [
            f"{made.store.where(3, 'model.safetensors')}: this checkpoint file is damaged or missing"]


def test_a_state_that_is_gone_is_damage(tmp_path, monkeypatch):
    made = checkpoints(tmp_path)
    made.save(1, some(1), {})
    listed = made.store.steps()
    (tmp_path / "step-00000001" / STATE).unlink()
    monkeypatch.setattr(made.store, "steps", lambda: listed)
    with pytest.raises(UserError, match=r"step-00000001/state\.json: this checkpoint file is missing"):
        made.newest()


def test_what_kills_have_left_elsewhere_than_on_a_disk_goes_with_the_next_save(tmp_path):
    made = checkpoints(places(tmp_path)[1], keep=1, keep_every=4)
    files, root = made.store.files, made.store.root
    for step in (3, 4):
        made.save(step, some(step), {})

    for step in (5, 6):
        with made.store.writing(step, "model.safetensors") as file:
            file.write(b"half")
    assert files.exists(f"{root}/step-00000006/model.safetensors")
    made.save(7, some(7), {})
    left = sorted(path.rsplit("/", 1)[-1] for path in files.ls(root, detail=False))
    assert left == ["step-00000004", "step-00000007"]
    assert made.newest().step == 7
