import json
import threading

import pytest

from gristmill.core.errors import UserError
from gristmill.core.writer import Answer, Request
from gristmill.data.augment.journal import Journal, key_of


class Named:
    identity = "m"


def key(number: int) -> str:
    return key_of(Named(), Request("p", number, 5, 1.0))


def test_answers_are_found_again(tmp_path):
    path = tmp_path / "sub" / "a.jsonl"
    answer = Answer("täxt\n\u2028 \U0001f600", "stop", 3, 4, "m", "")
    with Journal(path) as journal:
        journal.add([(key(1), answer), (key(2), Answer("", "refused", detail="no"))])
        assert journal.find(key(1)) == answer
        assert journal.find(key(3)) is None
    with Journal(path) as journal:
        assert len(journal) == 2
        assert journal.find(key(1)) == answer
        assert journal.find(key(2)).detail == "no"


def test_a_line_that_a_crash_cut_short_is_cut_off(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.add([(key(n), Answer(f"text {n}", "stop")) for n in range(3)])
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with Journal(path) as journal:
            kept = sum(e <= end for e in ends)
            assert len(journal) == kept
            journal.add([(key(9), Answer("more", "stop"))])
        with Journal(path) as journal:
            assert len(journal) == kept + 1
            assert journal.find(key(9)).text == "more"


def test_damage_in_the_middle_is_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": "zz"}\n' + json.dumps({"key": key(1)}) + "\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        Journal(path)


def test_threads_do_not_mix_their_lines(tmp_path):
    with Journal(tmp_path / "a.jsonl") as journal:
        threads = [threading.Thread(target=lambda n=n: [
            journal.add([(key(100 * n + i), Answer("x" * (i % 7 * 100), "stop"))]) for i in range(20)])
            for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(len(journal.find(key(100 * n + i)).text) == i % 7 * 100 for n in range(6) for i in range(20))
    with Journal(tmp_path / "a.jsonl") as journal:
        assert len(journal) == 120


def test_everything_that_may_change_an_answer_is_in_the_key():
    base = Request("p", 1, 5, 1.0, 0.9)
    others = [Request("q", 1, 5, 1.0, 0.9), Request("p", 2, 5, 1.0, 0.9), Request("p", 1, 6, 1.0, 0.9),
              Request("p", 1, 5, 0.5, 0.9), Request("p", 1, 5, 1.0, 0.8)]
    assert len({key_of(Named(), request) for request in [base, *others]}) == 6


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    from gristmill.core.errors import MachineError
    from gristmill.data.augment import journal as module

    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.add([(key(1), Answer("one", "stop"))])
        real = module.os.write

        def full(file, data):
            real(file, bytes(data)[:9])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module.os, "write", full)
        with pytest.raises(MachineError, match="disk is full"):
            journal.add([(key(2), Answer("two", "stop"))])
        monkeypatch.undo()
        journal.add([(key(3), Answer("three", "stop"))])
    with Journal(path) as journal:
        assert [journal.find(key(n)) is not None for n in (1, 2, 3)] == [True, False, True]
