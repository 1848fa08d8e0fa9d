import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from gristmill.core.artifact import Artifact
from gristmill.core.errors import MachineError, UserError
from gristmill.core.hashing import digest_folder
from gristmill.data.augment.counterfactual import Counterfactual, Pronouns, pronouns
from gristmill.data.augment.edits import Edits
from gristmill.data.augment.gates import Gates
from gristmill.data.augment.rewriting import LocalModel, Paraphrase
from gristmill.data.augment.server import Server
from gristmill.data.augment.stage import Augment
from gristmill.data.augment.synonyms import Synonyms, VectorSource, WordNetSource
from gristmill.data.dedup.shingles import ngram_hashes, word_hashes
from gristmill.data.documents import SCHEMA, Document, iterate_documents, row, write_shard
from tests.data.augment import wordnets
from tests.data.augment.chat_server import completion, error, reworded, slowly
from tests.data.augment.corpora import text, write_corpus


def augment(*methods, **options) -> Augment:
    return Augment(corpus="corpus", methods=list(methods), **options)


def documents(folder: Path, split: str = "train") -> dict[str, dict]:
    found = list(iterate_documents(folder, split))
    assert len({one["id"] for one in found}) == len(found)
    return {one["id"]: one for one in found}


def test_a_made_document_says_what_it_is_and_stays_with_its_original(corpus, run):
    folder, metrics = run(augment(Edits(share=0.5, copies=2, combine="all")), corpus)
    before, after = documents(corpus.path), documents(folder)
    made = {id: one for id, one in after.items() if id not in before}
    assert {id: after[id] for id in before} == before
    assert 20 < len(made) < 60
    for id, one in made.items():
        about = one["metadata"]["augmented"]
        original = before[about["of"]]
        assert id == f"{original['id']}#edits-{about['copy']}"
        assert {**one["metadata"], "augmented": None} == {**original["metadata"], "augmented": None}
        assert all(one[key] == original[key] for key in ("source", "domain", "language", "cluster", "split"))
        assert (about["method"], about["kind"], about["version"]) == ("edits", "edits", 1)
        assert one["text"] != original["text"]
        assert original["language"] == "en"
    assert metrics["made"]["documents"] == metrics["by_method"]["edits"] == len(made)
    assert metrics["documents"] == len(after) + 8
    for path in (folder / "documents").glob("*.parquet"):
        assert pq.read_schema(path).equals(SCHEMA)


def test_what_came_in_is_carried_over_byte_for_byte(corpus, run):
    folder, _ = run(augment(Edits()), corpus)
    for path in (corpus.path / "documents").iterdir():
        assert (folder / "documents" / path.name).read_bytes() == path.read_bytes()
    assert not list((folder / "documents").glob("valid-*augmented*"))


@pytest.mark.slow
def test_the_payload_does_not_depend_on_workers_shards_or_interruptions(corpus, run, tmp_path):
    methods = Edits(), Synonyms(source=WordNetSource(path=str(wordnets.database(tmp_path / "dict"))), rate=0.3)
    folder, metrics = run(augment(*methods), corpus)
    for name, workers in (("two", 2), ("again", 1)):
        other, same = run(augment(*methods), corpus, name, workers=workers)
        assert same == metrics
        assert digest_folder(other) == digest_folder(folder)
    assert digest_folder(run(augment(*methods), corpus, "again")[0]) == digest_folder(folder)  # over what is there
    one = write_corpus(tmp_path / "one", shards=1)
    assert documents(run(augment(*methods), one, "one_shard")[0]) == documents(folder)
    assert documents(run(augment(*methods), corpus, "seed", seed=6)[0]) != documents(folder)


def test_what_is_told(corpus, run, tmp_path):
    folder, metrics = run(augment(Edits(), Synonyms(
        source=WordNetSource(path=str(wordnets.lmf(tmp_path / "w.xml"))), rate=0.3)), corpus)
    told, funnel, card = (json.loads((folder / f"{name}.json").read_text()) for name in ("augment", "funnel", "card"))
    edits, synonyms = told["methods"]
    assert (edits["name"], edits["documents_taken"]) == ("edits", 40)
    assert edits["made"]["documents"] + sum(r["documents"] for r in edits["rejected"].values()) == 40
    assert sum(edits["similarity"]["documents"]) == edits["made"]["documents"]
    assert 0.03 < edits["words_changed"]["mean"] < 0.2
    assert 0.8 < edits["length_ratio"]["mean"] < 1.2
    example = edits["examples"][0]
    assert documents(corpus.path)[example["of"]]["text"].startswith(example["original"])
    assert documents(folder)[example["id"]]["text"].startswith(example["made"])
    assert told["share_of_train"] == pytest.approx(
        told["made"]["documents"] / (told["made"]["documents"] + 41), abs=1e-6)
    assert "automobile" not in json.dumps(synonyms["examples"]) or "car" in json.dumps(synonyms["examples"])
    assert funnel["phases"][1]["documents"] == metrics["documents"]
    assert funnel["phases"][0]["documents"] == metrics["documents"] + metrics["rejected"]
    assert funnel["splits"]["train"]["documents"] == 41 + told["made"]["documents"]
    assert set(funnel["leakage_of_made"]["valid"]) == {"shared", "documents_over_half"}
    assert card["documents"] == metrics["documents"]
    assert card["sources"][0]["licenses"] == {"CC0-1.0": metrics["documents"] - 1, "unknown": 1}
    assert card["processing"]["order"] == ["collect", "augment"]
    assert card["limits"][0] == "old"
    from gristmill.data.card import card_text

    assert "augment" in card_text(card)
    rejects = [r for path in (folder / "rejects").iterdir() for r in pq.read_table(path).to_pylist()]
    assert len(rejects) == metrics["rejected"]
    assert Counter(r["reason"] for r in rejects) == {name: c["documents"] for name, c in metrics["reasons"].items()}


def grams(documents: list[dict]) -> list[set[int]]:
    """The long n-grams of each text that are looked at."""
    return [{g for g in ngram_hashes(word_hashes(d["text"]), 13).tolist() if g % 16 == 0} for d in documents]


def test_leakage_is_measured(corpus, run):
    folder, _ = run(augment(Edits(copies=3)), corpus)
    seen = set().union(*grams([d for id, d in documents(folder).items() if "#" in id]))
    told = json.loads((folder / "funnel.json").read_text())["leakage_of_made"]
    for split in ("valid", "test"):
        held_out = grams(list(documents(folder, split).values()))
        shared = sum(len(one & seen) for one in held_out) / sum(map(len, held_out))
        assert told[split] == {"shared": round(shared, 6), "documents_over_half": sum(
            2 * len(one & seen) > len(one) for one in held_out)}
        assert 0 < shared < 1


def test_swapped_documents_bring_she_and_he_to_a_level(tmp_path, run):
    rows = [row(Document(f"d{i}", f"He took his hat {text(i)}", "s", language="en"), split="train") for i in range(30)]
    rows += [row(Document(f"s{i}", f"She left. {text(100 + i, 1)}", "s", language="en"), split="train")
             for i in range(9)]
    write_shard(tmp_path / "c" / "documents" / "train-00000.parquet", rows)
    corpus = Artifact.from_folder(tmp_path / "c", "corpus")
    folder, _ = run(augment(Counterfactual()), corpus)
    told = json.loads((folder / "augment.json").read_text())["methods"][0]["pronouns"]
    counted = Pronouns()
    for one in documents(folder).values():
        counted += pronouns(one["text"])
    assert told["after"] == {"she": counted.she, "he": counted.he}
    before = told["before"]
    assert abs(counted.she - counted.he) <= 2 < abs(before["she"] - before["he"])


def test_a_process_that_runs_twice_does_not_mix_up_what_it_opened(corpus, run, tmp_path):
    found = []
    for group in (("mill", "town"), ("village", "hat"), ("window", "garden")):
        (tmp_path / "v.txt").write_text(f"{group[0]} 1 0.1\n{group[1]} 1 0\nother 0 1\nriver -1 0\n")
        stage = augment(Synonyms(source=VectorSource(path=str(tmp_path / "v.txt"), least_similarity=0), least_count=0,
                                 rate=1, most_frequent=1))
        found.append({d["text"] for id, d in documents(run(stage, corpus)[0]).items() if "#" in id})
    assert found[0].isdisjoint(found[1])
    assert found[1].isdisjoint(found[2])


def test_of_equal_texts_one_stays(tmp_path, run):
    twins = [row(Document(f"d{i}", "alpha beta\n", "s", language="en"), split="train") for i in range(2)]
    swapped = row(Document("held", "beta alpha\n", "s", language="en"), split="valid")
    write_shard(tmp_path / "c" / "documents" / "train-00000.parquet", twins)
    corpus = Artifact.from_folder(tmp_path / "c", "corpus")
    folder, metrics = run(augment(Edits(insertion=0, deletion=0, swap=0.5, copies=9)), corpus)
    assert [d["text"] for id, d in documents(folder).items() if "#" in id] == ["beta alpha\n"]
    assert metrics["reasons"]["duplicate"]["documents"] > 1
    write_shard(tmp_path / "c" / "documents" / "valid-00000.parquet", [swapped])
    with pytest.raises(UserError, match="not one made document stays"):
        run(augment(Edits(insertion=0, deletion=0, swap=0.5, copies=9)), corpus, "leak")


def test_made_documents_are_not_made_anew_and_names_are_not_used_twice(corpus, run):
    folder, _ = run(augment(Edits()), corpus)
    second = Artifact.from_folder(folder, "corpus")
    with pytest.raises(UserError, match="a method 'edits' made"):
        run(augment(Edits()), second, "again")
    folder, metrics = run(augment(Edits(name="more")), second, "named")
    assert metrics["by_method"]["more"] <= 40
    assert not [id for id in documents(folder) if id.count("#") > 1]


def test_gates_are_the_stages(corpus, run):
    _, metrics = run(augment(Edits(insertion=0.5, deletion=0, swap=0), gates=Gates(most_length=1.5)), corpus)
    assert metrics["reasons"]["too_long"]["documents"] > 5


def test_a_server_writes(corpus, run, serve):
    def answer(body):
        words = body["messages"][0]["content"]
        if "amber birch" in words:
            return completion("I'm sorry, but I can't help with that.")
        if "cedar daisy" in words:
            return error(400, "unsafe")
        if "elder fern" in words:
            return completion(words.split("\n\n", 1)[1])
        return reworded(body)

    server = serve(answer)
    method = Paraphrase(writer=Server(base_url=server.url, model="tiny", retries=0), share=0.8)
    folder, metrics = run(augment(method), corpus)
    told = json.loads((folder / "augment.json").read_text())["methods"][0]
    assert {"refused", "copy"} <= set(metrics["reasons"])
    assert told["models"] == {"tiny-1": metrics["made"]["documents"]}
    assert told["asked"]["requests"] == metrics["requests"] == len(server.bodies) == told["documents_taken"]
    assert told["prompts"][0] == method.prompt
    assert told["asked"]["prompt_tokens"] + told["asked"]["completion_tokens"] == metrics["tokens"] > 0
    made = [d for id, d in documents(folder).items() if "#" in id]
    assert {d["metadata"]["augmented"]["model"] for d in made} == {"tiny-1"}
    assert "tiny-1" in json.loads((folder / "card.json").read_text())["limits"][-1]
    assert len({body["seed"] for body in server.bodies}) == len(server.bodies)
    before = len(server.bodies)
    again, _ = run(augment(method), corpus, "again")  # another stage's folder, the same cache
    assert len(server.bodies) == before
    assert digest_folder(again) == digest_folder(folder)
    stricter, _ = run(augment(method, gates=Gates(least_length=0.99, most_length=1.01)), corpus, "stricter")
    assert len(server.bodies) == before
    assert stricter.is_dir()


def test_any_number_of_requests_at_once_gives_the_same_corpus(corpus, run, serve, tmp_path):
    server = serve(slowly(0.02))
    found = []
    for concurrency in (1, 5):
        method = Paraphrase(writer=Server(base_url=server.url, model="tiny", concurrency=concurrency), copies=2,
                            most_requests=50)
        folder, metrics = run(augment(method), corpus, f"c{concurrency}", cache=tmp_path / f"cache{concurrency}")
        found.append(documents(folder))
        assert metrics["requests"] == 50
    assert found[0] == found[1]
    assert server.most_at_once > 1


def test_a_local_model_writes_through_what_the_pipeline_hands_in(corpus, run):
    class Writer:
        name, identity, concurrency, batch = "base", "base", 1, 8

        def write(self, requests):
            from gristmill.core.writer import Answer

            return [Answer(text(request.seed), "stop", 5, 5, "r/base@1") for request in requests]

        def most_prompt_tokens(self, prompt):
            return len(prompt)

    model = Artifact(Path("base"), {"kind": "model", "name": "base", "digest": "d"})
    opened = []

    def open_writer(artifact):
        opened.append(artifact)
        return Writer()

    local = LocalModel(model="base")
    stage = augment(Paraphrase(writer=local), Paraphrase(name="two", writer=local))
    folder, metrics = run(stage, corpus, open_writer=open_writer, inputs={"base": model})
    assert opened == [model]
    assert metrics["by_method"] == {"paraphrase": 40, "two": 40}
    assert {d["metadata"]["augmented"]["model"] for id, d in documents(folder).items() if "#" in id} == {"r/base@1"}


def test_files_from_outside_are_part_of_the_identity(tmp_path, monkeypatch):
    assert augment(Edits()).fingerprint() is None
    (tmp_path / "v.txt").write_text("a 1 2\n")
    stage = augment(Synonyms(source=VectorSource(path=str(tmp_path / "v.txt"))))
    before = stage.fingerprint()
    (tmp_path / "v.txt").write_text("a 1 3\n")
    assert stage.fingerprint() != before
    monkeypatch.setattr("gristmill.data.augment.wordnet.places", list)
    with pytest.raises(MachineError, match="apt-get install wordnet-base"):
        augment(Synonyms()).fingerprint()


@pytest.mark.parametrize(("value", "said"), [
    ({"methods": []}, "at least one method"), ({"methods": [{"kind": "edits"}] * 2}, "two methods are called"),
    ({"methods": [{"kind": "guess"}]}, "kind"), ({"methods": [{"kind": "edits", "rate": 1}]}, "rate"),
    ({"methods": [{"kind": "paraphrase"}]}, "writer"),
    ({"methods": [{"kind": "paraphrase", "writer": {"kind": "local", "model": "m"}, "prompt": "{x}"}]}, "prompt"),
    ({"methods": [{"kind": "edits"}], "gates": {"most_length": 0.5}}, "most_length")])
def test_wrong_settings(value, said):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Augment).validate_python({"corpus": "c", **value})


def test_a_corpus_without_training_documents(tmp_path, run):
    write_shard(tmp_path / "c" / "documents" / "valid-00000.parquet", [row(Document("a", "b", "c"), split="valid")])
    with pytest.raises(UserError, match="no train documents"):
        run(augment(Edits()), Artifact.from_folder(tmp_path / "c", "corpus"))


def test_damaged_shards_are_told(corpus, run):
    (corpus.path / "documents" / "train-00001.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="damaged"):
        run(augment(Edits()), corpus)
