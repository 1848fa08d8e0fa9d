"""Times and sizes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.pipeline.launch.amounts import mib_of, quantity, seconds_of, slurm_time


@pytest.mark.parametrize(("text", "seconds"), [
    ("90m", 5400), ("1d12h", 129600), ("4:00:00", 14400), ("1-12:00:00", 129600), ("45s", 45), ("2h30m", 9000)])
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "4", "4:00", "h", "1h1d", "1:60:00", "-1h", "1.5h", "1h\n"])
def test_no_times(text):
    with pytest.raises(UserError, match="is not a time"):
        seconds_of(text)


@given(st.integers(1, 10**8))
def test_slurm_reads_back_the_same_time(seconds):
    written = slurm_time(seconds)
    assert re.fullmatch(r"\d+-[0-2]\d:[0-5]\d:[0-5]\d", written)
    assert seconds_of(written) == seconds


@pytest.mark.parametrize(("text", "mib"), [("512M", 512), ("64G", 65536), ("64GiB", 65536), ("1tb", 2**20)])
def test_sizes(text, mib):
    assert mib_of(text) == mib


@pytest.mark.parametrize("text", ["", "64", "G", "-1G", "1.5G", "64 G", "1K", "1G\n"])
def test_no_sizes(text):
    with pytest.raises(UserError, match="not an amount of memory"):
        mib_of(text)


@given(st.integers(1, 10**9))
def test_quantities_keep_the_amount(mib):
    written = quantity(mib)
    assert int(written[:-2]) * {"Mi": 1, "Gi": 1024}[written[-2:]] == mib
