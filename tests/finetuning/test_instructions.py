"""Every known shape of a conversation is read; every unknown one is counted with its place."""

import gzip
import json

import pytest

from gristmill.core.errors import UserError
from gristmill.finetuning.instructions import InstructionFile, Rejects, as_messages

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(("row", "expected"), [
    ({"messages": [QUESTION, ANSWER]}, [QUESTION, ANSWER]),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [QUESTION, ANSWER]),
    ({"messages": [QUESTION, ANSWER, QUESTION]}, [QUESTION, ANSWER]),
    ({"prompt": "q", "completion": "a"}, [QUESTION, ANSWER]),
    ({"prompt": "q", "response": "a"}, [QUESTION, ANSWER]),
    ({"instruction": "q", "input": "", "output": "a"}, [QUESTION, ANSWER]),
    ({"instruction": "q", "input": "x", "output": "a"}, [{"role": "user", "content": "q\n\nx"}, ANSWER]),
    ({"messages": [QUESTION]}, None),
    ({"messages": [{"role": "tool", "content": "x"}, ANSWER]}, None),
    ({"prompt": "q", "completion": " "}, None),
    ({"text": "no conversation"}, None),
    ("text", None),
])
def test_shapes(row, expected):
    assert as_messages(row) == expected


def rows(count):
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]


@pytest.mark.parametrize("packed", [False, True])
def test_splits_are_disjoint_and_stable(tmp_path, packed):
    path = tmp_path / "data.jsonl"
    data = "\n".join(json.dumps(r) for r in rows(400)).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    source = InstructionFile(path=str(path), valid=0.2)
    parts = {split: [c.messages[0]["content"] for c in source.conversations(split, {}, Rejects({}, []))]
             for split in ("train", "valid")}
    assert len(parts["train"]) + len(parts["valid"]) == 400
    assert not set(parts["train"]) & set(parts["valid"])
    assert 40 < len(parts["valid"]) < 130
    path.write_bytes(b"\n".join(json.dumps(r).encode() for r in reversed(rows(500))))
    again = {c.messages[0]["content"] for c in source.conversations("valid", {}, Rejects({}, []))}
    assert set(parts["valid"]) <= again


def test_bad_rows_are_counted_with_their_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"prompt": "q", "completion": "a\xe2\x80\xa8b"}\n{broken\n\xff\xfe\n{"text": "x"}\n')
    rejects = Rejects({}, [])
    source = InstructionFile(path=str(path))
    found = [c for split in ("train", "valid") for c in source.conversations(split, {}, rejects)]
    assert [c.messages[1]["content"] for c in found] == ["a\u2028b"]
    assert rejects.counts == {"not valid JSON": 4, "no conversation found in this row": 2}
    assert {e["where"] for e in rejects.examples} == {"data.jsonl:2", "data.jsonl:3", "data.jsonl:4"}


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        list(InstructionFile(path="nowhere.jsonl").conversations("train", {}, Rejects({}, [])))


def test_a_row_of_an_update_is_known_by_its_conversations():
    from gristmill.finetuning.stage import Mixed
    from gristmill.tokens import RowBatches, pack_examples

    examples = [([number, number, number], [0, 1, 1]) for number in range(10)]
    mixed = Mixed(RowBatches(pack_examples(examples, 4), batch=3, seed=0), None, [f"a.jsonl:{n}" for n in range(10)])
    for step in range(4):
        for row, ids in enumerate(mixed.window(step)[0]["input_ids"]):
            assert mixed.documents(step, row) == [f"a.jsonl:{n}" for n in ids[::2].tolist()]
