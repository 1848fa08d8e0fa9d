import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import InternalError
from gristmill.data.decide import (
    PRESETS,
    RULES,
    Alarm,
    Filter,
    Rule,
    alarms,
    all_broken,
    decide,
    explain,
    first_broken,
)
from gristmill.data.rules import COMPAT_PRESETS, WORD_RULES
from gristmill.data.signals import SIGNALS, bad_words_v1, measure, measure_batch
from tests.data.signals.documents import MADE
from tests.data.signals.documents import PROSE as LONG

PROSE = "The cat and the dog went to the garden that they had seen with joy. " * 3


def test_every_rule_reads_a_signal_that_exists() -> None:
    signals = {**SIGNALS, "bad_words_v1": bad_words_v1(["x"])}
    known = {f"{name}.{key}" for name, signal in signals.items() for key in signal("some text")}
    assert {rule.signal for rule in RULES.values()} <= known
    assert {rule.signal for prose_code in PRESETS.values() for rules in prose_code for rule in rules.values()} <= known


def test_every_rule_of_dolmas_reads_a_signal_that_exists() -> None:
    known = set(measure("some text", code=False, compat="dolma"))
    assert {rule.signal for rules in COMPAT_PRESETS["dolma"].values() for rule in rules.values()} <= known


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("code", [True, False])
def test_every_preset_can_judge_every_class(preset: str, code: bool) -> None:
    rules = Filter(preset=preset).for_class(code=code)  # type: ignore[arg-type]
    broken = first_broken(measure("", code=code), rules, "und")
    assert broken
    assert broken[0].name == "min_characters"


def test_good_prose_passes_every_preset() -> None:
    text = "\n".join([LONG, "The evening after that, the two of us walked back along the water with a lamp and a dog."])
    signals = measure(text, code=False)
    for preset in PRESETS:
        assert all_broken(signals, Filter(preset=preset).for_class(code=False), "en") == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "preset", "rule"), [
    (f"{LONG}\nLorem ipsum dolor sit amet.", "c4", "max_lorem_ipsum"),
    (f"{LONG}\nf() {{ x; }}", "c4", "max_curly_brackets"),
    ("One sentence. Two sentences. Three sentences here. Four of them", "c4", "min_sentences"),
    (f"{LONG}\nHome\nContact\nAbout us\nSign in\nCart", "fineweb", "max_short_lines"),
    (LONG.translate(dict.fromkeys(map(ord, '."?!'), ",")), "fineweb", "min_sentences"),
    (LONG.upper(), "strict", "max_upper_case"),
    (" ".join(["####"] * 5 + [LONG]), "gopher", "max_hash_words"),
])
def test_presets_drop_what_they_are_for(text: str, preset: str, rule: str) -> None:
    broken = first_broken(measure(text, code=False), Filter(preset=preset).for_class(code=False), "en")  # type: ignore[arg-type]
    assert broken
    assert broken[0].name == rule


def test_overrides_loosen_and_switch_off() -> None:
    signals = measure(PROSE, code=False)
    rule, value = first_broken(signals, Filter(preset="gopher").for_class(code=False), "en") or (None, 0)
    assert rule == Rule("min_words", "length_v1.words", low=50)
    assert explain(rule, value) == "length_v1.words is 45, below 50"
    names = [r.name for r in Filter(rules={"min_words": 10}).for_class(code=False) if r.low == 10]
    assert names == ["min_words"]
    off = Filter(rules=dict.fromkeys(RULES))
    assert off.for_class(code=False) == off.for_class(code=True) == []


def test_an_override_keeps_what_the_presets_rule_reads() -> None:
    rules = {rule.name: rule for rule in Filter(preset="fineweb", rules={"min_sentences": 9}).for_class(code=False)}
    assert rules["min_sentences"] == Rule("min_sentences", "c4_v1.sentences_any_end", low=9)
    rules = {rule.name: rule for rule in Filter(compat="dolma", rules={"min_words": 9}).for_class(code=False)}
    assert rules["min_words"].signal == "dolma_gopher_v1.word_count"


def test_english_rules_spare_other_languages() -> None:
    rules = [RULES["min_stop_words"]]
    signals = {"gopher_symbols_v2.stop_words": 0.0}
    assert first_broken(signals, rules, "de") is None
    assert first_broken(signals, rules, "en")


def test_word_rules_spare_languages_without_spaces() -> None:
    signals = measure("".join(f"这是第{i}个没有空格的句子。" for i in range(20)) + "\n", code=False)
    rules = Filter().for_class(code=False)
    assert first_broken(signals, rules, "zh") is None
    assert first_broken(signals, rules, "en")
    assert first_broken(signals, Filter(preset="strict").for_class(code=False), "zh") is None
    assert {"min_words", "max_top_2gram", "max_newline_words", "min_unique_words"} <= WORD_RULES
    assert not {"max_bad_words", "min_sentences", "max_short_lines", "max_digits"} & WORD_RULES


def test_rules_on_ends_of_sentences_spare_thai() -> None:
    signals = measure("สวัสดีชาวโลก ยินดีต้อนรับสู่หน้านี้ ที่นี่มีข้อความหลายบรรทัด\n" * 6, code=False)
    rules = [RULES["min_sentences"], RULES["min_punctuated_lines"]]
    assert first_broken(signals, rules, "th") is None
    assert first_broken(signals, rules, "en")


def test_line_filters_come_with_the_preset_and_can_be_chosen() -> None:
    assert "unterminated_v1" in Filter(preset="c4").line_filters(code=False)
    assert "unterminated_v1" not in Filter(preset="fineweb").line_filters(code=False)
    assert Filter(preset="c4").line_filters(code=True) == Filter().line_filters(code=False) == ()
    assert Filter(preset="c4", lines=["policy_v1"]).line_filters(code=False) == ("policy_v1",)
    assert Filter(preset="c4", lines=[]).line_filters(code=False) == ()


def test_a_list_of_bad_words_switches_its_rule_on() -> None:
    signals = measure(f"{LONG} Damn!", code=False, bad_words=["damn"])
    assert "max_bad_words" not in {r.name for r in Filter(preset="c4").for_class(code=False)}
    broken = first_broken(signals, Filter(preset="c4", bad_words=["damn"]).for_class(code=False), "en")
    assert broken
    assert broken[0].name == "max_bad_words"
    named = Filter(preset="gopher", bad_words=["damn"], rules={"max_bad_words": 0}).for_class(code=False)
    assert "max_bad_words" in {r.name for r in named}


@pytest.mark.parametrize(("arguments", "problem"), [
    ({"rules": {"min_word": 3}}, r"no rule 'min_word'; choose from .*min_words"),
    ({"rules": {"min_words": -1}}, r"rules\.min_words: must be 0 or more"),
    ({"lines": ["policy"]}, r"no line filter 'policy'; choose from .*policy_v1"),
    ({"rules": {"max_bad_words": 2}}, r"set `bad_words`"),
    ({"preset": "fineweb", "compat": "dolma"}, r"dolma has no preset 'fineweb'; choose from .*gopher"),
])
def test_a_wrong_filter_is_refused_with_the_choices(arguments: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Filter(**arguments)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(MADE), st.booleans(), st.sampled_from(["en", "und", "de", "zh", "th"])),
             max_size=8),
    st.sampled_from([*PRESETS]), st.booleans(),
)
def test_decisions_over_columns_equal_those_one_by_one(
    items: list[tuple[str, bool, str]], preset: str, dolma: bool
) -> None:
    compat = "dolma" if dolma and preset in COMPAT_PRESETS["dolma"] else "none"
    rules = Filter(preset=preset, compat=compat, rules={"min_words": 3})  # type: ignore[arg-type]
    code = [is_code for _, is_code, _ in items]
    columns = measure_batch([text for text, _, _ in items], code=code, compat=compat)  # type: ignore[arg-type]
    found = decide(columns, rules, languages=[language for _, _, language in items], code=code)
    lost = 0
    for row, (text, is_code, language) in enumerate(items):
        signals = measure(text, code=is_code, compat=compat)  # type: ignore[arg-type]
        expected = all_broken(signals, rules.for_class(code=is_code), language)
        assert found.all_broken(row) == [rule for rule, _ in expected]
        assert found.reason(row) == (expected[0][0].name if expected else None)
        assert found.explain(row) == (explain(*expected[0]) if expected else "")
        assert found.kept[row] == (not expected)
        lost += bool(expected)
    assert sum(first for first, _ in found.counts().values()) == lost


def test_all_broken_rules_are_counted() -> None:
    columns = measure_batch(["a b", LONG])
    found = decide(columns, Filter(preset="gopher"), languages=["en", "en"])
    assert found.kept.tolist() == [False, True]
    assert found.reason(0) == "min_words"
    assert found.counts()["min_words"] == (1, 1)
    assert found.counts()["min_mean_word_length"] == (0, 1)


def test_a_signal_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(InternalError, match=r"rule min_words reads length_v1\.words, which was not measured"):
        decide({"length_v1.characters": np.array([3.0])}, Filter(preset="gopher"), languages=["en"])
    columns = measure_batch([LONG], code=True)
    with pytest.raises(InternalError, match=r"not measured"):
        decide({**measure_batch([""]), **columns, "gopher_symbols_v2.stop_words": np.array([np.nan])},
               Filter(preset="gopher"), languages=["en"])


def test_alarms_name_the_sources_that_lost_too_much() -> None:
    lost = {"web": {"min_words": 60, "max_words": 0, "exact_duplicate": 30}, "books": {"min_words": 10},
            "few": {"x": 3}}
    found = alarms({"web": 100, "books": 100, "few": 3, "whole": 50}, lost, 0.5)
    assert found == [Alarm("web", 100, 90, {"min_words": 60, "exact_duplicate": 30})]
    assert str(found[0]) == "source web lost 90% of its documents (90 of 100), most to min_words (60)"
    assert [alarm.source for alarm in alarms({"web": 100, "few": 3}, lost, 0.5, at_least=1)] == ["few", "web"]
    assert alarms({"web": 100}, lost, 0.9) == []  # more than the share, not as much
