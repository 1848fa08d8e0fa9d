import pytest

from gristmill.data.augment.counterfactual import Counterfactual, Pronouns, balanced, pronouns
from gristmill.data.augment.method import Original


def test_pronouns():
    assert pronouns("She took her hat; HE himself, his. The hero, shell, heroine.") == Pronouns(2, 3)


def test_only_the_side_that_is_ahead_is_taken_until_the_counts_are_level():
    documents = [(f"d{i}", 0, 1 + i % 3) for i in range(200)] + [(f"s{i}", 2, 0) for i in range(30)]
    total = Pronouns(60, sum(he for _, _, he in documents))
    chosen = balanced(documents, total, "counterfactual", 7)
    moved = sum(he for name, _, he in documents if name in chosen)
    assert all(name.startswith("d") for name in chosen)
    assert total.she + moved == total.he + 0  # swapped copies bring `moved` times she, and no he
    assert chosen == balanced(documents[::-1], total, "counterfactual", 7)
    assert chosen != balanced(documents, total, "counterfactual", 8)


def test_level_counts_and_the_other_side():
    assert balanced([("a", 3, 0), ("b", 0, 3)], Pronouns(3, 3), "c", 1) == set()
    assert balanced([("a", 3, 0), ("b", 0, 1)], Pronouns(3, 1), "c", 1) == set()  # 3 would carry it beyond
    assert balanced([("a", 2, 0), ("b", 0, 1)], Pronouns(3, 1), "c", 1) == {"a"}


def test_one_swap_a_document():
    with pytest.raises(ValueError, match="copies"):
        Counterfactual(copies=2)
    with pytest.raises(ValueError, match="English"):
        Counterfactual(languages=["de"])


def test_swapping():
    pytest.importorskip("gristmill.data.counterfactual", reason="the swapping of words is not there yet")
    from gristmill.data.augment.counterfactual import swapped

    made = swapped(Original("a", "He said that he saw his brother."), 1)
    assert made.about["he"][0] == 3
    assert made.about["she"][1] >= 2
    assert made.text != "He said that he saw his brother."
