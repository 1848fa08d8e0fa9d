"""Single steps on files: the same decisions as the data stage, rows and columns kept, bad rows counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.core.errors import UserError
from gristmill.data import steps
from gristmill.data.decide import Filter
from gristmill.data.signals import measure
from gristmill.data.split import Split
from tests.data.test_stage import text

LONG = [text(seed) for seed in range(6)]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_annotations_are_the_signals_and_other_columns_stay(tmp_path: Path) -> None:
    rows = [{"text": LONG[0], "url": "u"}, {"text": "x = 1\n", "language": "python"}]
    source = written(tmp_path / "in.jsonl.gz", rows)
    assert steps.annotate(source, tmp_path / "out.jsonl") == {"unreadable": 0, "read": 2}
    prose, code = read(tmp_path / "out.jsonl")
    assert prose["url"] == "u"
    for row, is_code in ((prose, False), (code, True)):
        expected = measure(row["text"], code=is_code)
        assert {name: row[name] for name in expected} == expected
    assert code["gopher_repetition_v1.top_2gram"] is None


@pytest.mark.parametrize("annotated", [False, True])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_decisions_with_reasons(tmp_path: Path, suffix: str, annotated: bool) -> None:
    rows = [{"text": LONG[0], "language": "en"}, {"text": "too short", "language": "en"}]
    source = written(tmp_path / "in.jsonl", rows)
    if annotated:
        steps.annotate(source, tmp_path / f"between.{suffix}")
        source = str(tmp_path / f"between.{suffix}")
    rules = Filter(preset="gopher")
    counts = steps.decide_rows(source, tmp_path / f"good.{suffix}", tmp_path / "bad.jsonl", rules=rules)
    assert counts == {"unreadable": 0, "read": 2, "kept": 1, "reasons": {"min_words": 1}}
    (bad,) = read(tmp_path / "bad.jsonl")
    assert (bad["text"], bad["reason"], bad["detail"]) == ("too short\n", "min_words", "length_v1.words is 2, below 50")
    good = read(tmp_path / "good.jsonl") if suffix == "jsonl" else pq.read_table(tmp_path / "good.parquet").to_pylist()
    assert [row["text"] for row in good] == [LONG[0].strip() + "\n"]


def test_duplicates_name_what_stays(tmp_path: Path) -> None:
    copies = [LONG[0].replace("\n", "  "), "Beginning " + LONG[1]]
    rows = [{"text": one} for one in (LONG[0], LONG[1], *copies)]
    counts = steps.dedup(written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", tmp_path / "gone.jsonl")
    assert (counts["read"], counts["exact"], counts["near"], counts["kept"]) == (4, 1, 1, 2)
    assert [row["text"] for row in read(tmp_path / "out.jsonl")] == [rows[2]["text"], rows[3]["text"]]
    assert [(row["same_as_row"], row["similarity"]) for row in read(tmp_path / "gone.jsonl")] == [
        (2, 1.0), (3, pytest.approx(0.99, abs=0.01))]
    only_exact = steps.dedup(str(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", None, near=None)
    assert only_exact["kept"] == 3


def test_rows_with_one_key_stay_together(tmp_path: Path) -> None:
    rows = [{"text": f"{i} {j}", "site": f"s{i}"} for i in range(200) for j in range(3)]
    source = written(tmp_path / "in.jsonl", rows)
    counts = steps.split(source, tmp_path, key="site", shares=Split(valid=0.2, test=0.2), seed=3)
    found = {name: {row["site"] for row in read(tmp_path / f"{name}.jsonl")} for name in ("train", "valid", "test")}
    assert sum(len(sites) for sites in found.values()) == 200
    assert sum(counts[name] for name in found) == 600
    assert 60 < counts["valid"] < 180


def test_bad_rows_are_counted_and_no_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a"}\n{broken\n[1]\n{"text": 3}\n\n{"body": "b"}\n')
    assert steps.annotate(str(path), tmp_path / "out.jsonl") == {"unreadable": 4, "read": 1}
    with pytest.raises(UserError, match="text in the column 'html'"):
        steps.extract(str(path), tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()
    with pytest.raises(UserError, match=r"neither \.jsonl nor \.parquet"):
        steps.annotate(str(path), tmp_path / "out.csv")
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:40])
    with pytest.raises(UserError, match="damaged"):
        steps.annotate(str(broken), tmp_path / "out.jsonl")


def test_rows_unlike_the_first_are_an_error_in_parquet_only(tmp_path: Path) -> None:
    with steps.RowWriter(tmp_path / "x.parquet") as writer:
        writer.write([{"a": 1}])
        with pytest.raises(UserError, match="do not fit"):
            writer.write([{"a": "words"}])
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == [{"a": 1}]
    with pytest.raises(ZeroDivisionError), steps.RowWriter(tmp_path / "y.jsonl"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_the_verbs_are_the_steps(tmp_path: Path) -> None:
    pages = [{"html": f"<html><title>T{i}</title><body><nav><a href=/>Home</a></nav><article><h1>T{i}</h1>"
                      f"<p>{LONG[i]}</p><p>{LONG[i + 1]}</p></article></body></html>", "url": str(i)} for i in range(4)]
    written(tmp_path / "pages.jsonl", pages)

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, ["data", *[a.replace("@", f"{tmp_path}/") for a in arguments], "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.splitlines()[-1])

    assert run("extract", "@pages.jsonl", "@texts.jsonl")["read"] == 4
    assert run("annotate", "@texts.jsonl", "@annotated.parquet")["read"] == 4
    assert run("decide", "@annotated.parquet", "@good.parquet", "--preset", "gopher", "--rule", "min_words=400",
               "--rejects", "@bad.jsonl")["reasons"] == {"min_words": 4}
    assert run("decide", "@annotated.parquet", "@good.parquet", "--preset", "none")["kept"] == 4
    assert run("dedup", "@good.parquet", "@unique.jsonl")["kept"] == 4
    assert run("split", "@unique.jsonl", "@corpus", "--valid", "0.5", "--test", "0")["read"] == 4
    found = run("stats", "@unique.jsonl")
    assert found["documents"] == 4
    assert found["signals"]["length_v1.words"]["median"] > 200
    wrong = CliRunner().invoke(app, ["data", "decide", "x.jsonl", "y.jsonl", "--rule", "min_wrods=3"])
    assert wrong.exit_code != 0
