from collections import Counter

import numpy as np
import pytest

from gristmill.core.errors import UserError
from gristmill.data.augment import wordnet
from gristmill.data.augment.method import Original
from gristmill.data.augment.synonyms import ModelSource, Synonyms, VectorSource, WordNetSource, replaced
from gristmill.data.augment.thesaurus import Thesaurus, WordCounts, add_counts, count_words, from_vectors, from_wordnet
from tests.data.augment import wordnets

TEXT = "A physician saw cars near the town. The large car, a `quick` one, stopped; Car and CAR too, and guests.\n"


@pytest.fixture
def thesaurus(tmp_path):
    return Thesaurus(from_wordnet(wordnet.read_wordnet(wordnets.database(tmp_path / "dict")), 1))


def made(thesaurus, text=TEXT, copy=1, counts=None, language="en", **options):
    return replaced(Original("a", text, language), Synonyms(**{"rate": 0.9, "least_count": 0, **options}), "synonyms",
                    copy, 1, thesaurus, counts or WordCounts(10**9, {}))


def test_words_are_replaced_in_their_form_and_case(thesaurus):
    texts = {made(thesaurus, copy=copy).text for copy in range(1, 10)}
    assert texts == {
        f"A doctor saw {cars} near the burgh. The big {car}, a `quick` one, stopped; Car and {car.upper()} too, and "
        "visitors.\n" for cars in ("automobiles", "motorcars") for car in ("automobile", "motorcar")}


def test_the_article_follows(thesaurus):
    assert "an automobile" in {made(thesaurus, "There was a car here.\n", copy=c).text[10:23] for c in range(1, 20)}
    back = {made(thesaurus, "An old man. There was an automobile.\n", copy=c).text for c in range(1, 20)}
    assert back == {f"An old man. There was a {car}.\n" for car in ("car", "motorcar")}


def test_the_rate_is_a_mean(thesaurus):
    text = " ".join(["car", "doctor", "village", "guest", *["the"] * 16]) + "\n"
    changed = [made(thesaurus, text, copy=copy, rate=0.08).about["replaced"] for copy in range(1, 301)]
    assert set(changed) == {1, 2}
    assert abs(np.mean(changed) - 0.08 * 20) < 0.1


def test_words_of_the_closed_classes_stay():
    known = Thesaurus({"language": "en", "lemmas": False, "words": {"might": ["power"], "mill": ["works"]}})
    assert made(known, "The mill might stand.").text == "The works might stand."
    assert made(known, "Die mill might stehen.", language="de").text == "Die works power stehen."


def test_frequency_limits(thesaurus):
    counts = WordCounts(1000, {"automobile": 1, "doctor": 5, "burgh": 2})
    assert made(thesaurus, "car physician town large", counts=counts, least_count=2).text == "car doctor burgh large"
    assert made(thesaurus, "car physician", counts=WordCounts(100, {"physician": 30}), most_frequent=0.2).text[-9:] == (
        "physician")


def test_vectors_keep_the_ending_and_the_part_of_speech():
    words = ["car", "cars", "auto", "autos", "drive", "river"]
    vectors = np.array([[1, 0, 0], [1, .01, 0], [1, .02, 0], [1, .03, 0], [1, .04, 0], [-5, 0, 1]], np.float32)
    found = from_vectors(words, vectors, 3, 0.6, "", None)["words"]
    assert found["car"] == ["auto", "drive"]
    assert found["cars"] == ["autos"]
    known = wordnet.WordNet("en", {("car", "n"): [], ("drive", "v"): []})
    assert from_vectors(words, vectors, 3, 0.6, "", known)["words"]["car"] == ["auto"]


def test_sources(tmp_path):
    (tmp_path / "v.txt").write_text("car 1 0 0\nauto 1 0.1 0\nriver 0 1 0\nother 0 0 1\n")
    counts = WordCounts(100, {"car": 9, "auto": 3, "river": 2})
    source = VectorSource(path=str(tmp_path / "v.txt"))
    assert Thesaurus(source.thesaurus(counts, None)).replacements("car") == ["auto"]
    before = source.fingerprint()
    (tmp_path / "v.txt").write_text("car 1 0 0\n")
    assert source.fingerprint() != before

    class Model:
        def words(self):
            return ["river", "car", "unmet", "auto"], np.array([[0, 1], [1, 0], [1, 0], [1, .1]], np.float32)

    model = ModelSource(model="base")
    assert Thesaurus(model.thesaurus(counts, lambda name: Model())).replacements("auto") == ["car"]
    with pytest.raises(UserError, match="no token"):
        model.thesaurus(WordCounts(1, {}), lambda name: Model())
    path = wordnets.lmf(tmp_path / "w.xml")
    assert len(WordNetSource(path=str(path)).fingerprint()) == 1
    with pytest.raises(UserError, match="missing"):
        VectorSource(path="nowhere.txt").fingerprint()


def test_counts_are_bounded(monkeypatch):
    monkeypatch.setattr("gristmill.data.augment.thesaurus.MOST_WORDS", 3)
    counts = Counter[str]()
    add_counts(counts, count_words(["One one two two two three four `five` 6"]))
    assert counts == {"two": 3, "one": 2}
