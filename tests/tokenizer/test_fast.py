"""The fast encoder gives the ids of the library, or is not used."""

from __future__ import annotations

import functools
import json
import pickle
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokenizer import fast as fast_module
from gristmill.tokenizer.fast import UNSETTLED, open_fast, split_pattern
from gristmill.tokenizer.splits import CL100K, GPT2, IDENTIFIERS, SINGLE_DIGITS, TRIPLE_DIGITS, split_named
from gristmill.tokenizer.train import Normalization, Plan, train, train_bpe

pytest.importorskip("gigatoken")

SPLITS = ("qwen2", "llama-bpe", "gpt-2", "gpt-4o", "cl100k")
SCRIPTS = "žluťoučký kůň “quoted” 中文文本 日本語テキスト 한국어 العربية हिन्दी ไทย русский 😀👩‍👧 1234567 ½Ⅷ١٢٣ "
ODD = st.sampled_from(list(" \t\n\r'sStTdDlL.,_-/<|>019aAzZéÉ\u00a0\u2028\u3000\u200b\u0301中ก한😀\u200d½Ⅷ١"
                           "\x00\x85\ufeff\u088f\U00011db0"))


@pytest.fixture(scope="module", params=SPLITS)
def both(request, texts):
    """A tokenizer of each split, and its fast encoder."""
    tokenizer = train_bpe([[*texts[:3], SCRIPTS * 20]], vocab_size=1200, split=request.param)
    encoder, name = tokenizer._fast
    assert name == "gigatoken" == tokenizer.engine
    return tokenizer, encoder


def assert_equal(tokenizer, encoder, texts):
    ours, theirs = encoder.encode(texts), tokenizer._encode_slowly(texts)
    assert ours[0].dtype == np.uint32
    assert np.array_equal(ours[1], theirs[1])
    assert np.array_equal(ours[0], theirs[0])


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.one_of(st.text(ODD, max_size=60), st.text(max_size=30, alphabet=st.characters(codec="utf-8"))),
                      max_size=8))
@example(texts=["<|eos|><|user|>", "", " " * 200, "a" * 3000, "ab" * 4000, "\n" * 99, "é" * 500, "中" * 800])
@example(texts=["\u088f\n\n\u088f's", "plain", "\U00011db0A"])
def test_any_text_has_the_ids_of_the_library(both, texts):
    assert_equal(*both, texts)


EVERYWHERE = ("a{0}B", " {0}{0}\n", "{0}\n\n{0}'s 1{0}")


def in_texts(points, form):
    return ["".join(form.format(chr(c)) for c in points[i:i + 256]) for i in range(0, len(points), 256)]


def test_every_character_of_the_commoner_scripts(tokenizer):
    """Up to the Han characters, beside letters, spaces and newlines; 256 characters a text."""
    points = [*range(0x3100), *range(0xA000, 0xAC00), *range(0xFB00, 0x10100)]
    for form in EVERYWHERE:
        assert_equal(tokenizer, tokenizer._fast[0], in_texts(points, form))


@pytest.mark.verify
def test_every_character(both):
    points = [*range(0xD800), *range(0xE000, 0xF900, 97), *range(0xF900, 0x33480), *range(0xE0000, 0xE0200)]
    for form in EVERYWHERE:
        assert_equal(*both, in_texts(points, form))


def test_text_may_be_given_as_utf8_and_batches_are_flat(tokenizer, texts):
    texts = texts[:3]
    assert tokenizer._fast[1] == "gigatoken"
    ids, lengths = tokenizer.encode_flat([text.encode() for text in texts])
    assert lengths.tolist() == [len(tokenizer.encode(text)) for text in texts]
    assert [one.tolist() for one in tokenizer.encode_arrays(texts)] == [tokenizer.encode(text) for text in texts]
    assert len(ids) == lengths.sum()
    assert tokenizer.encode_flat([])[0].shape == (0,)


def test_what_is_no_text_is_refused_as_by_the_library(both):
    tokenizer, _ = both
    for wrong, said in ((["a", "\ud800"], "lone surrogate"), ([3], "no text"), ([b"\xff"], "no UTF-8")):
        with pytest.raises(UserError, match=said):
            tokenizer.encode_flat(wrong)


def test_other_added_tokens_are_found_in_text_and_special_ones_are_not(texts):
    specification = json.loads(train_bpe([texts[:2]], vocab_size=600).specification)
    specification["added_tokens"].append({
        "id": 600, "content": "<tool>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        "special": False})
    tokenizer = type(train_bpe([texts[:2]], vocab_size=600))(json.dumps(specification), {"eos_token": "<|eos|>"})
    encoder = tokenizer._fast[0]
    assert encoder is not None
    found = encoder.encode(["x<tool>y<|eos|>"])[0].tolist()
    assert found == tokenizer.encode("x<tool>y<|eos|>")
    assert 600 in found
    assert tokenizer.eos_id not in found


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(st.one_of(ODD, st.characters(codec="utf-8")), max_size=30), max_size=5))
@example(texts=["e\u0301 é", "\u1100\u1161\u11a8", "\u212b", "plain", "\U00011382\U000113c9"])
def test_normalised_text_has_the_ids_of_the_library(texts):
    tokenizer = normalising()
    assert tokenizer.engine == "gigatoken"
    assert_equal(tokenizer, tokenizer._fast[0], texts)


@functools.cache
def normalising():
    tokenizer = train([["abc def é 각 " * 9]], Plan(vocab_size=270, normalization=Normalization(form="nfc")))
    assert tokenizer._fast[0]._nfc
    return tokenizer


def test_memory_is_bounded_by_opening_a_new_engine(both, monkeypatch):
    tokenizer, encoder = both
    texts = [f"number {n} and {n * 7919 % 1000003} of them" for n in range(60)]
    monkeypatch.setattr(fast_module, "BYTES_PER_ENGINE", 100)

    def engines():
        found = []
        for start in range(0, 60, 10):
            assert_equal(tokenizer, encoder, texts[start:start + 10])
            found.append(encoder._engine)
        return len({id(engine) for engine in found})

    sizes = iter(range(0, 10**6, 1000))
    monkeypatch.setattr(fast_module, "resident_bytes", lambda: next(sizes))
    encoder._growth = encoder._left = 0
    monkeypatch.setattr(fast_module, "GROWTH", 10**5)  # what is remembered stays small
    engines()
    assert engines() == 1
    monkeypatch.setattr(fast_module, "GROWTH", 900)  # every batch grows it by 1,000
    assert engines() == 6


def test_a_tokenizer_with_an_open_engine_can_be_sent_to_another_process(both):
    tokenizer, _ = both
    assert pickle.loads(pickle.dumps(tokenizer)).encode("a text") == tokenizer.encode("a text")


def change(path, value):
    def changed(specification):
        part = specification
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value
        return specification

    return changed


@pytest.mark.parametrize(("changed", "why"), [
    (change(["model", "dropout"], 0.1), "dropout"),
    (change(["model", "byte_fallback"], True), "SentencePiece"),
    (change(["normalizer"], {"type": "Lowercase"}), "normalised"),
    (change(["pre_tokenizer"], None), "splitting"),
    (change(["pre_tokenizer", "pretokenizers", 0, "invert"], True), "splitting"),
    (change(["pre_tokenizer", "pretokenizers", 0, "behavior"], "Removed"), "splitting"),
    (change(["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True), "splitting"),
    (change(["pre_tokenizer", "pretokenizers", 0, "pattern"], {"Regex": r"\w+|\s+"}), "splitting"),
])
def test_what_is_not_known_to_be_equal_is_left_to_the_library(tokenizer, changed, why):
    specification = changed(json.loads(tokenizer.specification))
    encoder, said = open_fast(specification, tokenizer._encode_slowly)
    assert encoder is None
    assert why in said


def test_an_untested_version_or_a_wrong_probe_is_left_to_the_library(tokenizer, monkeypatch):
    specification = json.loads(tokenizer.specification)
    wrong, said = open_fast(specification, lambda texts: (np.zeros(1, np.uint32), np.ones(1, np.int64)))
    assert wrong is None
    assert "other ids" in said
    monkeypatch.setattr(fast_module, "version", lambda name: "0.11.0")
    assert open_fast(specification, tokenizer._encode_slowly) == (
        None, "gigatoken 0.11.0 was not tested here (tested: 0.10.x)")


def test_the_patterns_are_read_from_the_pre_tokenizer():
    known = {"qwen2": SINGLE_DIGITS, "llama-bpe": TRIPLE_DIGITS, "gpt-2": GPT2, "gpt-4o": IDENTIFIERS, "cl100k": CL100K,
             "smollm": None}
    for name, pattern in known.items():
        part = json.loads(split_named(name).__getstate__())
        assert split_pattern(part) == pattern, name


def test_random_bytes_come_back_from_every_byte_level_kind(texts):
    """Any bytes at all: as text with errors replaced, and as byte tokens."""
    rng = random.Random(1)
    noise = [bytes(rng.randrange(256) for _ in range(200)).decode("utf-8", "replace") for _ in range(20)]
    for method in ("bpe", "unigram", "character", "byte"):
        tokenizer = train([texts[:2]], Plan(vocab_size=500, method=method))
        assert tokenizer.losses == []
        for text in [*noise, *fast_module.PROBE]:
            assert tokenizer.decode(tokenizer.encode(text)) == text
            assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


def test_the_unsettled_characters_begin_as_the_search_expects():
    for point in (0x88F, 0xC5C, 0xCDC, 0x1ACF, 0x1AEB, 0xA7CE, 0xA7F1, 0x10940, 0x10EC5, 0x11B60, 0x11DB0, 0x16EA0,
                  0x16FF2, 0x187F8, 0x18D09, 0x18DF2, 0x1E6C0, 0x2B73A, 0x2CEA2, 0x323B0, 0x33479):
        assert UNSETTLED.match(chr(point))
        assert fast_module._unsettled(f"text {chr(point)} text".encode()), hex(point)
    assert not fast_module._unsettled("हिन्दी 한국어 😀 ꟼ".encode())
