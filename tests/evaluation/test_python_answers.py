"""Reading answers: what is accepted, what is trivial, where a body ends."""

import pytest

from gristmill.evaluation.python_answers import end_of_body, first_line, judge, token_f1

SIGNATURE = "def f(x):"


@pytest.mark.parametrize(("answer", "accepted", "trivial"), [
    ("    return x + 1", True, False),
    ("    pass", True, True),
    ("    ...", True, True),
    ("    return", True, True),
    ("    return None", True, True),
    ("    raise NotImplementedError('later')", True, True),
    ('    """Only words."""', True, True),
    ("    raise ValueError(x)", True, False),
    ("    pass\n    return x", True, False),
    ("    return (x", False, False),
    ("return x", False, False),
    ("", False, False),
    ("    return x\n\ndef g(): pass", False, False),
    ("def f(x):\n    return x * 2", True, False),
    ("Sure!\n```python\ndef f(x):\n    return x\n```\nHope it helps", True, False),
    ("    return x + '\\d'", True, False),
    ("    x = '\0'", False, False),
    ("    " + "(" * 500 + ")" * 500, False, False),
])
def test_verdicts(answer, accepted, trivial):
    verdict = judge(SIGNATURE, answer)
    assert (verdict.accepted, verdict.trivial) == (accepted, trivial)
    assert bool(verdict.reason) != accepted


@pytest.mark.parametrize(("text", "body", "ended"), [
    ("    return x\n\ndef g():\n    pass", "    return x\n", True),
    ("    return x\n", "    return x\n", False),
    ("    y = [\n1,\n]\n    return y", "    y = [", True),
    ("    y = f(\n)\n    return y\n@", "    y = f(\n)\n    return y", True),
    ("    return x\n# a remark\n", "    return x\n# a remark\n", False),
    ("\n\nclass A:", "\n", True),
    ("def g(): pass", "", True),
])
def test_a_body_ends_where_the_margin_is_reached(text, body, ended):
    assert end_of_body(text) == (body, ended)


def test_token_f1_by_hand():
    assert token_f1("Return the sum of x.", "return the SUM of y") == pytest.approx(0.8)
    assert token_f1("a a a", "a") == pytest.approx(0.5)
    assert (token_f1("", "!"), token_f1("", "a")) == (1.0, 0.0)


def test_first_line():
    assert first_line("\n  \n Say it. \nmore") == "Say it."
