import io
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.json_records import Broken, json_elements
from gristmill.data.formats.records import get, iso_time
from gristmill.data.sources import Files


def read(path: Path, cuts: int = 1, **options: Any) -> tuple[list[Document], list[Reject]]:
    source = Files(path=str(path), **options)
    items = [found for item in source.inputs() for part in source.ranges(item, max(1, item.size // cuts))
             for found in source.read(part, "files")]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


def test_jsonl_records_hold_line_separators_and_broken_lines_are_counted(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "one\xe2\x80\xa8still one", "id": 7}', b'{"text": "cut', b"", b"[1]", b'{"body": 1}',
        b'{"text": null}', b'{"text": "half \\ud83d smile \\ud83d\\ude00"}', b'{"text": "\xff"}', b'{"text": "last"}',
        b"[" * 100_000, b'{"text": ' + b"9" * 5000 + b"}",
    ]
    starts = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    documents, rejects = read(tmp_path / "x.jsonl")
    assert [(d.id, d.text) for d in documents] == [
        ("files/x.jsonl@0", "one\u2028still one"), (f"files/x.jsonl@{starts[6]}", "half \ufffd smile \U0001f600"),
        (f"files/x.jsonl@{starts[8]}", "last"),
    ]
    assert documents[0].metadata["record_id"] == "7"
    assert [(r.document.metadata["offset"], r.reason) for r in rejects] == [
        (starts[n], reason) for n, reason in ((1, "broken_record"), (3, "broken_record"), (4, "no_text"),
                                              (5, "no_text"), (7, "broken_record"), (9, "too_deep"),
                                              (10, "broken_record"))]
    for cuts in (2, 5, 50):
        assert read(tmp_path / "x.jsonl", cuts) == (documents, rejects)


def test_columns_paths_and_templates(tmp_path: Path) -> None:
    record = {"title": "Head", "body": "Text.", "meta": {"lang": "DE", "timestamp": 1700000000, "who": ["a", "b"]},
              "parts": ["x", "y"], "a.b": "dotted", "url": "http://u", "extra": {"n": 1}}
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    columns = {"text": "{title}\n\n{body}", "language": "meta.lang", "author": "meta.who.1", "more": "extra",
               "named": "a.b"}
    document = read(tmp_path, columns=columns)[0][0]
    assert (document.text, document.language) == ("Head\n\nText.", "de")
    assert document.metadata == {"path": "x.jsonl", "license": "unknown", "offset": 0, "title": "Head", "author": "b",
                                 "url": "http://u", "time": "2023-11-14T22:13:20Z", "more": {"n": 1},
                                 "named": "dotted"}
    assert read(tmp_path, column="parts")[0][0].text == "x\ny"
    assert read(tmp_path, columns={"text": "{none}{nor}"})[1][0].reason == "no_text"
    assert get({"a": [{"b": 1}]}, "a.0.b") == 1
    assert get({"a": 1}, "a.b.c") is None
    assert iso_time(1700000000000) == "2023-11-14T22:13:20Z"
    assert iso_time("2024-01-01T01:00:00+01:00") == "2024-01-01T00:00:00Z"
    assert iso_time("yesterday") == "yesterday"


def test_a_column_that_a_table_lacks(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"], "title": ["b"]}), tmp_path / "y.parquet")
    with pytest.raises(UserError, match=r"(?s)no column 'text'.*body, title"):
        read(tmp_path)
    assert read(tmp_path, columns={"text": "body"})[0][0].metadata["title"] == "b"


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                    max_leaves=8).flatmap(lambda v: st.lists(st.just(v), min_size=0, max_size=4)),
       st.sampled_from([None, 1]), st.integers(1, 40))
@settings(max_examples=80)
def test_json_arrays_are_streamed_as_they_are(values: list[Any], indent: int | None, block: int) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, block))

    assert [value for _, value in json_elements(Slow(data))] == values
    if not any(isinstance(value, (list, str, int, bool)) or value is None for value in values):
        joined = b"\n".join(json.dumps(value).encode() for value in values)
        assert [value for _, value in json_elements(Slow(joined))] == values


def test_broken_and_endless_json_elements_leave_the_others(tmp_path: Path) -> None:
    def reasons(data: bytes) -> list[Any]:
        return [found.reason if isinstance(found, Broken) else found
                for _, found in json_elements(io.BytesIO(data), longest=1000)]

    assert reasons(b'[{"a": 1,}, {"b": 2}]') == ["broken_record", {"b": 2}]
    assert reasons(b'[1, "' + b"x\\\\" * 900 + b'", 2]') == [1, "too_long", 2]
    assert reasons(b"[1, [" + b"1," * 900 + b"1], 2]") == [1, "too_long", 2]
    assert reasons(b'[1, {"a": "cut') == [1, "broken_record", "broken_record"]
    assert reasons(b"}}]") == ["broken_record"] * 3
    assert reasons(b"") == []
    with (tmp_path / "x.json").open("wb") as file:
        file.write(b'[{"text": "')
        for _ in range(70):
            file.write(b"x" * (1 << 20))
        file.write(b'"}, {"text": "last"}]')
    documents, rejects = read(tmp_path)
    assert [d.text for d in documents] == ["last"]
    assert [r.reason for r in rejects] == ["too_long"]


def test_csv_with_newlines_in_fields_bad_rows_and_no_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfid,text\r\n1,"two\nlines, and ""quotes"""\r\n2,x,extra\r\n3\r\n'
                                     b"4,\xff\r\n\r\n5,last")
    documents, rejects = read(tmp_path / "a.csv")
    assert [(d.id, d.text, d.metadata["record_id"]) for d in documents] == [
        ("files/a.csv@0", 'two\nlines, and "quotes"', "1"), ("files/a.csv@4", "last", "5")]
    assert [(r.document.metadata["row"], r.reason) for r in rejects] == [
        (1, "broken_record"), (2, "no_text"), (3, "unreadable_bytes")]
    (tmp_path / "b.tsv").write_text('ham\tsay "hi\nspam\tfree "money"\n')
    documents, _ = read(tmp_path / "b.tsv", header=False, columns={"text": "2", "label": "1"})
    assert [(d.text, d.metadata["label"]) for d in documents] == [('say "hi', "ham"), ('free "money"', "spam")]
    (tmp_path / "c.csv").write_bytes("text;n\nweiß;1\n".encode("utf-16"))
    assert [d.text for d in read(tmp_path / "c.csv", delimiter=";")[0]] == ["weiß"]
    (tmp_path / "d.csv").write_text("text\n" + "long " * 60_000 + "\nend\n")  # beyond Python's own limit of a field
    assert [len(d.text) for d in read(tmp_path / "d.csv")[0]] == [300_000, 3]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrows"])
def test_any_cut_of_a_table_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    table = pa.table({"text": [f"row {n} " * 20 for n in range(1000)], "lang": ["en"] * 1000,
                      "unused": [b"x" * 100] * 1000})
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=70)
    else:
        new = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=70)
    whole = read(path)
    assert [d.id for d in whole[0]] == [f"files/x.{kind}@{n}" for n in range(1000)]
    assert [d.text for d in whole[0]] == table["text"].to_pylist()
    assert {d.language for d in whole[0]} == {"en"}
    for cuts in (2, 7, 40):
        assert read(path, cuts) == whole


def test_a_damaged_row_group_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" * 30 for n in range(300)]}), path, row_group_size=100,
                   compression="zstd", use_dictionary=False)
    with pq.ParquetFile(path) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start + 40: start + 400] = b"\xff" * 360
    path.write_bytes(bytes(data))
    documents, rejects = read(path)
    assert len(documents) == 200
    assert [r.reason for r in rejects] == ["unreadable_rows"]
    path.write_bytes(bytes(data[: len(data) // 2]))
    assert [r.reason for r in read(path)[1]] == ["unreadable_file"]


def test_memory_is_that_of_a_batch(tmp_path: Path) -> None:
    with (tmp_path / "x.jsonl").open("w") as file:
        for number in range(8_000):
            file.write(json.dumps({"text": f"{number} " * 150}) + "\n")
    source = Files(path=str(tmp_path))
    tracemalloc.start()
    number = sum(1 for part in source.ranges(source.inputs()[0], 1 << 22) for _ in source.read(part, "files"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 8_000
    assert peak < 2e6
