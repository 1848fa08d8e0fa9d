"""Filling gaps with encoders, and what encoders cannot do: each door says so in a sentence."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from typer.testing import CliRunner

import gristmill
from gristmill.core.errors import UserError
from gristmill.evaluation.quick import evaluate_model
from gristmill.generation import Engine, LanguageModel
from gristmill.models.saving import save_model
from gristmill.tokenizer import Tokenizer
from tests.models.random_encoders import random_encoder, tiny_config
from tests.models.random_models import random_decoder
from tests.objectives.parallel_text import masking_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("encoder")
    config = tiny_config("bert", vocab_size=640, next_sentence=True)
    save_model(random_encoder(config), made, tokenizer=masking_tokenizer())
    return made


def test_a_gap_is_filled_with_what_the_logits_say(folder):
    lm = gristmill.load(folder)
    tokenizer = lm.tokenizer
    first, second = lm.fill("def <|mask|>(self, <|mask|>=None):", top=3)
    ids = [tokenizer.bos_id, *tokenizer.encode("def "), tokenizer.mask_id, *tokenizer.encode("(self, "),
           tokenizer.mask_id, *tokenizer.encode("=None):"), tokenizer.eos_id]
    places = [place for place, token in enumerate(ids) if token == tokenizer.mask_id]
    expected = lm.model(torch.tensor([ids]))[0, places, :tokenizer.vocab_size].softmax(-1)
    for found, row in zip((first, second), expected, strict=True):
        assert [f.token_id for f in found] == row.topk(3).indices.tolist()
        assert [f.probability for f in found] == pytest.approx(row.topk(3).values.tolist(), rel=1e-5)
        assert found[0].text == tokenizer.decode([found[0].token_id])


def test_a_mask_token_that_takes_the_space_before_it_is_read_as_public_code_reads_it(tmp_path):
    """RoBERTa's <mask> is such a one: "a <mask>" has no token for the space."""
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": 3, "a": 4, "b": 5, "Ġ": 6, "Ġb": 7}
    backend = Backend(models.BPE(vocab, [("Ġ", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<s>", "<pad>", "</s>", AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer = Tokenizer(backend.to_str(), {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
                                             "mask_token": "<mask>"})
    config = tiny_config("roberta", vocab_size=8)
    save_model(random_encoder(config), tmp_path, tokenizer=tokenizer)
    ids = [0, *backend.encode("a <mask> b", add_special_tokens=False).ids, 2]
    assert ids == [0, 4, 3, 7, 2]
    lm = gristmill.load(tmp_path)
    found = lm.fill("a <mask> b", top=1)[0][0]
    assert gristmill.load(tmp_path).tokenizer.encode("a <mask> b", special=True) == [4, 3, 7], "and so it was saved"
    expected = lm.logits(ids)[0, 2].softmax(-1)
    assert found.probability == pytest.approx(float(expected.max()), rel=1e-5)


@pytest.mark.parametrize(("text", "said"), [("def main():", "no gap"), ("", "no gap"),
                                            ("<|mask|>" * 40, "does not fit the context of 32")])
def test_a_text_without_a_gap_or_too_long_is_refused(folder, text, said):
    with pytest.raises(UserError, match=said):
        gristmill.load(folder).fill(text)


def test_only_encoders_fill_and_at_least_one_token_is_asked_for(folder):
    lm = gristmill.load(folder)
    with pytest.raises(UserError, match="top is 0"):
        lm.fill("<|mask|>", top=0)
    decoder = LanguageModel(random_decoder(vocab_size=640), lm.tokenizer)
    with pytest.raises(UserError, match="fills no gaps"):
        decoder.fill("<|mask|>")


def test_padding_on_either_side_changes_no_logit():
    """Positions of a RoBERTa begin after its padding token, also where padding stands on the left."""
    for config in (tiny_config("roberta", vocab_size=640), tiny_config("bert", vocab_size=640)):
        lm = LanguageModel(random_encoder(config), masking_tokenizer())
        ids = torch.randint(3, 600, (1, 6), generator=torch.Generator().manual_seed(0))
        alone = lm.logits(ids)[0]
        pad = torch.full((1, 4), config.pad_id)
        mask = torch.ones(1, 6, dtype=torch.int64)
        none = torch.zeros(1, 4, dtype=torch.int64)
        right = lm.logits(torch.cat([ids, pad], 1), torch.cat([mask, none], 1))[0, :6]
        left = lm.logits(torch.cat([pad, ids], 1), torch.cat([none, mask], 1))[0, 4:]
        torch.testing.assert_close(right, alone, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(left, alone, atol=2e-5, rtol=1e-5)


def test_what_needs_a_decoder_says_so(folder):
    lm = gristmill.load(folder)
    for attempt in (lambda: lm.generate("def main("), lambda: lm.chat([{"role": "user", "content": "?"}]),
                    lambda: Engine(lm.model), lambda: evaluate_model(lm, text="some text")):
        with pytest.raises(UserError, match="is no decoder") as caught:
            attempt()
        assert "fill(TEXT)" in str(caught.value.fix)


@pytest.mark.parametrize("words", [
    ["generate", "MODEL", "--prompt", "x"], ["chat", "MODEL"], ["chat", "MODEL", "--once", "x"],
    ["evaluate", "MODEL", "--text", "TEXT"], ["serve", "MODEL", "--port", "0"],
])
def test_every_command_refuses_an_encoder(folder, tmp_path, words, monkeypatch):
    from gristmill.cli.app import app

    (tmp_path / "text.txt").write_text("some text")
    places = {"MODEL": str(folder), "TEXT": str(tmp_path / "text.txt")}
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [places.get(word, word) for word in words], input="hello\n")
    assert result.exit_code == 2, result.output
    assert "bert) is no decoder" in result.output or "bert is no decoder" in result.output


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused():
    config = dataclasses.replace(tiny_config("bert"), vocab_size=100)
    with pytest.raises(UserError, match="the tokenizer has 600 tokens, the model 100"):
        LanguageModel(random_encoder(config), masking_tokenizer())
