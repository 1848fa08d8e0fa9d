import pytest

from gristmill.core.writer import Answer
from gristmill.data.augment.answers import problem, text_of


@pytest.mark.parametrize(("answer", "text"), [
    ("  A text.\n", "A text."), ("<think>Hm.\n\nSo.</think>\nA text.", "A text."),
    ("Here is the paraphrase:\n\nA text.", "A text."), ("Sure, here's the text in German:\nA text.", "A text."),
    ("```\nA text.\n```", "A text."), ("```python\nx\n```\nand\n```\ny\n```", "```python\nx\n```\nand\n```\ny\n```"),
    ("Here is where we live. It is: nice.", "Here is where we live. It is: nice."),
    ("Sure: it was so.", "Sure: it was so.")])
def test_the_text_of_an_answer(answer, text):
    assert text_of(answer) == text


@pytest.mark.parametrize(("answer", "reason"), [
    (Answer("A text.", "stop"), None), (Answer("A te", "length", 3, 9), "cut_off"), (Answer("", "stop"), "empty"),
    (Answer("<think>x</think>", "stop"), "empty"), (Answer("", "refused", detail="filter"), "refused"),
    (Answer("", "failed", detail="HTTP 500"), "no_answer"), (Answer("", "does_not_fit"), "does_not_fit"),
    (Answer("I'm sorry, but I can't do that.", "stop"), "refused"),
    (Answer("I cannot assist with this.", "stop"), "refused"),
    (Answer("As an AI language model, I", "stop"), "refused"),
    (Answer("I am sorry, but I cannot", "stop"), "refused"), (Answer("I cannot say that I liked it.", "stop"), None)])
def test_answers_without_a_text(answer, reason):
    found = problem(answer, "An original.")
    assert (found[0] if found else None) == reason


def test_a_refusal_in_the_original_may_come_back():
    assert problem(Answer("I’m sorry, but we are closed.", "stop"), "I'm sorry, but we have closed.") is None
