import errno
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from gristmill.core.errors import MachineError, UserError
from gristmill.core.hashing import digest_folder
from gristmill.core.stage import Runtime, StageContext
from gristmill.data import read, stage, units, write
from gristmill.data.decide import Filter
from gristmill.data.documents import REJECTS_SCHEMA, SCHEMA, iterate_documents, read_documents
from gristmill.data.sources import Files, PythonStdlib
from gristmill.data.split import Split
from gristmill.data.stage import Data, Dedup, Evaluations
from tests.processes import start
from tests.shared import wait_for

WORDS = ["the", "of", "and", "to", "with", "that", "have", "be", "garden", "river", "stone", "light", "quiet"]


def text(seed: int, words: int = 120) -> str:
    chosen = random.Random(seed)
    vocabulary = WORDS + ["".join(chosen.choices("abcdefghijklmnop", k=6)) for _ in range(100)]
    return "".join(chosen.choice(vocabulary) + ("\n" if i % 12 == 11 else " ") for i in range(words))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """40 different documents, two exact and two near copies, some rejects."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(40):
        (folder / f"{seed:02d}.txt").write_text(text(seed))
    (folder / "copy_a.txt").write_text(text(3).replace("\n", "  \n\n"))
    (folder / "copy_b.txt").write_text(text(4))
    (folder / "near_a.txt").write_text("beginning " + text(5))
    (folder / "near_b.txt").write_text(text(6) + " ending")
    (folder / "short.txt").write_text("too short")
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(b"\x00\x01")
    (folder / "lines.jsonl").write_text("\n".join([json.dumps({"text": text(99)}), "{broken"]))
    return folder


def run(folder: Path, data: Data, worker_count: int = 1, seed: int = 1) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    context = StageContext(name="t/corpus@1", seed=seed, work=folder, cache=folder / "cache",
                           runtime=Runtime(workers=worker_count))
    return dict(data.run(context))


def data(path: Path, **options: Any) -> Data:
    return Data(sources=[Files(path=str(path))], languages="none", **{"split": Split(valid=0.1, test=0.1), **options})


def test_the_payload(texts: Path, tmp_path: Path) -> None:
    metrics = run(tmp_path / "out", data(texts))
    documents = [d for s in ("train", "valid", "test") for d in iterate_documents(tmp_path / "out", s)]
    rejects = pq.read_table(tmp_path / "out/rejects/rejects-00000.parquet")
    assert rejects.schema.names == REJECTS_SCHEMA.names
    reasons = {row["id"]: (row["reason"], row["detail"]) for row in rejects.to_pylist()}
    assert reasons["files/binary.txt"][0] == "unreadable_bytes"
    assert reasons["files/short.txt"] == ("min_words", "length_v1.words is 2, below 50")
    assert reasons["files/empty.txt"][0] == "min_characters"
    offset = len(json.dumps({"text": text(99)})) + 1
    assert reasons[f"files/lines.jsonl@{offset}"][0] == "broken_record"
    assert [i for i, r in reasons.items() if r[0] == "exact_duplicate"] == ["files/03.txt", "files/copy_b.txt"]
    near = {i: r[1] for i, r in reasons.items() if r[0] == "near_duplicate"}
    assert sorted(near) == ["files/05.txt", "files/06.txt"]
    assert near["files/05.txt"].endswith("with files/near_a.txt")
    assert len(documents) == metrics["documents"] == 41
    assert len(reasons) == metrics["rejected"] == 8
    for split in ("train", "valid", "test"):
        batches = list(read_documents(tmp_path / "out", split))
        assert batches[0].schema == SCHEMA
        ids = [i for batch in batches for i in batch["id"].to_pylist()]
        assert ids == sorted(ids)
    funnel = json.loads((tmp_path / "out/funnel.json").read_text())
    counts = [phase["documents"] for phase in funnel["phases"]]
    assert counts == [47, 45, 43, 41]
    for before, after in zip(funnel["phases"], funnel["phases"][1:], strict=False):
        gone = sum(reason["documents"] for reason in after["dropped"].values())
        assert before["documents"] - gone == after["documents"]
    assert funnel["leakage"]["near_duplicates_across_splits"] == 0
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["sources"][0]["licenses"] == {"unknown": 41}
    examples = json.loads((tmp_path / "out/examples.json").read_text())
    assert set(examples["rejected"]) == {r[0] for r in reasons.values()}


class Killed(BaseException):
    """Stands for a process that ends at once: nobody catches it."""


@pytest.mark.parametrize(("target", "after"), [
    ("read.Rows._flush", 0), ("read.Rows._flush", 7), ("read.write_json", 0), ("read.write_json", 3),
    ("write.write_shard", 1), ("write.Rows.write_table", 4), ("write.write_json", 0), ("write.write_json", 2),
    ("stage.write_json", 0),
])
def test_killed_anywhere_and_run_again(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, after: int
) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 4000)
    run(tmp_path / "whole", data(texts))
    module, *owners, name = target.split(".")
    owner, calls = {"read": read, "write": write, "stage": stage}[module], 0
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    def killed(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            run(tmp_path / "again", data(texts))
    run(tmp_path / "again", data(texts))
    assert digest_folder(tmp_path / "again") == digest_folder(tmp_path / "whole")


def test_finished_units_are_not_read_again(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 4000)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_corpus", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(tmp_path / "again", data(texts))
    (texts / "00.txt").write_text(text(1000))
    read_again = []
    whole = stage.run_tasks

    def counted(job: str, tasks: Any, *rest: Any) -> None:
        read_again.extend(tasks if job == read.JOB else [])
        whole(job, tasks, *rest)

    monkeypatch.setattr(stage, "run_tasks", counted)
    run(tmp_path / "again", data(texts))
    assert len(read_again) == 1
    assert read_again[0]["parts"][0][1] == "00.txt"


def test_work_begun_with_another_config_is_not_continued(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", data(texts, dedup=Dedup(near=None)))
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_corpus", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(tmp_path / "again", data(texts))
    run(tmp_path / "again", data(texts, dedup=Dedup(near=None)))
    assert digest_folder(tmp_path / "again") == digest_folder(tmp_path / "whole")


def test_any_number_of_workers(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 4000)
    first = run(tmp_path / "one", data(texts), 1)
    assert run(tmp_path / "three", data(texts), 3) == first
    assert digest_folder(tmp_path / "three") == digest_folder(tmp_path / "one")


def test_the_size_of_units_changes_no_document(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (1500, 1 << 24):
        monkeypatch.setattr(units, "UNIT_BYTES", size)
        folder = tmp_path / str(size)
        metrics = run(folder, data(texts))
        documents = {s: list(iterate_documents(folder, s)) for s in ("train", "valid", "test")}
        reports = [(folder / name).read_text() for name in ("funnel.json", "examples.json", "card.json")]
        found.append((metrics, documents, reports))
    assert found[0] == found[1]


def test_a_sample_is_a_part_of_the_whole_and_limits_hold(texts: Path, tmp_path: Path) -> None:
    run(tmp_path / "all", data(texts))
    half = run(tmp_path / "half", data(texts, sample=0.5))
    everything = {d["id"] for s in ("train", "valid", "test") for d in iterate_documents(tmp_path / "all", s)}
    some = {d["id"] for s in ("train", "valid", "test") for d in iterate_documents(tmp_path / "half", s)}
    assert 10 < half["documents"] < 35
    assert len(some - everything) <= 2  # whose longer duplicate was not sampled
    limited = run(tmp_path / "limited", data(texts, limit_mb=0.01))
    assert 3_000 < limited["bytes"] <= 10_000
    less = run(tmp_path / "less", data(texts, limit_mb=0.006))
    chosen = [{d["id"] for s in ("train", "valid", "test") for d in iterate_documents(tmp_path / name, s)}
              for name in ("less", "limited")]
    assert chosen[0] < chosen[1]
    assert less["reasons"]["beyond_limit"]["documents"] > 0


def test_evaluation_texts_are_found_dropped_and_reported(texts: Path, tmp_path: Path) -> None:
    question = " ".join(text(7).split()[20:60])
    (tmp_path / "exam.jsonl").write_text(json.dumps({"id": "q7", "question": question}) + "\n")
    evaluations = Evaluations(files=[str(tmp_path / "exam.jsonl")])
    metrics = run(tmp_path / "out", data(texts, decontaminate=evaluations))
    assert metrics["contaminated"] == {"exam": 1}
    assert metrics["reasons"]["contaminated"]["documents"] == 1
    found = json.loads((tmp_path / "out/contamination.json").read_text())
    assert [match["item"] for match in found["documents"]["files/07.txt"]] == ["q7"]
    ids = {d["id"] for s in ("train", "valid", "test") for d in iterate_documents(tmp_path / "out", s)}
    assert "files/07.txt" not in ids
    funnel = json.loads((tmp_path / "out/funnel.json").read_text())
    assert [phase["phase"] for phase in funnel["phases"]] == ["collect", "decontaminate", "filter", "exact", "near"]
    assert funnel["phases"][0]["documents"] - 1 == funnel["phases"][1]["documents"]
    before = data(texts, decontaminate=evaluations).fingerprint()
    (tmp_path / "exam.jsonl").write_text(json.dumps({"id": "q8", "question": question}) + "\n")
    assert data(texts, decontaminate=evaluations).fingerprint() != before


def test_one_document_an_address_and_alarms_for_sources_that_lose_most(texts: Path, tmp_path: Path) -> None:
    records = [{"text": text(200 + i), "url": f"https://www.example.org/{i % 3}/?utm_source=x{i}"} for i in range(21)]
    (tmp_path / "crawl.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    corpus = Data(sources=[Files(path=str(texts)), Files(path=str(tmp_path / "crawl.jsonl"), name="crawl",
                                                         columns={"text": "text", "url": "url"})], languages="none")
    metrics = run(tmp_path / "out", corpus)
    assert metrics["reasons"]["same_url"]["documents"] == 18
    funnel = json.loads((tmp_path / "out/funnel.json").read_text())
    assert [alarm["source"] for alarm in funnel["alarms"]] == ["crawl"]
    assert "86%" in funnel["alarms"][0]["what"]
    found = json.loads((tmp_path / "out/duplicates.json").read_text())["sources"]
    assert found["crawl"]["removed"]["url"]["documents"] == 18
    near = found["files"]["removed"]["near"]
    assert {example["kept"] for example in near["examples"]} == {"files/near_a.txt", "files/near_b.txt"}
    assert all(0.8 <= example["similarity"] < 1 for example in near["examples"])


def test_lines_that_a_preset_takes_leave_the_text(texts: Path, tmp_path: Path) -> None:
    ended = "".join(f"{line} and so it was.\n" for line in text(0, 400).splitlines())
    (texts / "00.txt").write_text(ended + "no end\n")
    run(tmp_path / "out", data(texts, filter=Filter(preset="c4"), split=Split(valid=0, test=0)))
    (kept,) = [d for d in iterate_documents(tmp_path / "out", "train") if d["id"] == "files/00.txt"]
    assert "no end" not in kept["text"]
    assert sum(kept["metadata"]["removed_lines"].values()) == 1


def test_fingerprint_follows_the_contents(texts: Path) -> None:
    before = data(texts).fingerprint()
    assert data(texts).fingerprint() == before
    (texts / "00.txt").write_text(text(1000))
    assert data(texts).fingerprint() != before


@pytest.mark.parametrize(("config", "message"), [
    ({"sources": []}, "name at least one source"),
    ({"sources": [{"kind": "pyton_stdlib"}]}, "'python_stdlib', 'python_functions', 'files'"),
    ({"sources": [{"kind": "files", "path": "x", "colum": "y"}]}, "colum"),
    ({"sources": [{"kind": "python_stdlib"}], "dedup": {"near": 8}}, "near: must be between"),
    ({"sources": [{"kind": "python_stdlib"}], "limit_mb": 0}, "limit_mb: must be above 0"),
    ({"sources": [{"kind": "python_stdlib"}], "filter": {"preset": "goffer"}}, "preset"),
])
def test_wrong_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Data).validate_python(config)


@pytest.mark.parametrize(("options", "message"), [
    ({"filter": Filter(rules={"min_words": 9999})}, r"(?s)rejects every document: min_words took 4\d.*min_words: null"),
    ({"sample": 1e-9}, r"(?s)sample holds not one document.*raise `sample`"),
])
def test_nothing_left_says_why(texts: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", data(texts, **options))


def test_nothing_readable_says_why(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"body": 1}\n{"body": 2}\n')
    with pytest.raises(UserError, match=r"(?s)2 x no_text.*column"):
        run(tmp_path / "out", data(tmp_path / "x.jsonl"))
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(UserError, match="sources hold no documents"):
        run(tmp_path / "out", data(tmp_path / "x.jsonl"))


def test_a_full_disk_is_named(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gristmill.core.files.os.fsync", full)
    with pytest.raises(MachineError, match="disk is full"):
        run(tmp_path / "out", data(texts))


def test_damaged_and_missing_shards_are_named(texts: Path, tmp_path: Path) -> None:
    run(tmp_path / "out", data(texts, split=Split(valid=0, test=0)))
    with pytest.raises(UserError, match="no valid documents"):
        list(iterate_documents(tmp_path / "out", "valid"))
    with pytest.raises(UserError, match="no split 'dev'"):
        list(iterate_documents(tmp_path / "out", "dev"))
    shard = tmp_path / "out/documents/train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"train-00000.parquet: this shard is damaged"):
        list(iterate_documents(tmp_path / "out", "train"))


def two_megabytes(work: Path) -> None:
    """In a process of its own."""
    units.UNIT_BYTES = 1_000_000
    context = StageContext(name="t/corpus@1", seed=1, work=work, cache=work, runtime=Runtime(workers=2))
    Data(sources=[PythonStdlib()], limit_mb=2).run(context)


@pytest.mark.slow
def test_kill_9_with_workers(tmp_path: Path) -> None:
    """A real SIGKILL of it and its workers when something more is there; the last run is left alone."""
    folder = tmp_path / "killed"
    folder.mkdir()

    def there() -> int:
        return sum(1 for _ in folder.rglob("*"))

    for more in (2, 4, 8):
        process, before = start(two_megabytes, folder, session=True), there()
        wait_for(lambda before=before, more=more, alive=process.alive: there() >= before + more or not alive())
        process.kill_session()
        process.ended()
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir(exist_ok=True)
        process = start(two_megabytes, tmp_path / name)
        assert process.ended() == 0, process.err
    assert digest_folder(tmp_path / "killed") == digest_folder(tmp_path / "whole")


@pytest.mark.slow
def test_the_standard_library(tmp_path: Path) -> None:
    corpus = Data(sources=[PythonStdlib()], limit_mb=4)
    metrics = run(tmp_path / "out", corpus, 2, seed=7)
    assert 2e6 < metrics["bytes"] <= 4e6
    assert metrics["documents"] > 100
    funnel = json.loads((tmp_path / "out/funnel.json").read_text())
    assert funnel["leakage"]["near_duplicates_across_splits"] == 0
    groups: dict[str, set[str]] = {}
    for split in ("train", "valid", "test"):
        for document in iterate_documents(tmp_path / "out", split):
            groups.setdefault(document["metadata"]["group"], set()).add(split)
    assert all(len(splits) == 1 for splits in groups.values())


def test_repeated_lines_and_stretches_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    menu, notice = "Home and news and about us", " ".join(f"notice{n}" for n in range(60))
    for seed in range(12):
        (folder / f"{seed:02d}.txt").write_text(f"{menu}\n{text(seed)}\n{notice if seed % 2 else ''}\n{menu}")
    (folder / "menu.txt").write_text("\n".join([menu] * 3))
    (folder / "same.py").write_text(f"'''{menu}\n{notice}\n'''\n" + "x = 1\n" * 9)
    monkeypatch.setattr(units, "UNIT_BYTES", 2500)
    options = {"lines": {"more_than": 8}, "substrings": {"words": 40}}
    stage_ = TypeAdapter(Data).validate_python({
        "sources": [{"kind": "files", "path": str(folder)}], "languages": "none", "filter": {"preset": "none"},
        "dedup": options, "split": {"valid": 0.2, "test": 0}})
    metrics = run(tmp_path / "out", stage_)
    assert digest_folder(tmp_path / "out") == digest_folder(_run_again(tmp_path, stage_))
    found = {d["id"]: d for s in ("train", "valid") for d in iterate_documents(tmp_path / "out", s)}
    texts = {id: d["text"] for id, d in found.items() if id.endswith(".txt")}
    assert not any(menu in one for one in texts.values())
    assert sum(notice in one for one in texts.values()) == 1  # the first, in the best document
    assert all(one.strip().startswith(text(int(id[-6:-4])).strip()) for id, one in texts.items())
    assert found["files/00.txt"]["metadata"]["cut"] == {"lines": 2}
    assert sorted(d["metadata"]["cut"].get("words", 0) for d in found.values() if "cut" in d["metadata"]) == (
        [0] * 7 + [60] * 5)
    rejects = [row for path in sorted((tmp_path / "out/rejects").glob("*"))
               for row in pq.read_table(path).to_pylist()]
    assert [(row["id"], row["reason"]) for row in rejects] == [("files/menu.txt", "only_repeats")]
    assert rejects[0]["text"].split("\n")[:3] == [menu] * 3
    funnel = json.loads((tmp_path / "out/funnel.json").read_text())
    last = funnel["phases"][-1]
    assert last["phase"] == "repeats"
    assert last["documents"] == metrics["documents"] == 12 + (1 if "files/same.py" in found else 0)
    assert last["bytes"] == metrics["bytes"] == sum(len(d["text"].encode()) for d in found.values())
    cut = json.loads((tmp_path / "out/duplicates.json").read_text())["repeats"]
    assert cut["sources"]["files"]["documents"] == 12
    assert cut["sources"]["files"]["lines"] == 24
    assert funnel["phases"][-2]["bytes"] == last["bytes"] + cut["sources"]["files"]["bytes"] + len(rejects[0]["text"])


def _run_again(tmp_path: Path, stage_: Data) -> Path:
    run(tmp_path / "again", stage_, worker_count=2)
    return tmp_path / "again"
