"""Parallel text: two documents of one pair, from a file or from the standard library, that are never parted."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.data.documents import Document
from gristmill.data.inputs import Range
from gristmill.data.read import Sample
from gristmill.data.sources import Files, PythonFunctions
from tests.data.reading import documents

RECORDS = [{"text": text, "language": language, "pair": pair} for text, language, pair in (
    ("a house", "en", "1"), ("ein Haus", "de", "1"), ("a cat", "en", "2"), ("eine Katze", "de", "2"),
    ("alone", "en", ""), ("also alone", "en", None))]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_records_of_a_translation_carry_their_pair(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    else:
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    found = documents(Files(path=str(path)))
    assert [d.metadata.get("pair") for d in found] == ["1", "1", "2", "2", None, None]
    assert [d.metadata.get("group") for d in found] == ["1", "1", "2", "2", None, None]
    assert [d.language for d in found][:4] == ["en", "de", "en", "de"]


def test_a_number_names_a_pair_as_well(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "pair": 7}\n{"text": "b", "pair": 0}\n')
    assert [d.metadata["pair"] for d in documents(Files(path=str(tmp_path / "x.jsonl")))] == ["7", "0"]


def test_a_pair_is_sampled_as_one():
    pairs = [(Document(f"{side}/{i}", "x", "s", metadata={"pair": f"p{i}"})) for i in range(300) for side in ("a", "b")]
    taken = [Sample(0.4, 7).point(document) < 0.4 for document in pairs]
    assert 0.3 < sum(taken) / len(taken) < 0.5
    assert taken[::2] == taken[1::2]
    alone = [Document(f"alone/{i}", "x", "s") for i in range(300)]
    assert len({Sample(0.4, 7).point(document) for document in alone}) == 300


@pytest.fixture(scope="module")
def library() -> list[Document]:
    source = PythonFunctions()
    chosen = [item for item in source.inputs() if item.name in ("argparse.py", "textwrap.py", "heapq.py")]
    return [found for item in chosen for part in source.ranges(item, 1) for found in source.read(part, "s")
            if isinstance(found, Document)]


def test_a_function_is_its_documentation_and_its_code(library):
    assert len(library) > 40
    assert len({d.id for d in library}) == len(library)
    for first, second in zip(library[::2], library[1::2], strict=True):
        assert (first.language, second.language) == ("en", "python")
        assert first.metadata["pair"] == second.metadata["pair"]
        assert first.metadata["license"] == "PSF-2.0"
        assert 20 <= len(first.text) <= 1200
        assert len(second.text) <= 1200
        assert first.text not in second.text, "the code has lost its documentation"
    texts = {d.metadata["pair"].split(":")[1] + d.language: d.text for d in library}
    assert texts["heappushen"].startswith("Push item onto heap")
    assert texts["heappushpython"].startswith("def heappush(heap, item):")


def test_a_function_belongs_to_the_group_of_its_module(library):
    """Functions of one module stand in one split: they quote each other."""
    assert {d.metadata["group"] for d in library} == {"argparse", "textwrap", "heapq"}


def test_long_functions_and_tests_are_left_out():
    source = PythonFunctions(longest=100)
    files = source.inputs()
    part = Range(next(item for item in files if item.name == "textwrap.py"))
    assert all(len(found.text) <= 100 for found in source.read(part, "s"))
    with pytest.raises(ValueError, match="longest: must be at least 40"):
        PythonFunctions(longest=39)
    assert files == sorted(files, key=lambda item: item.name)
    assert not any(item.name.startswith("test/") for item in files)
