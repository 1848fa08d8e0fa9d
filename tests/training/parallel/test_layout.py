"""Layouts: what is written, what is refused, and that text and layout say the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.training.parallel.layout import AXES, Layout

SIZES = st.sampled_from([1, 2, 3, 4, 8])


@given(st.fixed_dictionaries(dict.fromkeys(AXES, SIZES)), st.booleans(), st.booleans(),
       st.sampled_from(["gpipe", "1f1b", "interleaved", "zero_bubble"]))
def test_what_a_layout_describes_reads_back_the_same(axes, sequence, offload, schedule):
    layout = Layout(**axes, sequence=sequence, offload=offload, schedule=schedule)
    assert Layout.parse(layout.describe()) == layout


def test_the_number_of_processes_is_the_product_of_the_axes():
    assert Layout.parse("pipeline=2,replicate=3,shard=4,context=5,tensor=7,expert=10").processes == 2 * 3 * 4 * 5 * 7
    assert Layout.parse("none") == Layout.parse("") == Layout()
    assert Layout().processes == 1


@pytest.mark.parametrize(("text", "said"), [
    ("data=2", "'data' is no axis"), ("shard=two", "'two' is not understood"), ("shard=0", "shard must be at least 1"),
    ("sequence=maybe", "'maybe' is not understood"), ("schedule=fifo", "no schedule 'fifo'"),
    ("shard=4,expert=3", "must divide shard x context = 4"), ("shard", "'' is not understood"),
])
def test_what_is_not_understood_is_refused(text, said):
    with pytest.raises(UserError) as error:
        Layout.parse(text)
    assert said in str(error.value).replace(": must", " must")
