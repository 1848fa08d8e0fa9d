"""What the section on data says of repeats, shares and made documents."""

from gristmill.pipeline.report.corpus import SHARES, _augmented, _repeats, _shares


def test_shares_are_of_the_text_and_the_rest_is_summed() -> None:
    languages = {f"l{n}": {"documents": n, "bytes": 100 * n} for n in range(1, SHARES + 4)}
    funnel = {"languages": languages, "domains": {"one": {"documents": 1, "bytes": 5}}}
    phases = [{"sources": {"a": {"documents": 3, "bytes": 1}, "b": {"documents": 1, "bytes": 3}}}]
    found = dict(_shares(funnel, phases))
    assert list(found) == ["Languages", "Sources"]  # of one domain there is nothing to say
    assert [name for name, *_ in found["Sources"]] == ["b", "a"]
    assert [share for _, share, _ in found["Sources"]] == [75.0, 25.0]
    rows = found["Languages"]
    assert len(rows) == SHARES
    assert rows[-1][0] == "others"
    assert abs(sum(share for _, share, _ in rows) - 100) < 0.1
    assert _shares({}, []) == []


def test_repeats_show_what_went_most_often() -> None:
    found = _repeats({
        "sources": {"web": {"documents": 2, "lines": 3, "words": 60, "bytes": 400}},
        "examples": {"web": {"lines": [["Home News", 1200]], "stretches": [{"id": "web/1", "text": "a b c"}]}}})
    assert found == [{"source": "web", "documents": 2, "lines": 3, "words": 60, "bytes": 400,
                      "examples": ["1,200 ×: Home News", "a b c"]}]
    assert _repeats({}) == []


def test_made_documents_stand_beside_their_originals() -> None:
    method = {
        "name": "counterfactual", "documents_taken": 5, "made": {"documents": 4, "bytes": 900},
        "rejected": {"same": {"documents": 1, "bytes": 9}},
        "similarity": {"median": 0.6}, "pronouns": {"before": {"she": 1, "he": 2000}, "after": {"she": 9, "he": 10}},
        "examples": [{"of": "x/1", "original": "then he went", "made": "then she went", "reason": ""},
                     {"of": "x/2", "original": "a", "made": "a", "reason": "same"}]}
    [found] = _augmented({"methods": [method]})
    assert found["pairs"] == [("x/1", "then he went", "then she went")]
    assert found["rejected"] == [("same", 1)]
    assert found["pronouns"] == ["before: she 1, he 2,000", "after: she 9, he 10"]
    assert _augmented({}) == []
