"""`gristmill data pii`: rows and columns kept, what is dropped is kept apart, masked."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gristmill.cli.app import app

ROWS = [{"text": "Write to ada@lovelace.org or call +44 20 7946 1234.", "url": "u"}, {"text": "Nothing here."},
        {"text": "n = 4111111111111111  # ada@lovelace.org", "language": "python"}]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def run(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["data", "pii", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_masked(source: str, tmp_path: Path) -> None:
    counts = run(source, str(tmp_path / "out.jsonl"))
    assert counts == {"unreadable": 0, "read": 3, "with_pii": 2, "dropped": 0, "kept": 3,
                      "reasons": {"email": 2, "phone": 1}}
    rows = read(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == ["Write to <EMAIL> or call <PHONE>.", "Nothing here.",
                                             "n = 4111111111111111  # <EMAIL>"]
    assert rows[0]["url"] == "u"
    assert rows[0]["pii"] == {"card": 0, "email": 1, "iban": 0, "ip": 0, "national_id": 0, "phone": 1, "wallet": 0}


def test_dropped_rows_are_kept_apart_and_masked(source: str, tmp_path: Path) -> None:
    counts = run(source, str(tmp_path / "out.parquet"), "--action", "drop", "--least", "2", "--kind", "email",
                 "--kind", "phone",
                 "--rejects", str(tmp_path / "bad.jsonl"))
    assert (counts["dropped"], counts["kept"]) == (1, 2)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["text"].to_pylist() == ["Nothing here.", "n = 4111111111111111  # <EMAIL>"]
    (bad,) = read(tmp_path / "bad.jsonl")
    assert (bad["reason"], bad["detail"]) == ("pii", "1 email, 1 phone")
    assert "lovelace" not in str(bad)


def test_reported(source: str, tmp_path: Path) -> None:
    run(source, str(tmp_path / "out.jsonl"), "--action", "report")
    rows = read(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert rows[2]["pii"]["email"] == 1  # type: ignore[index]


@pytest.mark.parametrize("options", [["--action", "none"], ["--action", "burn"], ["--kind", "name"], ["--replacement",
                                                                                                      "x"]])
def test_wrong_options_are_explained(source: str, tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(app, ["data", "pii", source, str(tmp_path / "out.jsonl"), *options])
    assert result.exit_code != 0
    assert not (tmp_path / "out.jsonl").exists()
