"""Identity, files and seeds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.core.config import config, non_default, require, to_plain
from gristmill.core.errors import MachineError, UserError
from gristmill.core.files import disk_errors, read_json, write_atomic
from gristmill.core.hashing import canonical_json, digest, digest_folder
from gristmill.core.seeds import derive_seed, fraction

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12,
)


@given(json_values)
def test_equal_values_have_equal_digests_whatever_their_order(value):
    assert digest(value) == digest(value)
    if isinstance(value, dict):
        assert digest(dict(reversed(value.items()))) == digest(value)


@pytest.mark.parametrize("value", [{1, 2}, object(), math.nan, math.inf, {1: "a"}, b"bytes"])
def test_what_has_no_stable_form_is_refused(value):
    with pytest.raises(UserError):
        canonical_json({"inner": [value]})


@config
class Inner:
    rate: float = 0.1

    def __post_init__(self):
        require(self.rate > 0, "rate", "must be positive")


@config
class Outer:
    name: str
    inner: Inner = Inner()
    added_later: int = 7


def test_identity_holds_only_what_was_changed():
    assert non_default(Outer(name="a")) == {"name": "a"}
    assert non_default(Outer(name="a", inner=Inner(rate=0.2))) == {"name": "a", "inner": {"rate": 0.2}}
    assert to_plain(Outer(name="a")) == {"name": "a", "inner": {"rate": 0.1}, "added_later": 7}
    with pytest.raises(ValueError, match="rate: must be positive"):
        Inner(rate=0)


def test_folder_digests_ignore_what_depends_on_time(tmp_path):
    (tmp_path / "payload.txt").write_text("x")
    before = digest_folder(tmp_path)
    (tmp_path / "telemetry").mkdir()
    (tmp_path / "telemetry" / "speed.jsonl").write_text("1")
    (tmp_path / "artifact.json").write_text("{}")
    assert digest_folder(tmp_path) == before
    (tmp_path / "payload.txt").write_text("y")
    assert digest_folder(tmp_path) != before


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(MachineError, match="disk is full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_say_where_and_how_to_mend(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(UserError) as caught:
        read_json(broken)
    assert str(broken) in str(caught.value)
    with pytest.raises(MachineError) as full, disk_errors(tmp_path):
        raise OSError(28, "No space left on device")
    assert "to mend it" in str(full.value)


@given(st.lists(st.integers() | st.text(), min_size=1, max_size=4))
def test_seeds_are_pure_and_tell_parts_apart(parts):
    assert derive_seed(*parts) == derive_seed(*parts)
    assert 0 <= fraction(*parts) < 1
    assert derive_seed(*parts) != derive_seed(*parts, "more")
    assert derive_seed("1") != derive_seed(1)
