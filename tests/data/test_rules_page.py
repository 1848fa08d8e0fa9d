"""docs/data/rules.md says what the code does: every signal, every rule with its bounds, every preset, and its example
runs."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from gristmill.data.rules import COMPAT_PRESETS, PRESET_LINES, PRESETS, RULES
from gristmill.data.signals import SIGNALS, bad_words_v1
from gristmill.data.signals.lines import LINE_FILTERS

PAGE = (Path(__file__).parents[2] / "docs" / "data" / "rules.md").read_text("utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]


def test_every_signal_value_has_a_row() -> None:
    listed = {cells[0] for cells in ROWS if re.fullmatch(r"`\w+_v\d\.\w+`", cells[0])}
    values = {f"`{name}.{value}`" for name, signal in {**SIGNALS, "bad_words_v1": bad_words_v1([])}.items()
              for value in signal("text")}
    values = {re.sub(r"_(\d+)gram", "_Ngram", value) for value in values}
    assert listed == values


def test_every_rule_has_a_row_with_its_bound_and_presets() -> None:
    listed = {cells[0].strip("`"): cells[1:] for cells in ROWS if cells[0].strip("`") in RULES}
    assert set(listed) == set(RULES)
    for name, (signal, low, high, presets) in listed.items():
        rule = RULES[name]
        assert signal.strip("`") == rule.signal
        assert (low, high) == tuple("" if bound is None else f"{bound:g}" for bound in (rule.low, rule.high))
        holding = {preset for preset, classes in PRESETS.items() if any(name in rules for rules in classes)}
        assert set(presets.split(", ")) - {""} == (holding if name != "min_characters" else {"all"})


def test_every_line_filter_has_a_row() -> None:
    listed = {cells[0].strip("`"): cells[-1] for cells in ROWS if cells[0].strip("`") in LINE_FILTERS}
    assert set(listed) == set(LINE_FILTERS)
    for name, presets in listed.items():
        assert set(presets.split(", ")) - {""} == {preset for preset, names in PRESET_LINES.items() if name in names}


def test_every_compat_rule_is_named() -> None:
    signals = {rule.signal.split(".")[0] for presets in COMPAT_PRESETS.values() for rules in presets.values()
               for rule in rules.values() if rule.signal.startswith(("datatrove", "dolma"))}
    for name in signals:
        assert f"`{name}`" in PAGE, name


@pytest.mark.parametrize(("code", "printed"), re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL))
def test_the_example_prints_what_the_page_says(code: str, printed: str) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})
    assert output.getvalue() == printed


def test_there_is_an_example() -> None:
    assert "```python" in PAGE
