import json

import pytest

from gristmill.core.errors import UserError
from gristmill.data.augment.gates import Gates, judge
from gristmill.data.augment.method import Made, Original

ENGLISH = "The old mill stood by the river, and nobody had worked in it for many years before the fire came."
GERMAN = "Die alte Mühle stand am Fluss, und niemand hatte viele Jahre lang darin gearbeitet, bevor das Feuer kam."


def judged(text: str, most_similar=None, language="en", original=ENGLISH, **gates):
    made = Made("a", 1, text)
    distance = judge(Original("a", original, language), [made], Gates(**gates), most_similar)[0]
    return made, distance


@pytest.mark.parametrize(("text", "reason"), [
    (ENGLISH.replace("old", "ancient"), ""), (" \n", "empty"), (ENGLISH.replace(" ", "\n "), "unchanged"),
    ("The mill.", "too_short"), (ENGLISH * 3, "too_long"), (GERMAN, "other_language"),
    (ENGLISH.replace("fire", "storm"), "")])
def test_reasons(text, reason):
    made, _ = judged(text)
    assert made.reason == reason, made.detail
    assert bool(made.detail) == bool(reason)


def test_copies_count_where_a_method_says_so():
    near = ENGLISH * 2 + " And so it was."
    made, distance = judged(near, most_similar=0.7, original=ENGLISH * 2)
    assert made.reason == "copy"
    assert 0.7 < distance.similarity < 1
    assert judged(near, most_similar=0.99, original=ENGLISH * 2)[0].reason == ""


def test_the_language_of_the_original_is_enough_whatever_the_label_says():
    assert judged(GERMAN, original=GERMAN.replace("alte", "große"), language="en")[0].reason == ""
    assert judged(GERMAN, language="de")[0].reason == ""
    assert judged(GERMAN, language="fr")[0].reason == "other_language"
    made = Made("a", 1, GERMAN)
    judge(Original("a", ENGLISH, "en"), [made], Gates(language=False), None)
    assert made.reason == ""


def test_texts_of_evaluation_sets(tmp_path):
    question = ("Which river runs past the very old mill in the long valley where nobody ever worked again after the "
                "great fire?")
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": question}) + "\n")
    files = [str(tmp_path / "exam.jsonl")]
    made, _ = judged(f"Once they asked: {question}", evaluations=files)
    assert made.reason == "contaminated"
    assert "which river runs past" in made.detail.lower()
    assert judged(ENGLISH.replace("old", "ancient"), evaluations=files)[0].reason == ""
    assert Gates(evaluations=files).fingerprint() != []
    with pytest.raises(UserError):
        Gates(evaluations=["nowhere.jsonl"]).fingerprint()


def test_distances():
    _, distance = judged(ENGLISH)
    assert (distance.similarity, distance.ratio, distance.changed) == (1, 1, 0)
    _, distance = judged("x " * 20, original="y " * 40)
    assert (distance.similarity, distance.ratio, distance.changed) == (0, 0.5, 1)


def test_a_reason_that_is_there_stays():
    made = Made("a", 1, "", "refused", "I cannot")
    judge(Original("a", ENGLISH), [made], Gates(), 0.9)
    assert (made.reason, made.detail) == ("refused", "I cannot")
