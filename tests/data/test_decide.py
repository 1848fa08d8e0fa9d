import pytest

from gristmill.data.decide import PRESETS, RULES, Filter, Rule, explain, first_broken
from gristmill.data.signals import SIGNALS, measure

PROSE = "The cat and the dog went to the garden that they had seen with joy. " * 3


def test_every_rule_reads_a_signal_that_exists() -> None:
    known = {f"{name}.{key}" for name, signal in SIGNALS.items() for key in signal("some text")}
    assert {rule.signal for rule in RULES.values()} <= known


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("code", [True, False])
def test_every_preset_can_judge_every_class(preset: str, code: bool) -> None:
    rules = Filter(preset=preset).for_class(code=code)  # type: ignore[arg-type]
    broken = first_broken(measure("", code=code), rules, "und")
    assert broken
    assert broken[0].name == "min_characters"


def test_overrides_loosen_and_switch_off() -> None:
    signals = measure(PROSE, code=False)
    rule, value = first_broken(signals, Filter(preset="gopher").for_class(code=False), "en") or (None, 0)
    assert rule == Rule("min_words", "length_v1.words", low=50)
    assert explain(rule, value) == "length_v1.words is 45, below 50"
    names = [r.name for r in Filter(rules={"min_words": 10}).for_class(code=False) if r.low == 10]
    assert names == ["min_words"]
    off = Filter(rules=dict.fromkeys(RULES))
    assert off.for_class(code=False) == off.for_class(code=True) == []


def test_english_rules_spare_other_languages() -> None:
    rules = [RULES["min_stop_words"]]
    signals = {"gopher_symbols_v1.stop_words": 0.0}
    assert first_broken(signals, rules, "de") is None
    assert first_broken(signals, rules, "en")


def test_word_rules_spare_languages_without_spaces() -> None:
    signals = measure("这是一个没有空格的句子。" * 20 + "\n", code=False)
    rules = Filter().for_class(code=False)
    assert first_broken(signals, rules, "zh") is None
    assert first_broken(signals, rules, "en")


def test_an_unknown_rule_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"no rule 'min_word'; choose from .*min_words"):
        Filter(rules={"min_word": 3})
