"""Words that tell labels apart."""

import math

import pytest

from gristmill.data.classifier.words import PRIOR, WordCounts, entries_of, learned_list, log_odds
from gristmill.data.signals import bad_words_v1


def counted(bad, good, longest=1):
    counts = WordCounts(("bad",), longest)
    counts.add([*bad, *good], [("bad",)] * len(bad) + [()] * len(good))
    return counts


def test_z_scores_by_hand():
    """Monroe et al. (2008), eq. 15, 19 and 22, written out."""
    found = {entry: z for entry, z, _, _ in log_odds(counted(["x y", "x"], ["y z", "y"]), "bad", least=1)}
    every = {"x": 2, "y": 3, "z": 1}
    mine = {"x": 2, "y": 1, "z": 0}
    for word, count in every.items():
        prior = PRIOR * count / 6
        a, b = mine[word] + prior, count - mine[word] + prior
        odds = math.log(a / (3 + PRIOR - a)) - math.log(b / (3 + PRIOR - b))
        assert found[word] == pytest.approx(odds / math.sqrt(1 / a + 1 / b))
    assert found["x"] > 0 > found["z"]


def test_a_text_counts_once_however_often_it_says_a_word():
    once, often = counted(["x"] * 5, ["y"] * 5), counted(["x " * 50] * 5, ["y"] * 5)
    assert log_odds(once, "bad") == log_odds(often, "bad")


def test_rows_of_words():
    assert list(entries_of(["Du bist, DU!", ""], 2)) == [{"du", "bist", "du bist", "bist du"}, set()]


def test_a_learned_list_is_ready_for_the_rule_over_bad_words():
    bad = [f"you vile person {n} go away" for n in range(30)]
    good = [f"a kind person {n} came by and did not go away" for n in range(60)]
    found = [entry for entry, *_ in learned_list(counted(bad, good, 2), "bad", least=5)]
    assert {"vile", "you", "vile person"} <= set(found)
    assert not {"person", "go", "away"} & set(found)
    signal = bad_words_v1(found)
    assert signal("What a VILE person.")["entries"] >= 2
    assert signal("A kind person went away.")["entries"] == 0


def test_entries_must_be_frequent_precise_and_significant():
    bad, good = ["rare common"] * 3 + ["common"] * 20, ["common other"] * 40
    counts = counted(bad, good)
    assert [entry for entry, *_ in learned_list(counts, "bad", least=5)] == []
    assert learned_list(counts, "bad", least=1, precision=0.9)[:1] == [] or learned_list(
        counts, "bad", least=1, precision=0.9)[0][0] == "rare"
