"""Generation with encoder-decoders: the cached step against the whole model, transformers, sampling, requests side by
side, text with gaps, refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import gristmill
from gristmill.core.errors import UserError
from gristmill.generation import Engine, LanguageModel, Sampling
from gristmill.generation.encoder_decoder import EncoderDecoderEngine, prompt_ids, spans_of
from tests.models.random_encoder_decoders import configs, public_model, random_encoder_decoder, tiny_config
from tests.models.random_models import random_decoder
from tests.objectives.causal_text import full_tokenizer


def without_cache(model, prompt, tokens):
    """Greedy tokens and their log-probabilities, the whole model again for every one."""
    made, logs = [model.config.start_id], []
    with torch.no_grad():
        for _ in range(tokens):
            found = model(torch.tensor([prompt]), torch.tensor([made]))[0, -1].log_softmax(-1)
            made.append(int(found.argmax()))
            logs.append(float(found.max()))
    return made[1:], logs


def prompts_for(config, seed, count=4):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, config.context + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, config.vocab_size, (size,), generator=generator).tolist() for size in sizes]


@given(configs(), st.integers(0, 99))
@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_greedy_tokens_equal_those_of_the_whole_model(config, seed):
    model = random_encoder_decoder(config, seed)
    prompts, tokens = prompts_for(config, seed), min(12, config.context)
    found = EncoderDecoderEngine(model, slots=3).generate(prompts, Sampling(max_tokens=tokens, temperature=0))
    for prompt, output in zip(prompts, found, strict=True):
        wanted, logs = without_cache(model, prompt, tokens)
        assert output.logprobs == pytest.approx(logs, abs=2e-4)
        assert output.tokens == wanted
        assert output.finish == "length"


@pytest.mark.parametrize("changes", [
    {}, {"mlp": "geglu", "tied_head": False, "decoder_layers": 3}, {"family": "mt5"}, {"start_id": 5, "pad_id": 2}])
def test_transformers_writes_the_same_text_from_our_folder(changes, tmp_path):
    pytest.importorskip("transformers")
    tokenizer = full_tokenizer()
    config = tiny_config(vocab_size=tokenizer.vocab_size, **changes)
    LanguageModel(random_encoder_decoder(config, 3), tokenizer).save(tmp_path)
    lm, public = gristmill.load(tmp_path), public_model(tmp_path)
    for text in ("def main(<extra_id_0>):\n    return <extra_id_1>", "import os", ""):
        ids = prompt_ids(lm.tokenizer, text)
        # Its cache has as many layers as the encoder: a deeper decoder fails in it.
        greedy = public.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False,
                                 use_cache=config.decoder_layers <= config.layers)[0].tolist()
        assert greedy[0] == config.start_id
        ours = lm.generate(text, max_tokens=20, greedy=True)
        assert ours.token_ids == greedy[1:]
        assert ours.text == lm.tokenizer.decode(greedy[1:], skip_special=True)
        assert ours.prompt_tokens == len(ids)


def test_a_request_does_not_depend_on_those_beside_it_nor_on_when_it_came():
    config = tiny_config()
    model = random_encoder_decoder(config, 1)
    prompts = prompts_for(config, 5, 11)
    one = Sampling(max_tokens=9, temperature=0.9, seed=4)
    many = [Sampling(max_tokens=3 + i % 7, temperature=0.9, seed=4) for i in range(11)]
    together = EncoderDecoderEngine(model, slots=4).generate(prompts, many)
    engine = EncoderDecoderEngine(model, slots=4)
    for prompt, sampling, output in zip(prompts, many, together, strict=True):
        alone = engine.generate([prompt], one)[0]
        assert output.tokens == alone.tokens[:sampling.max_tokens]
        assert output.logprobs == pytest.approx(alone.logprobs[:sampling.max_tokens], abs=1e-5)


def test_sampling_follows_the_distribution():
    model = random_encoder_decoder(tiny_config(vocab_size=6, dim=12), 2)
    prompt = [3, 1, 4]
    wanted = model(torch.tensor([prompt]), torch.tensor([[0]]))[0, -1].softmax(-1)
    engine, draws = EncoderDecoderEngine(model, slots=64), 1500
    found = engine.generate([prompt] * draws, [Sampling(max_tokens=1, seed=i) for i in range(draws)])
    counts = torch.bincount(torch.tensor([output.tokens[0] for output in found]), minlength=6)
    spread = (wanted * (1 - wanted) / draws).sqrt()
    assert ((counts / draws - wanted).abs() <= 4 * spread + 1e-3).all()


def test_an_answer_ends_at_a_stop_token_and_a_penalty_counts_what_was_written():
    config = tiny_config()
    model = random_encoder_decoder(config, 4)
    prompt = [7, 8, 9]
    greedy = without_cache(model, prompt, 8)[0]
    engine = EncoderDecoderEngine(model)
    stopped = engine.generate([prompt], Sampling(max_tokens=8, temperature=0, stop_ids=(greedy[2],)))[0]
    first = greedy.index(greedy[2])
    assert (stopped.tokens, stopped.finish) == (greedy[:first + 1], "stop")
    once = engine.generate([prompt], Sampling(max_tokens=8, temperature=0, repetition_penalty=1e9))[0]
    assert len(set(once.tokens)) == 8
    assert once.tokens[0] == greedy[0] or greedy[0] == config.start_id


def test_new_weights_are_used_once_nothing_runs():
    model = random_encoder_decoder(tiny_config(), 1)
    engine = EncoderDecoderEngine(model)
    before = engine.generate([[1, 2]], Sampling(max_tokens=6, temperature=0))[0].tokens
    engine.load_weights(random_encoder_decoder(tiny_config(), 2).state_dict(), 1)
    after = engine.generate([[1, 2]], Sampling(max_tokens=6, temperature=0))[0].tokens
    assert after == without_cache(model, [1, 2], 6)[0] != before


def test_bfloat16_generates():
    model = random_encoder_decoder(tiny_config(), 1).bfloat16()
    assert len(EncoderDecoderEngine(model).generate([[1, 2]], Sampling(max_tokens=5))[0].tokens) == 5


def test_only_sentinels_of_a_prompt_are_special():
    tokenizer = full_tokenizer()
    first, second = tokenizer.sentinel_ids[:2]
    end = tokenizer.eos_id
    assert prompt_ids(tokenizer, "") == [end]
    assert prompt_ids(tokenizer, "a<extra_id_0>") == [*tokenizer.encode("a"), first, end]
    assert prompt_ids(tokenizer, "a  <extra_id_0> b") == [*tokenizer.encode("a "), first, *tokenizer.encode(" b"), end]
    ids = prompt_ids(tokenizer, "a <|eos|> <extra_id_1> b <extra_id_99>")
    unknown = tokenizer.encode("<extra_id_99>")
    assert ids == [*tokenizer.encode("a <|eos|>"), second, *tokenizer.encode(" b "), *unknown, end]
    assert end not in ids[:-1]


def test_spans_are_told_apart():
    tokenizer = full_tokenizer()
    first, second, third = tokenizer.sentinel_ids[:3]
    word, other = tokenizer.encode(" import"), tokenizer.encode(" os")
    assert spans_of(tokenizer, [first, *word, third, *other, tokenizer.eos_id, second]) == [" import", "", " os"]
    assert spans_of(tokenizer, [*word, tokenizer.eos_id]) == []
    model = random_encoder_decoder(tiny_config(vocab_size=tokenizer.vocab_size), 3)
    lm = LanguageModel(model, tokenizer)
    found = lm.fill_spans("x = <extra_id_0>", max_tokens=9)
    assert found == spans_of(tokenizer, lm.generate("x = <extra_id_0>", max_tokens=9, greedy=True).token_ids)


def test_logits_of_a_second_text():
    tokenizer = full_tokenizer()
    model = random_encoder_decoder(tiny_config(vocab_size=tokenizer.vocab_size), 3)
    lm = LanguageModel(model, tokenizer)
    read, written = [5, 6, 7], [0, 9, 10]
    wanted = model(torch.tensor([read]), torch.tensor([written]))
    assert torch.equal(lm.logits(read, decoder_input_ids=written), wanted)
    padded = lm.logits([[0, *read]], attention_mask=[[0, 1, 1, 1]], decoder_input_ids=[written])
    torch.testing.assert_close(padded, wanted, atol=2e-5, rtol=1e-5)
    with pytest.raises(UserError, match="need decoder_input_ids"):
        lm.logits(read)


def test_what_does_not_fit_is_refused():
    config = tiny_config(context=8)
    model = random_encoder_decoder(config)
    engine = EncoderDecoderEngine(model)
    assert len(engine.generate([[1] * 8], Sampling(max_tokens=100, temperature=0))[0].tokens) == 8
    with pytest.raises(UserError, match="9 tokens, which leaves no room"):
        engine.submit([1] * 9)
    with pytest.raises(UserError, match="prompt is empty"):
        engine.submit([])
    with pytest.raises(UserError, match="outside the vocabulary"):
        engine.submit([61])
    with pytest.raises(UserError, match="no probability of a text alone"):
        engine.score([[1, 2]])
    with pytest.raises(UserError, match="llama is no encoder-decoder"):
        EncoderDecoderEngine(random_decoder())
    with pytest.raises(UserError, match="t5 is no decoder"):
        Engine(model)
    with pytest.raises(UserError, match="no encoder-decoder"):
        LanguageModel(random_decoder(vocab_size=700), full_tokenizer()).fill_spans("x <extra_id_0>")
    lm = LanguageModel(random_encoder_decoder(tiny_config(vocab_size=full_tokenizer().vocab_size)), full_tokenizer())
    for refused in (lambda: lm.engine, lambda: lm.chat([{"role": "user", "content": "?"}])):
        with pytest.raises(UserError, match="no decoder") as error:
            refused()
        assert "generate(TEXT)" in error.value.fix
    with pytest.raises(UserError, match="at least one slot"):
        EncoderDecoderEngine(model, slots=0)
