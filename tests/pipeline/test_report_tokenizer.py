"""What the report shows of a tokenizer's own metrics."""

from __future__ import annotations

from gristmill.pipeline.report.tokenizer_measures import measures

ROW = {"documents": 2, "bytes": 1000, "words": 100, "tokens": 250, "bytes_per_token": 4.0, "tokens_per_word": 2.5}


def test_tables_charts_and_what_does_not_come_back():
    shown = measures({
        "entry_lengths": [256, 40, 0, 3],
        "measured_on": {
            "split": "valid", "languages": {"en": ROW, "cs": {**ROW, "bytes_per_token": 1.5}}, "domains": {},
            "compression": [{"vocab_size": 512, "bytes_per_token": 2.0}, {"vocab_size": 1024, "bytes_per_token": 3.0}],
            "round_trip": {"guaranteed": False, "loses": ["white space"], "documents": 5, "equal": 1}}})
    assert shown["tables"] == [
        ("language", [("en", "2", "1,000", "4.00", "2.50"), ("cs", "2", "1,000", "1.50", "2.50")])]
    assert shown["split"] == "held-out"
    assert "goes from 2" in shown["compression"].label
    assert "299 entries" in shown["lengths"].label
    assert shown["round_trip"].startswith("Not every text comes back from its tokens: it loses white space")


def test_metrics_from_before_show_nothing():
    shown = measures({"vocab_size": 8192})
    assert (shown["tables"], shown["compression"], shown["lengths"], shown["round_trip"]) == ([], None, None, "")
