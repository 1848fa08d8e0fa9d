import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.dedup.lines import frequent_keys, line_keys, remove_lines

LINE = st.sampled_from(["all rights reserved", "all  rights reserved ", "one two three", "ok", "", "}}} ))) ((("])
LINES = st.lists(LINE, max_size=8)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(LINES, st.sampled_from("ab")), max_size=12), st.integers(1, 4), st.integers(0, 12))
def test_counts_are_exact_by_source_and_document(rows: list[tuple[list[str], str]], limit: int, cut: int) -> None:
    texts, sources = ["\n".join(lines) for lines, _ in rows], [source for _, source in rows]
    parts = [line_keys(texts[:cut], sources[:cut]), line_keys(texts[cut:], sources[cut:])]
    frequent = frequent_keys(parts, limit, memory=300)
    for text, source in zip(texts, sources, strict=True):
        normal = [" ".join(line.split()) for line in text.split("\n")]
        often = {
            line for line in normal if len(line.split()) >= 3 and line[0].isalnum()
            and sum(s == source and line in [" ".join(x.split()) for x in t.split("\n")]
                    for t, s in zip(texts, sources, strict=True)) > limit
        }
        left, gone = remove_lines(text, source, frequent)
        assert [" ".join(line.split()) for line in gone] == [line for line in normal if line in often]
        kept = [line for line in normal if line not in often and line]
        assert [" ".join(line.split()) for line in left.split("\n") if line.strip()] == kept
        if not gone:
            assert left == text


def test_what_is_left_is_clean() -> None:
    texts = [
        f"Home News About us\n\nStory number {n}.\n\nShare this page now\n\nEnd of {n}\n\nCopyright by us all"
        for n in range(5)
    ]
    frequent = frequent_keys([line_keys(texts, ["web"] * 5)], 3)
    left, gone = remove_lines(texts[2], "web", frequent)
    assert left == "Story number 2.\n\nEnd of 2"
    assert gone == ["Home News About us", "Share this page now", "Copyright by us all"]
    assert remove_lines(texts[2], "another source", frequent) == (texts[2], [])


def test_paragraphs() -> None:
    notice = "A notice that runs over lines."
    texts = [f"A notice that\nruns over lines.\n \nBody of {n} here.\n\n\n{notice}" for n in range(3)]
    frequent = frequent_keys([line_keys(texts, ["s"] * 3, unit="paragraph")], 2)
    assert remove_lines(texts[1], "s", frequent, unit="paragraph")[0] == "Body of 1 here."


@pytest.mark.parametrize("text", ["", "\n\n", "Thank you.\nThank you."])
def test_nothing_to_count(text: str) -> None:
    keys = line_keys([text] * 5, ["s"] * 5)
    assert len(keys) == 0
    assert remove_lines(text, "s", frequent_keys([keys], 1)) == (text, [])
    assert frequent_keys([], 1).dtype == np.uint64
