"""The card of a model that is no decoder tells what it is good for."""

from __future__ import annotations

from gristmill.export.card import Card
from gristmill.export.release import write_release
from gristmill.models.saving import save_model
from tests.export.conftest import finish
from tests.models.random_encoders import random_encoder, tiny_config
from tests.objectives.parallel_text import masking_tokenizer


def test_an_encoder_is_released_with_what_it_can_do(tmp_path):
    folder = tmp_path / "artifacts" / "base@1"
    folder.mkdir(parents=True)
    config = tiny_config("bert", vocab_size=640, next_sentence=True)
    save_model(random_encoder(config), folder, tokenizer=masking_tokenizer())
    source = finish(folder, "model", "toy/base", {}, steps=9)
    (tmp_path / "release").mkdir()
    proof = write_release(source, tmp_path / "release", dtype="float32", card=Card(name="filler"))
    assert set(proof["witnesses"]) >= {"slow reading"}
    card = (tmp_path / "release" / "README.md").read_text()
    for said in ("pipeline_tag: fill-mask", "tags: [gristmill, bert]", "A bert encoder with", "3 / 3",
                 'gristmill.load("filler").fill("... <|mask|> ...")', 'pipeline("fill-mask", "filler")'):
        assert said in card, said
    assert "Code that it writes" not in card
