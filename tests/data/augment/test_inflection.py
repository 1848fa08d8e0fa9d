import pytest

from gristmill.data.augment.inflection import Exceptions, bases, inflected

IRREGULAR = Exceptions({"n": {"children": "child", "men": "man"}, "v": {"ran": "run", "went": "go", "gone": "go"},
                        "a": {"better": "good"}})


@pytest.mark.parametrize(("base", "part", "form", "wanted"), [
    ("car", "n", "s", "cars"), ("city", "n", "s", "cities"), ("boy", "n", "s", "boys"),
    ("church", "n", "s", "churches"), ("box", "n", "s", "boxes"), ("child", "n", "s", "children"),
    ("stop", "v", "ed", "stopped"),
    ("stop", "v", "ing", "stopping"), ("like", "v", "ed", "liked"), ("like", "v", "ing", "liking"),
    ("lie", "v", "ing", "lying"), ("see", "v", "ing", "seeing"), ("carry", "v", "ed", "carried"),
    ("carry", "v", "ing", "carrying"), ("play", "v", "ed", "played"), ("open", "v", "ed", "opened"),
    ("wait", "v", "ed", "waited"), ("run", "v", "ed", "ran"), ("go", "v", "ed", None), ("big", "a", "er", "bigger"),
    ("large", "a", "est", "largest"), ("happy", "a", "er", "happier"), ("good", "a", "er", "better"),
    ("beautiful", "a", "er", None), ("fix", "v", "ed", "fixed"), ("car", "n", "base", "car")])
def test_forms(base, part, form, wanted):
    assert inflected(base, part, form, IRREGULAR) == wanted
    if wanted is not None:
        assert (base, part, form) in list(bases(wanted, {base: 1}, IRREGULAR))


def test_a_word_may_be_read_in_several_ways():
    known = {"leave": 1, "leaf": 1, "leaves": 1}
    assert {(base, form) for base, _, form in bases("leaves", known, Exceptions())} == {
        ("leave", "s"), ("leaves", "base")}
    assert list(bases("xyzs", known, Exceptions())) == []
