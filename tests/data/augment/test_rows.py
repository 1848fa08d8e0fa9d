import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.core.errors import MachineError
from gristmill.core.stage import Runtime
from gristmill.data.augment import rows as module
from gristmill.data.augment.edits import Edits
from gristmill.data.augment.rows import augment
from gristmill.data.augment.synonyms import Synonyms
from tests.data.augment import wordnets
from tests.data.augment.chat_server import reworded
from tests.data.augment.corpora import text


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    given = [{"text": text(i), "label": i % 2, "language": "en"} for i in range(10)]
    given[3]["id"] = given[4]["id"] = "same"
    given.append({"text": "x = 1\n" * 20, "language": "python", "label": 0})
    path.write_text("".join(json.dumps(row) + "\n" for row in given) + "{broken\n")
    return path


def go(source, target, *methods, **options):
    return augment(str(source), target, methods, open_model=None, answers=target.parent / "answers",
                   runtime=Runtime(workers=1), **options)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_followed_by_what_was_made_of_them(source, tmp_path, monkeypatch):
    counts = go(source, tmp_path / "out.jsonl", Edits(combine="all", copies=2), rejects=tmp_path / "bad.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert counts["read"] == 11
    assert counts["unreadable"] == 1
    assert counts["made"] == counts["made by edits"] == len(found) - 11
    last = None
    for row in found:
        if row["augmented"] is None:
            last = row
            continue
        assert row["id"] == f"{last['id']}#edits-{row['augmented']['copy']}"
        assert row["label"] == last["label"]
        assert row["text"] != last["text"]
    assert len({row["id"] for row in found}) == len(found)
    assert [row["id"] for row in found if row["augmented"] is None][3:5] == ["same", "same.2"]
    assert Counter(row["reason"] for row in read(tmp_path / "bad.jsonl")) == counts["reasons"]
    monkeypatch.setattr(module, "SHARD", 3)
    go(source, tmp_path / "shards.jsonl", Edits(combine="all", copies=2))
    assert read(tmp_path / "shards.jsonl") == found
    go(source, tmp_path / "made.jsonl", Edits(combine="all", copies=2), only_made=True)
    assert read(tmp_path / "made.jsonl") == [row for row in found if row["augmented"]]


def test_rows_that_were_made_are_not_taken_again(source, tmp_path):
    go(source, tmp_path / "out.jsonl", Edits())
    counts = go(tmp_path / "out.jsonl", tmp_path / "again.jsonl", Edits(name="more"))
    assert counts["made"] <= 10
    assert not [row for row in read(tmp_path / "again.jsonl") if row["id"].count("#") > 1]


def test_parquet(source, tmp_path):
    go(source, tmp_path / "out.parquet", Edits())
    go(source, tmp_path / "out.jsonl", Edits())
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["text"] for row in table] == [row["text"] for row in read(tmp_path / "out.jsonl")]
    assert [json.loads(row["augmented"] or "null") for row in table] == [
        row["augmented"] for row in read(tmp_path / "out.jsonl")]
    counts = go(tmp_path / "out.parquet", tmp_path / "twice.parquet", Edits(name="more"))
    assert counts["made"] <= 10


def test_what_is_missing_is_told_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("gristmill.data.augment.wordnet.places", list)
    with pytest.raises(MachineError, match="no WordNet"):
        go("nowhere.jsonl", tmp_path / "out.jsonl", Synonyms())


def command(*arguments):
    return CliRunner().invoke(app, ["data", "augment", *map(str, arguments)])


def test_the_command(source, tmp_path, serve):
    path = wordnets.lmf(tmp_path / "w.xml")
    server = serve(reworded)
    writer = f"{{kind: server, base_url: '{server.url}', model: tiny}}"
    arguments = (source, tmp_path / "out.jsonl", "--method", "edits", "--method",
                 f"{{kind: synonyms, rate: 0.5, source: {{kind: wordnet, path: '{path}'}}}}", "--method",
                 f"{{kind: paraphrase, share: 0.5, writer: {writer}}}", "--json", "--workers", 1)
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts["made"] == sum(n for name, n in counts.items() if name.startswith("made by"))
    assert counts["requests"] == len(server.bodies) > 0
    before = (tmp_path / "out.jsonl").read_bytes()
    assert command(*arguments).exit_code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert counts["requests"] == len(server.bodies)
    assert list((tmp_path / "out.jsonl.answers").iterdir())


@pytest.mark.parametrize(("arguments", "said"), [
    ((), "no method is named"), (("--method", "guess"), "guess"), (("--method", "{kind: edits, share: 3}"), "share"),
    (("--method", "{kind: edits"), "no YAML"), (("--method", "edits", "--method", "edits"), "two methods"),
    (("--method", "edits", "--gates", "{most_length: 0}"), "most_length"), (("--method", "[1]"), "--method")])
def test_wrong_arguments(source, tmp_path, arguments, said):
    done = command(source, tmp_path / "out.jsonl", *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "out.jsonl").exists()
