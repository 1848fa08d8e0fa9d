"""Languages of texts and of their paragraphs."""

import gzip
import json

import pytest

from gristmill.data.signals import Batch
from gristmill.data.signals.language import SHORT, SHORTEST, language_paragraphs_v1, language_v1, paragraph_languages
from tests.shared import DATA

ENGLISH = "The committee will meet again in the spring to decide about the new library."
GERMAN = "Der Ausschuss wird im Frühling wieder zusammenkommen, um über die Bibliothek zu entscheiden."
FRENCH = "Le comité se réunira de nouveau au printemps pour décider de la nouvelle bibliothèque."


def test_shares_are_of_characters_of_the_paragraphs_that_can_be_judged():
    text = f"{ENGLISH}\n{ENGLISH}\n{GERMAN}\n\nHome | About\n"
    found = language_paragraphs_v1(text)
    total = 2 * len(ENGLISH) + len(GERMAN)
    assert found["main"] == pytest.approx(2 * len(ENGLISH) / total)
    assert found["languages"] == 2
    assert found["judged"] == pytest.approx(total / (total + len("Home | About")))
    assert paragraph_languages(text) == {"en": found["main"], "de": pytest.approx(1 - found["main"])}


def test_a_language_of_a_tenth_or_less_does_not_count():
    text = "\n".join([ENGLISH] * 20 + [FRENCH])
    assert language_paragraphs_v1(text)["languages"] == 1


@pytest.mark.parametrize("text", ["", "\n\n", "Home\nAbout us\nMore", " ".join(["12345678"] * 6)])
def test_nothing_to_judge_breaks_no_rule(text):
    assert language_paragraphs_v1(text) == {"main": 1, "languages": 0, "judged": 0}


def test_short_paragraphs_count_only_where_the_detector_is_sure():
    import eldc

    doubtful = [line for line in ("Sign in to add a note", "Taxi Manila - Hotel Bar", "Ok Computer: No Surprises",
                                  "Photo: Max Mustermann, Bonn", "Total minor mentor integral")
                if SHORTEST <= len(line) < SHORT and not eldc.detect_details(line).reliable]
    assert doubtful, "no line here is doubtful to the detector any more"
    assert language_paragraphs_v1("\n".join([ENGLISH, *doubtful])) == {
        "main": 1, "languages": 1, "judged": pytest.approx(len(ENGLISH) / len("".join([ENGLISH, *doubtful])))}


def test_a_batch_is_its_texts():
    texts = [ENGLISH, "", f"{GERMAN}\n{FRENCH}"]
    columns = language_paragraphs_v1.columns(Batch(texts))
    for row, text in enumerate(texts):
        assert {name: column[row] for name, column in columns.items()} == language_paragraphs_v1(text)


@pytest.mark.parametrize("language", ["en", "de", "es", "zh"])
def test_paragraphs_of_known_language(language):
    path = DATA / f"qa/xquad_{language}_36articles.json.gz"
    if not path.exists():
        pytest.skip("the shared XQuAD articles are not here")
    with gzip.open(path) as file:
        articles = json.load(file)["data"]
    found = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    assert all(language_v1(text) == language for text in found)
    assert language_paragraphs_v1("\n".join(found)) == {"main": 1, "languages": 1, "judged": pytest.approx(1, abs=0.01)}
