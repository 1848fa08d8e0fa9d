import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.dedup.exact import content_hash, equal_documents, hash_columns


def test_exact_hash_ignores_white_space_only() -> None:
    assert content_hash("a b\n c") == content_hash("a  b c\n")
    assert content_hash("a b c") != content_hash("ab c")
    assert content_hash("a") != content_hash("A")
    assert len(content_hash("\ud800")) == 16


DIGESTS = st.sampled_from([b"", b"a" * 16, b"a" * 8 + b"b" * 8, b"b" * 8 + b"a" * 8, b"c" * 16])


@settings(deadline=None)
@given(st.lists(DIGESTS, max_size=20), st.data())
def test_the_best_of_equal_ones_stays_whatever_the_files(digests: list[bytes], data: st.DataObject) -> None:
    """Two hashes whose first halves agree are still two."""
    order = data.draw(st.permutations(range(len(digests))))[: data.draw(st.integers(0, 20))]
    cut = data.draw(st.integers(0, 20))
    parts = [hash_columns(digests[:cut]), hash_columns(digests[cut:])]
    found = equal_documents(parts, np.array(order, np.int64), memory=data.draw(st.integers(50, 5000)))
    best: dict[bytes, int] = {}
    expected = [-1] * len(digests)
    for number in order:
        first = best.setdefault(digests[number], number)
        if first != number and digests[number]:
            expected[number] = first
    assert found.tolist() == expected
