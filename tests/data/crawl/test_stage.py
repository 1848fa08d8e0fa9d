"""The crawl as a stage of a recipe, as a command, and as what the data stage reads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gristmill.cli.app import app
from gristmill.core.artifact import Artifact
from gristmill.data.crawl.stage import Crawl
from gristmill.data.decide import Filter
from gristmill.data.documents import iterate_documents
from gristmill.data.sources import Warc, located
from gristmill.data.split import Split
from gristmill.data.stage import Data, Dedup
from gristmill.pipeline.identity import identity
from gristmill.pipeline.plan import make_plan
from gristmill.pipeline.runner import run as run_recipe
from gristmill.pipeline.standalone import run_alone
from gristmill.pipeline.store import ArtifactStore
from gristmill.recipe import RecipeError, load_recipe
from tests.data.crawl.site_server import html

ROOT = Path(__file__).parents[3]
SITE = {"/": html("the start", "/a", "/b"), "/a": html("a"), "/b": html("b")}


def recipe(at, **more):
    return {"name": "web", "stages": {"pages": {
        "uses": "crawl", "start": [at.url + "/"], "contact": "a@example.org", "network": {"allow": ["127.0.0.1"]},
        "politeness": {"delay": 0}, **more}}}


def test_an_unchanged_recipe_does_not_crawl_again(site, tmp_path):
    at = site(SITE)
    result = run_recipe(load_recipe(recipe(at)), runs_dir=tmp_path, report=False)
    first = result.artifacts["pages"]
    assert (first.kind, first.metrics["pages"], first.name) == ("pages", 3, "web/pages@1")
    names = {p.name for p in first.path.iterdir()} - {"artifact.json", "telemetry"}
    assert names == {"pages-00000.warc.gz", "pages.parquet", "rejects.parquet", "crawl.json"}
    asked = len(at.log)
    assert run_recipe(load_recipe(recipe(at)), runs_dir=tmp_path, report=False).reused == ["pages"]
    assert len(at.log) == asked

    again = load_recipe(recipe(at, as_of="2026-12-01", earlier="pages@1"))
    second = run_recipe(again, runs_dir=tmp_path, report=False).artifacts["pages"]
    assert (second.name, second.metrics["unchanged"]) == ("web/pages@2", 3)
    assert second.record["inputs"]["pages@1"]["digest"] == first.digest


def test_a_warc_source_may_name_the_stage(site, tmp_path):
    at = site(SITE)
    whole = recipe(at)
    whole["stages"]["corpus"] = {"uses": "data", "sources": [{"kind": "warc", "pages": "pages"}]}
    loaded = load_recipe(whole)
    assert loaded.order() == ["pages", "corpus"]
    plan = make_plan(loaded, ArtifactStore(tmp_path))
    assert [(s.name, s.why) for s in plan.steps] == [("pages", "new"), ("corpus", "depends on pages")]
    corpus = loaded.stages["corpus"]
    seen = {identity(corpus, 0, {"pages": digest}) for digest in ("one", "two")}
    assert len(seen) == 2
    with pytest.raises(RecipeError, match="`corpus` makes a corpus, but a pages is needed"):
        load_recipe({"name": "x", "stages": {**whole["stages"], "other": {
            "uses": "data", "sources": [{"kind": "warc", "pages": "corpus"}]}}})
    for wrong in ({}, {"path": "x", "pages": "y"}):
        with pytest.raises(ValueError, match="path: give either"):
            Warc(**wrong)
    folder = run_recipe(load_recipe(recipe(at)), runs_dir=tmp_path, report=False).artifacts["pages"].path
    assert [item.name for item in Warc(pages="pages").at(str(folder)).inputs()] == ["pages-00000.warc.gz"]


def test_from_a_site_to_a_corpus(site, tmp_path):
    words = "It was a bright cold day in the valley, and the old mill by the river had begun to turn again."
    at = site({"/": html(words, "/a", "/b"), "/a": html(words.replace("valley", "hills") + " " + words),
               "/b": (200, {"Content-Type": "text/plain"}, words.encode() * 3)})
    pages = run_recipe(load_recipe(recipe(at)), runs_dir=tmp_path, report=False).artifacts["pages"]
    sources = located([Warc(pages="pages")], {"pages": pages})
    data = Data(sources=sources, filter=Filter(preset="none"), dedup=Dedup(near=None), split=Split(valid=0, test=0))
    run_alone(data, {}, tmp_path / "corpus")
    found = {d["metadata"]["url"]: d for d in iterate_documents(tmp_path / "corpus", "train")}
    assert set(found) == {at.url + "/", at.url + "/a", at.url + "/b"}
    for document in found.values():
        assert "the old mill by the river" in document["text"]
        assert document["domain"] == "127.0.0.1"
        assert document["language"] == "en"
        assert document["metadata"]["time"][:10] == pages.record["started"][:10]
        assert document["metadata"]["path"] == "pages-00000.warc.gz"


def test_settings_are_checked():
    def problem(**fields):
        with pytest.raises(ValueError) as error:
            Crawl(**{"start": ["http://h/"], "contact": "a@example.org", **fields})
        return str(error.value)

    assert "start: name at least one" in problem(start=[])
    assert "'ftp://h/' is no http(s) address" in problem(start=["ftp://h/"])
    for contact in ("", "me", "a@b", "a b@example.org", "x\r\nEvil: 1@example.org"):
        assert problem(contact=contact).startswith("contact:"), contact
    assert "agent: letters" in problem(agent="my bot/1")
    assert "exclude: '(' is no regular expression" in problem(exclude=["("])
    assert Crawl(start=["http://h/"], contact="https://example.org/bot").depth == 10


def test_the_command(site, tmp_path):
    at = site({**SITE, "/b": (404, {}, b"")})
    command = ["data", "crawl", at.url + "/", "--into", str(tmp_path / "pages"), "--contact", "a@example.org",
               "--allow", "127.0.0.1", "--delay", "0"]
    done = CliRunner().invoke(app, [*command, "--json", "--set", "limits.page_mb=3"])
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["pages"], counts["left_out"]) == (2, {"http_status": 1})
    assert json.loads((tmp_path / "pages/crawl.json").read_text())["config"]["limits"]["page_mb"] == 3
    done = CliRunner().invoke(app, [*command[:4], str(tmp_path / "text"), *command[5:]])
    assert "2 pages of 1 hosts" in done.stdout
    assert "http_status" in done.stdout
    wrong = CliRunner().invoke(app, [*command, "--set", "limits.page_bm=3"])
    assert wrong.exit_code == 2
    assert "did you mean `page_mb`" in wrong.output + (wrong.stderr or "")
    refused = subprocess.run([sys.executable, "-m", "gristmill", "data", "crawl", at.url, "--into",
                              str(tmp_path / "no"), "--contact", "a@example.org"], cwd=ROOT, capture_output=True,
                             text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert refused.returncode == 2
    assert "not one page could be kept (1 x address_refused)" in refused.stderr


def test_the_example_of_the_docs_loads(tmp_path):
    page = (ROOT / "docs/data/crawling.md").read_text()
    text = page.split("```yaml\n")[1].split("```")[0]
    stages = yaml.safe_load(text)
    assert load_recipe({"name": "docs", "stages": stages}).order() == ["pages", "corpus"]


def test_artifacts_are_told_from_their_folder(site, tmp_path):
    at = site(SITE)
    run_recipe(load_recipe(recipe(at)), runs_dir=tmp_path, report=False)
    folder = ArtifactStore(tmp_path).resolve("web/pages", ("pages",)).path
    assert Artifact.open(folder).kind == "pages"
    assert ArtifactStore(tmp_path).resolve(str(folder), ("pages",)).digest == Artifact.open(folder).digest
