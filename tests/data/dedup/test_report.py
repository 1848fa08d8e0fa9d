import json

import numpy as np

from gristmill.data.dedup.report import dedup_report, first_difference

IDS = ["w/0", "w/1", "w/2", "b/0", "b/1"]
TEXTS = ["one two three", "one two four", "another", "one two three", "book"]


def describe(numbers: list[int]) -> dict[int, tuple[str, str]]:
    return {number: (IDS[number], TEXTS[number]) for number in numbers}


def report(**limits: float) -> dict:
    return dedup_report(
        ["web", "books"], np.array([0, 0, 0, 1, 1]), np.array([13, 12, 7, 13, 4]), np.array([0, 3, 0, 2, 0]),
        np.array([-1, 0, -1, 0, -1]), np.array([0, 0.85, 0, 1, 0]), np.array([0, 0, 2, 0, 4]), describe, **limits,
    )


def test_what_each_source_lost_is_counted_and_shown() -> None:
    found = json.loads(json.dumps(report()))
    web, books = found["sources"]["web"], found["sources"]["books"]
    assert (web["documents"], web["bytes"], round(web["share_removed"], 3), web["largest_cluster"]) == (3, 32, 0.333, 3)
    assert web["removed"]["near"] == {"documents": 1, "bytes": 12, "examples": [{
        "gone": "w/1", "kept": "w/0", "similarity": 0.85, "gone_text": "one two four", "kept_text": "one two three"}]}
    assert books["removed"]["exact"]["documents"] == 1
    assert books["removed"]["exact"]["examples"][0]["kept"] == "w/0"
    assert books["removed"]["url"] == {"documents": 0, "bytes": 0, "examples": []}
    assert found["alarms"] == []


def test_alarms_name_source_limit_and_remedy() -> None:
    alarms = report(largest_cluster=2, largest_share=0.4)["alarms"]
    assert [(a["source"], a["kind"]) for a in alarms] == [
        ("web", "large_cluster"), ("books", "large_share"), ("books", "large_cluster")]
    assert alarms[1]["value"] == 0.5
    assert "raise the threshold" in alarms[1]["fix"]


def test_no_documents() -> None:
    empty = np.array([], np.int64)
    assert dedup_report([], *[empty] * 6, describe) == {"sources": {}, "alarms": []}


def test_first_difference_is_in_the_excerpt() -> None:
    words = [str(n) for n in range(100)]
    other = [*words[:60], "here", *words[61:]]
    a, b = first_difference(" ".join(words), " ".join(other))
    assert a.startswith("... 40 41")
    assert "59 60 61" in a
    assert "59 here 61" in b
    assert b.endswith("...")
