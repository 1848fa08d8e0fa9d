"""From answers to a way: single rules, and what may be answered."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from gristmill.core.errors import UserError
from gristmill.planning.advice_models import LIMITS, PUBLIC_MODELS, choose_model
from gristmill.planning.goal import RULES, TITLES, WAYS, Facts, Goal, decide
from gristmill.planning.interview import QUESTIONS, interview, measured_examples, measured_text

RICH = Facts(lora=False, covered=True, full_fits=True, scratch_tokens=1e12)
POOR = replace(RICH, full_fits=False, scratch_tokens=1e7)
WITH_LORA = replace(RICH, lora=True)


@pytest.mark.parametrize(("goal", "facts", "way"), [
    (Goal(), RICH, "prompt"),
    (Goal(quality="try", examples=5000), RICH, "prompt"),
    (Goal(domain="special", examples=200), RICH, "finetune"),
    (Goal(domain="special", examples=200), WITH_LORA, "lora"),
    (Goal(domain="special", examples=200), POOR, "prompt"),
    (Goal(purpose="classify", domain="special", examples=5000), WITH_LORA, "finetune"),
    (Goal(domain="special", text_mb=500), RICH, "continue"),
    (Goal(purpose="write", text_mb=500), RICH, "continue"),
    (Goal(purpose="learn"), RICH, "scratch"),
    (Goal(privacy="own", examples=5000, text_mb=500), RICH, "scratch"),
    (Goal(privacy="own"), POOR, "scratch"),
    (Goal(purpose="write", domain="special", text_mb=1e5), POOR, "scratch"),
])
def test_the_way_that_follows(goal, facts, way):
    decision = decide(goal, facts)
    assert decision.way == way
    assert decision.reasons
    assert set(decision.others) == set(WAYS) - {way}


def test_every_goal_has_a_way_that_is_not_out_of_the_question():
    for purpose, privacy, examples, text_mb, days, facts in itertools.product(
            ("chat", "write", "classify", "learn"), ("open", "own"), (0, 100, 5000), (0.0, 50.0, 5000.0), (1.0, 30.0),
            (RICH, POOR, WITH_LORA)):
        goal = Goal(purpose=purpose, privacy=privacy, examples=examples, text_mb=text_mb, days=days)
        decision = decide(goal, facts)
        assert decision.way not in decision.excluded
        assert all(decision.others.values())
        if privacy == "own":
            assert decision.way == "scratch"
        if not facts.lora:
            assert decision.way != "lora"
        if not facts.full_fits:
            assert decision.way not in ("finetune", "continue")


def test_more_examples_never_speak_against_training_on_them():
    votes = [decide(Goal(domain="special", examples=n), RICH).votes["finetune"] for n in (0, 60, 999, 1000, 10**6)]
    assert votes == sorted(votes)


def test_rules_speak_of_ways_that_exist_and_each_applies_somewhere():
    for rule in RULES:
        assert set(rule.votes) | set(rule.excludes) <= set(WAYS)
        assert rule.because
    goals = [Goal(purpose=p, domain=d, quality=q, examples=n, text_mb=m, days=t, privacy=v)  # type: ignore[arg-type]
             for p, d, q, n, m, t, v in itertools.product(
                 ("chat", "write", "learn", "classify"), ("general", "special"), ("try", "best"), (0, 100, 5000),
                 (0.0, 300.0), (1.0, 30.0), ("open", "own"))]
    facts = (RICH, POOR, replace(RICH, covered=False))
    assert {r.name for r in RULES if any(r.applies(g, f) for g in goals for f in facts)} == {r.name for r in RULES}
    assert set(TITLES) == set(WAYS)


# -- public models -----------------------------------------------------------------------------------------------------


def test_public_models_are_in_order_and_say_where_they_come_from():
    assert [m.parameters for m in PUBLIC_MODELS] == sorted(m.parameters for m in PUBLIC_MODELS)
    for model in PUBLIC_MODELS:
        assert model.licence
        assert model.source
        assert model.date


@pytest.mark.slow
@pytest.mark.parametrize("model", PUBLIC_MODELS, ids=lambda m: m.base)
def test_public_models_have_the_sizes_that_their_presets_have(model):
    from gristmill.models.families import FAMILIES
    from gristmill.planning.anatomy import anatomy

    assert anatomy(FAMILIES[model.family].presets[model.preset]).total == model.parameters


def test_a_model_fits_its_wish_its_room_and_its_languages():
    for quality, most in itertools.product(LIMITS, (1e8, 5e8, 3e9, 1e12)):
        model, covered = choose_model(quality, ("en",), most)
        assert covered
        assert model.parameters <= max(min(most, LIMITS[quality]), PUBLIC_MODELS[0].parameters)
    assert choose_model("good", ("de",), 1e12)[0].covers(("de",))
    assert choose_model("try", ("uk",), 1e12)[0].parameters > LIMITS["try"]  # a language is worth a larger model
    assert not choose_model("best", ("en", "gd"), 1e12)[1]


# -- answers -----------------------------------------------------------------------------------------------------------


def test_the_interview_asks_of_every_field_and_names_what_nobody_said():
    asked = []

    def ask(question):
        asked.append(question.field)
        return {"purpose": "classify", "languages": "de, en"}.get(question.field, question.default)

    goal, assumed = interview({"days": "3"}, {"examples": "70"}, ask)
    assert goal == Goal(purpose="classify", languages=("de", "en"), examples=70, days=3.0)
    assert asked == [q.field for q in QUESTIONS if q.field not in ("days", "examples")]
    assert assumed == ()
    goal, assumed = interview({"days": "3"}, {})
    assert goal == Goal(days=3.0)
    assert set(assumed) == {q.field for q in QUESTIONS} - {"days"}


@pytest.mark.parametrize(("field", "answer", "says"), [
    ("purpose", "fly", "'fly' is no answer"), ("purpose", "", "'' is no answer"),
    ("domain", "chess", "choose one of general, special, code"), ("quality", "great", "choose one of try, good, best"),
    ("privacy", "secret", "choose one of open, private, own"), ("languages", "", "name at least one"),
    ("languages", "english", "'english' is no ISO 639-1 code"), ("text_mb", "-3", "no positive number"),
    ("text_mb", "lots", "no positive number"), ("examples", "2.5", "no whole number"),
    ("examples", "nan", "no positive number"), ("budget_usd", "-1", "no positive number"),
    ("budget_usd", "1e30", "must not be"), ("days", "0", "must be positive"), ("days", "1e9", "must be positive"),
])
def test_nonsense_is_refused_and_says_what_may_be_answered(field, answer, says):
    with pytest.raises(UserError, match="--") as caught:
        interview({field: answer}, {})
    assert says in str(caught.value)


def test_answers_may_be_written_in_several_ways():
    goal, _ = interview({"text_mb": "1.5k", "examples": "2k", "budget_usd": "0.00", "languages": "en de en"}, {})
    assert (goal.text_mb, goal.examples, goal.budget_usd, goal.languages) == (1500, 2000, 0, ("en", "de"))


def test_data_at_hand_is_measured(tmp_path):
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / "a.txt").write_bytes(b"x" * 1_500_000)
    (tmp_path / "texts" / "deep" / "b.txt").write_bytes(b"x" * 500_000)
    assert float(measured_text(str(tmp_path / "texts"))) == 2.0
    assert float(measured_text(str(tmp_path / "texts" / "a.txt"))) == 1.5
    assert float(measured_text(str(tmp_path / "texts" / "**" / "b.*"))) == 0.5
    (tmp_path / "c.jsonl").write_text('{"prompt": "a", "completion": "b"}\n\n{}\n')
    (tmp_path / "c.json").write_text("[{}, {}, {}]")
    assert measured_examples(str(tmp_path / "c.jsonl")) == "2"
    assert measured_examples(str(tmp_path / "c.json")) == "3"
    for wrong in (lambda: measured_text(str(tmp_path / "none")), lambda: measured_examples(str(tmp_path / "none"))):
        with pytest.raises(UserError, match="none"):
            wrong()
