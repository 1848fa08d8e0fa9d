"""Tables and sentences that a person reads."""

from gristmill.evaluation import gains_markdown, gains_text, results_markdown, results_text
from gristmill.evaluation.gains import _gain, shown

TABLE = {
    "task": "perplexity", "metric": "bits per byte", "unit": "bits/byte", "better": "lower", "split": "test", "n": 40,
    "n_unit": "documents", "rows": [{"model": "base", "value": 1.7, "low": 1.6, "high": 1.8, "stderr": 0.05}],
    "baselines": [{"name": "5-gram", "value": 1.86, "note": "Kneser-Ney"}], "comparisons": [],
}
SHARE = {**TABLE, "task": "python_functions", "metric": "parses | works", "unit": "share", "better": "higher",
         "baselines": [], "rows": [{"model": "base", "value": 0.405, "low": 0.35, "high": 0.46, "stderr": 0.03}]}


def compared(difference, p_value, **more):
    return {"from": "5-gram", "to": "base", "difference": difference, "low": difference - 0.02,
            "high": difference + 0.02, "p_value": p_value, "n": 40, "test": "sign-flip", **more}


def results(*gains):
    return {"models": [{"name": "base"}], "tasks": [TABLE, SHARE], "gains": list(gains), "forgetting": []}


def test_a_clear_gain_and_one_that_is_not():
    clear = _gain("pretrain", TABLE, compared(-0.16, 0.0001))
    assert clear["improved"]
    assert clear["clearly"]
    assert clear["text"] == ("base is better than 5-gram: bits per byte 1.860 -> 1.700 (-0.160, 95 % interval -0.180 "
                             "to -0.140, p = 0.0001); clearly")
    small = _gain("pretrain", TABLE, compared(-0.03, 0.001))
    assert small["improved"]
    assert not small["clearly"]
    assert "by less than the 0.05" in small["text"]
    for worse in (compared(-0.16, 0.06), compared(0.16, 0.0001)):
        found = _gain("pretrain", TABLE, worse)
        assert not found["improved"]
        assert "is NOT shown to be better" in found["text"]


def test_a_gain_that_vanishes_at_matched_length_is_none():
    matched = {"difference": 0.001, "p_value": 0.9}
    table = {**SHARE, "rows": [*SHARE["rows"], {**SHARE["rows"][0], "model": "aligned", "value": 0.5}]}
    difference = {**compared(0.095, 0.001, matched_length=matched), "from": "base", "to": "aligned"}
    found = _gain("align", table, difference)
    assert not found["improved"]
    assert "does not hold at matched length" in found["text"]
    assert _gain("align", table, {**difference, "matched_length": {"difference": 0.08, "p_value": 0.01}})["improved"]


def test_tables_line_up_and_show_intervals_and_baselines():
    found = results(_gain("pretrain", TABLE, compared(-0.16, 0.0001)))
    text = results_text(found)
    assert "1.700 [1.600, 1.800]" in text
    assert "40.5 % [35.0, 46.0]" in text
    assert "5-gram: Kneser-Ney" in text
    head, rule, *_ = text.split("\n")
    assert len(rule) >= len(head)
    assert "yes" in gains_text(found)
    markdown = results_markdown(found)
    assert "parses \\| works" in markdown
    assert {line.replace("\\|", "").count("|") for line in markdown.split("\n") if line.startswith("|")} == {5}
    assert gains_markdown(results()) == ""
    assert gains_markdown(found).count("\n") >= 4


def test_numbers_in_their_units():
    assert shown(0.4051, "share") == "40.5 %"
    assert shown(-0.012, "share", signed=True) == "-1.2 points"
    assert shown(1.23456, "bits/byte") == "1.235"
