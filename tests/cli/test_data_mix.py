"""`gristmill data mix`: the plan of a mixture from a corpus alone, or in tokens."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.core.files import write_json
from gristmill.core.hashing import digest_folder
from gristmill.data.documents import Document, row, write_shard
from gristmill.tokenizer.train import train_bpe

SIZES = {"web": (30, 100), "books": (3, 400), "code": (10, 30)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mix")
    write_shard(folder / "runs" / "corpus" / "documents" / "train-00000.parquet", [
        row(Document(id=f"{source}/{i}", text="a" * size, source=source,
                     metadata={"licence": "cc0"} if i % 2 else {}), split="train")
        for source, (count, size) in SIZES.items() for i in range(count)])
    train_bpe([["xyxyxy"]], vocab_size=264, min_count=1).save(folder / "runs" / "tokenizer")
    for kind in ("corpus", "tokenizer"):
        path = folder / "runs" / kind
        write_json(path / "artifact.json", {"kind": kind, "name": f"x/{kind}", "version": 1,
                                            "digest": digest_folder(path), "config": {}, "inputs": {}, "metrics": {}})
    return folder


def call(folder, *arguments):
    return CliRunner().invoke(app, ["data", "mix", str(folder / "runs" / "corpus"), *map(str, arguments)])


def run(folder, *arguments):
    found = call(folder, *arguments)
    assert found.exit_code == 0, (found.output, found.exception)
    return found.stdout


def test_the_plan_in_bytes(folder):
    plan = json.loads(run(folder, "--json"))
    assert plan["unit"] == "bytes"
    assert {one["name"]: one["tokens"] for one in plan["components"]} == {"web": 3000, "books": 1200, "code": 300}
    assert {one["epochs"] for one in plan["components"]} == {1.0}
    text = run(folder, "--weight", "code=1", "--weight", "*=1", "--passes", 2)
    assert text.splitlines()[1].split()[0] == "code"
    assert "code is read 15 times" in text


def test_limits_and_metadata(folder):
    plan = json.loads(run(folder, "--alpha", 0, "--max-epochs", 2, "--json"))
    assert {one["name"]: one["limit"] for one in plan["components"]} == {
        "books": "", "code": "max_epochs", "web": ""}
    plan = json.loads(run(folder, "--over", "metadata.licence", "--epochs", "cc0=0.5", "--json"))
    assert {one["name"] for one in plan["components"]} == {"", "cc0"}
    for arguments, words in ((("--max-epochs", 0.5), "are missing"), (("--weight", "web"), "not NAME=NUMBER"),
                             (("--over", "author"), "metadata.NAME"), (("--tokens", 100), "of which tokenizer"),
                             (("--over", "metadata.author"), "no document's metadata")):
        found = call(folder, *arguments)
        assert found.exit_code == 2
        assert words in found.output


def test_the_plan_in_tokens(folder):
    plan = json.loads(run(folder, "--tokenizer", folder / "runs" / "tokenizer", "--tokens", 1000, "--json"))
    assert plan["unit"] == "tokens"
    assert plan["total"] == 1000
    # Every byte is a token here, and a document has a first and a last one besides.
    assert {one["name"]: one["tokens"] for one in plan["components"]} == {
        name: count * (size + 2) for name, (count, size) in SIZES.items()}
