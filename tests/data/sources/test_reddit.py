import gzip
import itertools
import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.compression import window
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.reddit_threads import Post, Threads
from gristmill.data.inputs import Range
from gristmill.data.sources.reddit import Reddit

POST = {"id": "p1", "title": "Why does it turn?", "selftext": "I wonder &amp; wonder.", "author": "ann", "score": 7,
        "subreddit": "mills", "created_utc": 978350400, "permalink": "/r/mills/comments/p1/", "over_18": False}
REPLY = {"id": "c1", "body": "The water.", "author": "bob", "score": 3, "subreddit": "mills", "link_id": "t3_p1",
         "parent_id": "t3_p1", "created_utc": "978354000"}


def read(path: Path | str, size: int = 1 << 20, **options: object) -> tuple[list[Document], list[Reject]]:
    source = Reddit(path=str(path), **options)  # type: ignore[arg-type]
    items = [item for entry in source.inputs() for part in source.ranges(entry, size)
             for item in source.read(part, "reddit")]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


def dump(path: Path, *records: object) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records), "utf-8")
    return path


def test_posts_and_comments(tmp_path: Path) -> None:
    documents, rejects = read(dump(tmp_path / "a.jsonl", POST, REPLY))
    assert not rejects
    assert [d.text for d in documents] == ["Why does it turn?\n\nI wonder & wonder.", "The water."]
    assert documents[0].metadata == {
        "path": "a.jsonl", "offset": 0, "license": "unknown", "record_id": "p1", "title": "Why does it turn?",
        "author": "ann", "time": "2001-01-01T12:00:00Z", "group": "p1", "score": 7, "community": "mills",
        "url": "https://www.reddit.com/r/mills/comments/p1/",
    }
    assert documents[1].metadata["group"] == "p1"
    assert documents[1].metadata["time"] == "2001-01-01T13:00:00Z"
    assert [d.domain for d in documents] == ["r/mills"] * 2


def test_what_is_left_out_says_why(tmp_path: Path) -> None:
    path = dump(
        tmp_path / "a.jsonl", {**REPLY, "body": "[deleted]"}, {**REPLY, "body": "[removed]"}, {**POST, "selftext": ""},
        {**REPLY, "author": "AutoModerator"}, {**REPLY, "score": -5}, {**POST, "over_18": True}, [1], {"x": 1},
        {**REPLY, "body": {"a": 1}}, {**REPLY, "score": None}, {**REPLY, "created_utc": 1e300},
    )
    with path.open("ab") as file:
        file.write(b'\n{"body": "cut\n' + b"[" * 100_000 + b'\n{"body": "\xff"}\n{"body": "half \\ud83d"}\n')
    documents, rejects = read(path, min_score=0)
    assert [r.reason for r in rejects] == [
        "deleted", "removed", "no_text", "skipped_author", "low_score", "adult", "broken_record", "no_text", "no_text",
        "broken_record", "too_deep", "broken_record"]
    assert [d.text for d in documents] == ["The water.", "The water.", "half \ufffd"]
    assert len(read(path, adult=True, skip_authors=())[0]) == 6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(['{"body": "one"}', '{"body": "tw\\u2028o"}', "", "{", '{"title": "x"}']), max_size=15),
       st.integers(1, 40))
def test_any_cut_gives_the_same_posts(tmp_path_factory: pytest.TempPathFactory, body: list[str], size: int) -> None:
    path = tmp_path_factory.mktemp("reddit") / "a.jsonl"
    path.write_text("\n".join([*body, "{}"]))
    source = Reddit(path=str(path))
    item = source.inputs()[0]
    edges = [*range(0, item.size, size), None]
    parts = [Range(item, start or 0, stop) for start, stop in itertools.pairwise(edges)]
    assert [d for part in parts for d in source.read(part, "r")] == list(source.read(Range(item), "r"))


def test_other_exports_by_their_fields(tmp_path: Path) -> None:
    fields = {"text": "content", "author": "account.username", "time": "created_at", "parent": "in_reply_to_id",
              "id": "id", "community": "account.server"}
    path = dump(tmp_path / "a.jsonl", {"id": 5, "content": "Hello &amp; you", "created_at": "2020-02-03T04:05:06+02:00",
                                       "account": {"username": "ann", "server": "mill.example"}, "body": "not this"})
    documents, _ = read(path, fields=fields)
    assert documents[0].text == "Hello &amp; you"
    assert (documents[0].domain, documents[0].metadata["author"]) == ("mill.example", "ann")
    assert (documents[0].metadata["time"], documents[0].metadata["group"]) == ("2020-02-03T02:05:06Z", "5")
    with pytest.raises(ValueError, match="fields: 'body' is none of"):
        Reddit(path="x", fields={"body": "x"})


def test_a_thread_in_the_order_of_its_replies(tmp_path: Path) -> None:
    second = {**REPLY, "id": "c2", "body": "The wind."}
    below = {**REPLY, "id": "c3", "parent_id": "t1_c1", "body": "Yes, water."}
    other = {**REPLY, "id": "c9", "link_id": "t3_p2", "parent_id": "t3_p2", "body": "Elsewhere."}
    path = dump(tmp_path / "a.jsonl", REPLY, other, second, POST, below, {**REPLY, "body": "[deleted]"})
    documents, rejects = read(path, documents="thread")
    assert [d.text for d in documents] == [
        "Elsewhere.", "Why does it turn?\n\nI wonder & wonder.\n\nThe water.\n\nYes, water.\n\nThe wind."]
    assert documents[1].id == "reddit/a.jsonl@0"
    assert documents[1].metadata["messages"] == 4
    assert documents[1].metadata["title"] == "Why does it turn?"
    assert [r.reason for r in rejects] == ["deleted"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1000, 20_000))
def test_threads_lose_nothing_and_hold_little(seed: int, posts: int, memory: int) -> None:
    pick = random.Random(seed)
    threads, out, texts = Threads(memory), [], []
    for number in range(posts):
        thread = f"t{pick.randrange(5)}"
        text = f"{number}:" + "x" * pick.randrange(400)
        texts.append(text)
        document = Document(f"s/{number}", text, "s", metadata={"path": "p", "offset": number})
        out += list(threads.add(Post(document, str(number), str(pick.randrange(posts)), thread, pick.random() < 0.2)))
        assert threads.held <= memory
    out += list(threads.rest())
    assert sorted(piece for document in out for piece in document.text.split("\n\n")) == sorted(texts)
    assert len({document.id for document in out}) == len(out)


def test_replies_20_000_deep_and_in_a_circle() -> None:
    threads = Threads(1 << 30)
    for number in range(20_000):
        document = Document(str(number), "x", "s", metadata={"path": "p", "offset": number})
        list(threads.add(Post(document, str(number), str(number - 1), "t", False)))
    assert len(next(threads.rest()).text) == 3 * 20_000 - 2
    threads = Threads(1 << 30)
    for name, parent in (("a", "b"), ("b", "a")):
        document = Document(name, name, "s", metadata={"path": "p", "offset": 0})
        list(threads.add(Post(document, name, parent, "t", False)))
    assert sorted(next(threads.rest()).text.split("\n\n")) == ["a", "b"]


def test_compressed_and_cut_dumps(tmp_path: Path) -> None:
    records = b"\n".join(json.dumps({**REPLY, "id": str(n)}).encode() for n in range(20_000))
    packed = gzip.compress(records)
    (tmp_path / "RC_1.gz").write_bytes(packed[: len(packed) // 2])
    documents, rejects = read(tmp_path)
    assert len(documents) > 1000
    assert rejects[-1].reason == "unreadable_file"
    (tmp_path / "RC_2").write_bytes(b"")
    assert read(tmp_path / "RC_2") == ([], [])


def long_frame(text: bytes) -> bytes:
    """A zstd frame with a window of 2 GB, as `--long=31` makes them, of one uncompressed block."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, 21 << 3]) + struct.pack("<I", len(text) << 3 | 1)[:3] + text


def test_the_window_of_a_zstd_frame(tmp_path: Path) -> None:
    assert window(long_frame(b"x")) == 1 << 31
    assert window(b"") == window(b"no zstd at all") == 0
    if shutil.which("zstd") is None:
        pytest.skip("the program zstd is not here")
    (tmp_path / "a").write_bytes(b"hello " * 1000)
    for level in ("--long=27", "-19", "-1"):
        subprocess.run(["zstd", "-q", "-f", level, str(tmp_path / "a"), "-o", str(tmp_path / "a.zst")], check=True)
        assert 0 < window((tmp_path / "a.zst").read_bytes()) <= 1 << 27


def test_long_windows_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "RC_3.zst"
    path.write_bytes(long_frame(json.dumps(REPLY).encode() + b"\n") + long_frame(json.dumps(REPLY).encode()))
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "zstandard", None)
        with pytest.raises(UserError, match="pip install zstandard"):
            read(path)
    pytest.importorskip("zstandard")
    documents, rejects = read(path)
    assert [d.text for d in documents] == ["The water."] * 2
    assert not rejects
