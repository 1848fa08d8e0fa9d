"""Parallel text: two documents of one pair, from a file or from the standard library, that are never parted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.data.collect import Sample
from gristmill.data.documents import Document
from gristmill.data.sources import Files, PythonFunctions
from gristmill.data.sources.python_stdlib import stdlib_folder
from gristmill.data.split import Split, assign, units

RECORDS = [{"text": text, "language": language, "pair": pair} for text, language, pair in (
    ("a house", "en", "1"), ("ein Haus", "de", "1"), ("a cat", "en", "2"), ("eine Katze", "de", "2"),
    ("alone", "en", ""), ("also alone", "en", None))]


def documents(path: Path) -> list[Document]:
    source = Files(path=str(path))
    return [item for item in source.read(source.files(), "files") if isinstance(item, Document)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_records_of_a_translation_carry_their_pair(kind, tmp_path):
    path = tmp_path / f"x.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    else:
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    found = documents(path)
    assert [d.metadata.get("pair") for d in found] == ["1", "1", "2", "2", None, None]
    assert [d.metadata.get("group") for d in found] == ["1", "1", "2", "2", None, None]
    assert [d.language for d in found][:4] == ["en", "de", "en", "de"]


def test_a_number_names_a_pair_as_well(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"text": "a", "pair": 7}\n{"text": "b", "pair": 0}\n')
    assert [d.metadata["pair"] for d in documents(tmp_path / "x.jsonl")] == ["7", "0"]


def test_a_pair_is_sampled_and_split_as_one():
    pairs = [(Document(f"{side}/{i}", "x", "s", metadata={"pair": f"p{i}"})) for i in range(300) for side in ("a", "b")]
    taken = [Sample(0.4, None, 7).takes(document) for document in pairs]
    assert 0.3 < sum(taken) / len(taken) < 0.5
    assert taken[::2] == taken[1::2]
    names = units([d.id for d in pairs], [str(d.metadata["pair"]) for d in pairs])
    split = assign(names, 3, Split(valid=0.2, test=0.2))
    assert [split[name] for name in names[::2]] == [split[name] for name in names[1::2]]
    assert set(split.values()) == {"train", "valid", "test"}
    alone = [Document(f"alone/{i}", "x", "s") for i in range(300)]
    assert len({Sample(0.4, None, 7).takes(document) for document in alone}) == 2


@pytest.fixture(scope="module")
def library() -> list[Document]:
    source = PythonFunctions()
    chosen = [file for file in source.files() if file.name in ("argparse.py", "textwrap.py", "heapq.py")]
    return [item for item in source.read(chosen, "python_functions") if isinstance(item, Document)]


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


def test_long_functions_and_unreadable_files_are_left_out(tmp_path):
    root = stdlib_folder()
    long = [d for d in PythonFunctions(longest=100).read([root / "textwrap.py"], "s") if isinstance(d, Document)]
    assert all(len(d.text) <= 100 for d in long)
    with pytest.raises(ValueError, match="longest: must be at least 40"):
        PythonFunctions(longest=39)
    files = PythonFunctions().files()
    assert files == sorted(files)
    assert not any("/test/" in file.as_posix() for file in files)
