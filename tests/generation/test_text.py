"""Text above the engine: streams that never show too much, completions, and the public names of transformers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.generation import LanguageModel, TextStream
from gristmill.tokenizer import Tokenizer
from tests.models.random_models import random_decoder


def byte_tokenizer() -> Tokenizer:
    """Every byte a token, and a few longer pieces, so that characters and stop strings are cut in many ways."""
    from gristmill.tokenizer.alphabet import BYTE_OF

    letters = sorted(BYTE_OF, key=lambda letter: BYTE_OF[letter])
    vocab = ["<|bos|>", "<|eos|>", *letters, "ab", "abc", "bc", "cab", "Ã¤"]
    merges = ["a b", "ab c", "b c", "c ab", "Ã ¤"]
    return Tokenizer.from_bpe(vocab, merges, split="gpt-2", special=["<|bos|>", "<|eos|>"], bos="<|bos|>",
                              eos="<|eos|>")


TOKENIZER = byte_tokenizer()
WORDS = st.text(alphabet="abcä€😀 ", max_size=4)


def whole(tokens: list[int], stops: list[str]) -> str:
    """Decode everything, then cut where a stop string was complete first."""
    text = TOKENIZER.decode(tokens, skip_special=True)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop and stop in text]
    return text[: min(ends)[1]] if ends else text


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1) | st.sampled_from([99, 100, 101, 258, 259, 260, 261, 262]),
                max_size=25), st.lists(WORDS, max_size=3))
@settings(max_examples=300, deadline=None)
def test_what_was_streamed_is_the_whole_text_and_no_stop_string_was_begun(tokens, stops):
    stream = TextStream(TOKENIZER, stops)
    expected = whole(tokens, stops)
    shown = ""
    for token in tokens:
        delta = stream.push(token)
        shown += delta
        assert expected.startswith(shown)
    shown += stream.flush()
    assert shown == expected
    assert stream.stopped == any(stop and stop in TOKENIZER.decode(tokens, skip_special=True) for stop in stops)


def test_a_beginning_of_a_stop_string_is_held_back_and_given_when_it_was_none():
    a, b, x = (TOKENIZER.encode(letter)[0] for letter in "abx")
    stream = TextStream(TOKENIZER, ["aab"])
    assert [stream.push(a), stream.push(a), stream.push(a)] == ["", "", "a"]
    assert stream.push(x) == "aax"
    assert stream.push(a) == ""
    assert stream.flush() == "a"
    stream = TextStream(TOKENIZER, ["aab"])
    assert [stream.push(t) for t in (a, a, b, x)] == [""] * 4
    assert stream.stopped
    assert stream.flush() == ""


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("model")
    LanguageModel(random_decoder(vocab_size=320), TOKENIZER).save(folder)
    return LanguageModel.open(folder, device="cpu")


def test_a_completion_counts_and_ends(lm):
    done = lm.generate("abc", max_tokens=12, greedy=True, logprobs=2)
    assert done.text == lm.tokenizer.decode(done.token_ids, skip_special=True)
    assert done.completion_tokens == len(done.token_ids) == len(done.logprobs)
    assert done.prompt_tokens == len(lm.tokenizer.encode_prompt("abc"))
    assert all(len(row.top) == 2 and row.top[0][0] == row.token_id for row in done.logprobs)
    assert done.finish_reason == ("stop" if done.token_ids[-1] == lm.tokenizer.eos_id else "length")


def test_several_prompts_equal_single_ones_and_order_is_kept(lm):
    prompts = ["a", "bcab", "", "ä €"]
    together = lm.generate(prompts, max_tokens=10, seed=4)
    assert together == [lm.generate(prompt, max_tokens=10, seed=4) for prompt in prompts]


def test_stop_strings_cut_and_free_the_engine(lm):
    text = lm.generate("abc", max_tokens=20, greedy=True).text
    assert len(text) > 6
    stop = text[3:5]
    done = lm.generate("abc", max_tokens=20, greedy=True, stop=stop)
    assert done.text == text[: text.find(stop)]
    assert done.finish_reason == "stop"
    assert not lm.engine.busy


def test_an_empty_prompt_begins_a_document(lm):
    assert lm.generate("", max_tokens=3, greedy=True).prompt_tokens == 1


def test_special_tokens_in_a_prompt_are_only_text(lm):
    assert lm.generate("<|eos|>", max_tokens=1, greedy=True).prompt_tokens > 2


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"max_tokens": -5}, {"temperature": -1}, {"top_p": 0}])
def test_values_out_of_range_are_refused(lm, options):
    with pytest.raises(UserError):
        lm.generate("a", **options)


def test_a_prompt_longer_than_the_context_is_refused(lm):
    with pytest.raises(UserError, match="no room"):
        lm.generate("x" * 500)
    assert not lm.engine.busy


def test_logits_take_the_arguments_of_transformers(lm, tmp_path):
    transformers = pytest.importorskip("transformers")
    lm.save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(0, 320, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0  # padding on the left of the first row, on the right of the second
    mask[1, 7:] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
    found = lm.logits(ids, attention_mask=mask)
    assert (found - expected)[mask.bool()].abs().max() < 1e-4
    assert torch.equal(lm.logits(ids[0]), lm.logits(ids[:1]))
    with pytest.raises(UserError, match="token ids"):
        lm.logits([[320]])


def test_a_model_smaller_than_its_tokenizer_is_refused():
    with pytest.raises(UserError, match="tokens, the model"):
        LanguageModel(random_decoder(vocab_size=100), TOKENIZER)


def test_unknown_dtype_and_missing_folder(tmp_path):
    with pytest.raises(UserError, match="unknown dtype"):
        LanguageModel.open(tmp_path, dtype="int3")
    with pytest.raises(UserError, match=r"tokenizer.json"):
        LanguageModel.open(tmp_path)
