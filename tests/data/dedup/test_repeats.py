"""Lines and stretches cut out of files of documents: the same as the plain functions say, for any number of files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.dedup.lines import frequent_keys, line_keys, remove_lines
from gristmill.data.dedup.repeats import RepeatedLines, RepeatedStretches, edit_repeats, examples
from gristmill.data.dedup.substrings import cut_words, repeated_spans, window_keys
from gristmill.data.executors.job import resolve

MENU = "home news about us"
LINE = st.sampled_from([MENU, "all rights reserved by us", "ok", "", " ".join(f"w{n}" for n in range(14))])
DOCUMENT = st.tuples(
    st.lists(LINE | st.text("abc ", max_size=40), max_size=6).map("\n".join),
    st.sampled_from(["web", "books"]), st.sampled_from(["en", "python"]), st.booleans(),
)


def run(job: str, tasks: list[dict[str, Any]]) -> list[Any]:
    return [resolve(job)(**json.loads(json.dumps(task))) for task in tasks]


def write(folder: Path, rows: list[tuple[str, str, str, bool]], cuts: list[int]) -> list[Path]:
    paths = []
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(rows)], strict=True)):
        part = rows[start:stop]
        table = pa.table({"id": [str(n) for n in range(start, stop)], "text": [r[0] for r in part],
                          "source": [r[1] for r in part], "language": [r[2] for r in part]},
                         schema=pa.schema([(name, pa.string()) for name in ("id", "text", "source", "language")]))
        paths.append(folder / f"{number}.parquet")
        pq.write_table(table, paths[-1])
    return paths


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(DOCUMENT, max_size=12), cut=st.integers(0, 12), data=st.data())
def test_any_cut_gives_what_the_plain_functions_give(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, bool]], cut: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("repeats")
    stays = np.array([row[3] for row in rows], bool)
    order = np.array(data.draw(st.permutations(np.flatnonzero(stays).tolist())), np.int64)
    lines, substrings = RepeatedLines(more_than=1), RepeatedStretches(words=10)
    found = edit_repeats(write(folder, rows, [min(cut, len(rows))]), stays, order, folder / "scratch", run,
                         lines=lines, substrings=substrings)
    starts = [0, min(cut, len(rows))]
    edited = {row["row"] + start: row for start, one in zip(starts, found, strict=True)
              for row in pq.read_table(one.path).to_pylist()}

    chosen = [n for n, row in enumerate(rows) if row[3] and row[2] != "python"]
    frequent = frequent_keys([line_keys([rows[n][0] for n in chosen], [rows[n][1] for n in chosen])], 1)
    left = {n: remove_lines(rows[n][0], rows[n][1], frequent) for n in chosen}
    place = {n: i for i, n in enumerate(chosen)}
    spans = repeated_spans([window_keys([left[n][0] for n in chosen], 10)],
                           np.array([place[n] for n in order.tolist() if n in place], np.int64), 10)
    for n in chosen:
        own = spans[spans[:, 0] == place[n], 1:]
        text, cut_out = cut_words(left[n][0], own)
        if left[n][1] or cut_out:
            assert edited[n]["text"] == text
            assert edited[n]["bytes"] == len(text.encode())
            assert (edited[n]["lines"], edited[n]["words"]) == (len(left[n][1]), int((own[:, 1] - own[:, 0]).sum()))
        else:
            assert n not in edited
    assert set(edited) <= set(chosen)


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    stretch = " ".join(f"word{n}" for n in range(30))
    rows = [(f"{MENU}\nstory {n} of it\n{stretch}", "web", "en", True) for n in range(4)]
    files, order = write(tmp_path, rows, [2]), np.arange(4)

    shown: dict[str, Any] = {}

    def texts(**options: Any) -> list[str]:
        found = edit_repeats(files, np.ones(4, bool), order, tmp_path / "scratch", run, **options)
        left = [row[0] for row in rows]
        for start, one in zip((0, 2), found, strict=True):
            for row in pq.read_table(one.path).to_pylist():
                left[start + row["row"]] = row["text"]
        shown.clear()
        shown.update(examples(found))
        return left

    assert texts(lines=None, substrings=None) == [row[0] for row in rows]
    assert texts(lines=RepeatedLines(more_than=4), substrings=None) == [row[0] for row in rows]
    assert texts(lines=RepeatedLines(more_than=3), substrings=None) == [f"story {n} of it" for n in range(4)]
    only_first = texts(lines=None, substrings=RepeatedStretches(words=20))
    assert shown == {"web": {"lines": [], "stretches": [{"id": "1", "text": f"of it\n{stretch}"}]}}
    assert only_first == [rows[0][0], *(f"{MENU}\nstory {n}" for n in (1, 2, 3))]  # "of it" is repeated too


def test_examples_say_what_went(tmp_path: Path) -> None:
    files = write(tmp_path, [(f"{MENU}\nbody {n}", "web", "en", True) for n in range(5)], [])
    [edited] = edit_repeats(files, np.ones(5, bool), np.arange(5), tmp_path / "scratch", run,
                            lines=RepeatedLines(more_than=2), substrings=None)
    assert examples([edited, edited]) == {"web": {"lines": [(MENU, 10)], "stretches": []}}
    assert edited.counts()["lines"].to_pylist() == [1] * 5


def test_impossible_options() -> None:
    for make in (lambda: RepeatedLines(more_than=0), lambda: RepeatedLines(words=0),
                 lambda: RepeatedStretches(words=9)):
        with pytest.raises(ValueError, match="must be at least"):
            make()
