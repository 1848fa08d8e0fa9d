"""Questions and answers made from functions (data/python_pairs.py)."""

import ast

from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.python_code import functions
from gristmill.data.python_pairs import COMPLETE, EXPLAIN, complete_pair, explain_pair, shortened, stub
from gristmill.evaluation.python_answers import judge

SOURCE = '''
class Queue:
    def put(self, item, *, block=True) -> None:
        """Put an item into the queue.

        More words.
        """
        with self.lock:
            self.items.append(item)

def quoted():
    "Say \\"hi\\" or \\\\ \\"\\"\\"bye\\"\\"\\""
    return 1 + 1

def bare(x): return x

def long(x):
    """Do much."""
''' + "".join(f"    x = step_{i}(x)\n" for i in range(100)) + "    return x\n"


def by_name():
    return {f.name: f for f in functions(SOURCE)}


def test_a_pair_asks_with_code_and_answers_with_the_documented_line():
    pair = explain_pair(by_name()["put"])
    question = pair.messages[-1]["content"]
    assert [m["role"] for m in pair.messages] == ["user"]
    assert pair.answer == "Put an item into the queue."
    assert "def put(self, item, *, block=True) -> None:\n    with self.lock:" in question
    assert pair.answer not in question
    assert pair == explain_pair(by_name()["put"])


def test_a_body_completes_what_was_asked():
    for name in ("put", "quoted", "long"):
        function = by_name()[name]
        pair = complete_pair(function)
        assert stub(function) in pair.messages[-1]["content"]
        assert judge(stub(function), pair.answer).accepted


def test_quotes_in_a_first_line_leave_the_stub_valid():
    tree = ast.parse(stub(by_name()["quoted"]) + "\n    return 0")
    assert "hi" in ast.get_docstring(tree.body[0])


def test_long_bodies_are_cut_at_a_line_and_marked():
    question = explain_pair(by_name()["long"]).messages[-1]["content"]
    assert len(question) < 700
    assert "\n    ..." in question
    assert "x = step_0(x)\n" in question


@given(st.text(max_size=200), st.integers(10, 100))
def test_shortened_keeps_what_fits_and_never_grows(code, characters):
    short = shortened(code, characters)
    assert len(short) <= max(characters + 8, len(code))
    assert short == code.rstrip() or short.endswith("\n    ...")


def test_all_wordings_are_used_and_hold_the_code_once():
    found = [f for n in range(80) for f in functions(f'def f_{n}(x):\n    """Doc."""\n    return x + {n}')]
    for make, wordings in ((explain_pair, EXPLAIN), (complete_pair, COMPLETE)):
        frames = {make(f).messages[-1]["content"].split("def ")[0] for f in found}
        assert len(frames) == len(wordings)
        assert all(w.count("{code}") == 1 for w in wordings)
