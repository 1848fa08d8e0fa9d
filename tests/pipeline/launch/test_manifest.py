"""YAML that reads back as it was, under old and new rules of YAML."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from launch_jobs import NASTY

from gristmill.pipeline.launch.manifest import yaml_text

TEXTS = st.one_of(NASTY, st.lists(NASTY, max_size=4).map("\n".join))
VALUES = st.recursive(st.one_of(TEXTS, st.integers(), st.booleans(), st.none()),
                      lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
                      max_leaves=6)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), min_size=1, max_size=3))
def test_reads_back(documents):
    assert list(yaml.safe_load_all(yaml_text(*documents))) == documents


@pytest.mark.parametrize("text", ["1e3", "0o7", "yes", "y", "n", "on", "null", "1:30", "0x1", "1_000", ".5", ".NaN",
                                  ".inf", "", "2026-01-01", "=", "<<"])
def test_what_readers_take_for_something_else_is_quoted(text):
    assert yaml_text({"key": text}) == f'key: "{text}"\n'


def test_scripts_stay_readable():
    assert yaml_text({"run": "set -e\necho 'é'\n"}) == "run: |\n  set -e\n  echo 'é'\n"
