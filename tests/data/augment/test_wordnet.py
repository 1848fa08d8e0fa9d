import gzip
import zipfile
from pathlib import Path

import pytest

from gristmill.core.errors import MachineError, UserError
from gristmill.data.augment import wordnet
from gristmill.data.augment.thesaurus import Thesaurus, from_wordnet
from tests.data.augment import wordnets


@pytest.fixture
def forms(tmp_path):
    """Every form that the same WordNet can have."""
    plain, xml = wordnets.database(tmp_path / "dict"), wordnets.lmf(tmp_path / "tiny.xml")
    (tmp_path / "tiny.xml.gz").write_bytes(gzip.compress(xml.read_bytes()))
    with zipfile.ZipFile(tmp_path / "wordnet.zip", "w") as archive:
        for path in plain.iterdir():
            archive.write(path, f"wordnet/{path.name}")
    return [plain, xml, tmp_path / "tiny.xml.gz", tmp_path / "wordnet.zip"]


def test_all_forms_say_the_same(forms):
    read = [wordnet.read_wordnet(path) for path in forms]
    for one in read:
        assert one.language == "en"
        assert one.synonyms["car", "n"] == [["automobile", "motorcar"]]
        assert one.synonyms["purchase", "v"] == [["buy"]]
        assert one.counts["purchase", "v"] == 9
        assert one.exceptions["n"] == {"children": "child"}
        assert {key: [sorted(sense) for sense in senses] for key, senses in one.synonyms.items()} == {
            key: [sorted(sense) for sense in senses] for key, senses in read[0].synonyms.items()}
    assert not any(" " in word or "_" in word or word[0].isupper() for word, _ in read[0].synonyms)


def test_words_in_the_same_form(tmp_path):
    thesaurus = Thesaurus(from_wordnet(wordnet.read_wordnet(wordnets.database(tmp_path / "dict")), 1))
    assert thesaurus.replacements("car") == ["automobile", "motorcar"]
    assert thesaurus.replacements("cars") == ["automobiles", "motorcars"]
    assert thesaurus.replacements("kids") == ["children"]
    assert thesaurus.replacements("children") == ["kids"]
    assert thesaurus.replacements("explaining") == ["explicating"]
    assert thesaurus.replacements("purchased") == ["bought"]  # a verb nine times of nine
    assert thesaurus.replacements("talked") == []  # spoke or spoken: it cannot be told
    assert thesaurus.replacements("quicker") == ["faster"]
    assert thesaurus.replacements("river") == []


def test_a_word_of_several_parts_of_speech_is_left_alone(tmp_path):
    found = wordnet.read_wordnet(wordnets.database(tmp_path / "dict"))
    found.counts["purchase", "n"] = 8
    assert Thesaurus(from_wordnet(found, 1)).replacements("purchase") == []


def test_other_languages_have_base_forms_only(tmp_path):
    thesaurus = Thesaurus(from_wordnet(wordnet.read_wordnet(wordnets.lmf(tmp_path / "x.xml", "de")), 1))
    assert thesaurus.replacements("car") == ["automobile", "motorcar"]
    assert thesaurus.replacements("cars") == []


def test_what_is_missing_or_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(wordnet, "places", lambda: [tmp_path / "nowhere"])
    with pytest.raises(MachineError, match="no WordNet is installed"):
        wordnet.find(None)
    with pytest.raises(UserError, match="no WordNet here"):
        wordnet.find(str(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "bad.xml").write_text('<LexicalResource><Lexicon language="en"><LexicalEntry></Lexicon>')
    (tmp_path / "bomb.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><Lexicon language="en">&b;</Lexicon>')
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04")
    broken = wordnets.database(tmp_path / "broken")
    (broken / "index.noun").write_text("car n 1 0 1 0 99999999\n")
    for name in ("empty", "note.txt", "bad.xml", "bomb.xml", "cut.zip", "broken"):
        with pytest.raises(UserError):
            wordnet.read_wordnet(tmp_path / name)


def test_where_it_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("WNSEARCHDIR", str(wordnets.database(tmp_path / "dict")))
    assert wordnet.find(None) == tmp_path / "dict"
    monkeypatch.setenv("NLTK_DATA", f"{tmp_path}/a:{tmp_path}/b")
    assert Path(f"{tmp_path}/b/corpora/wordnet.zip") in wordnet.places()
    assert len(wordnet.files(tmp_path / "dict")) == 11
