"""What is hidden: how much, in which units, what takes its place; and that a seed decides it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from gristmill.objectives.masking import Masking, Vocabulary, hide
from gristmill.tokenizer import Tokenizer
from tests.objectives.parallel_text import masking_tokenizer

TEXT = ("def parse_args(self, args=None): # the naïve façade of 1,234 things — don't split übergrößen!\n"
        "    return self.namespace2 or [x.value for x in reversed(arguments)]\n") * 3


@pytest.fixture(scope="module")
def tokenizer():
    return masking_tokenizer()


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return Vocabulary.of(tokenizer, tokenizer.mask_id)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def row(tokenizer, text=TEXT):
    ids = np.array([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id])
    return ids, np.zeros(len(ids), dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**40), unit=st.sampled_from(["token", "word", "span"]), share=st.floats(0.01, 1.0),
       masked=st.sampled_from([0.0, 0.8, 1.0]), length=st.integers(0, 120), padding=st.integers(0, 9))
def test_only_ordinary_tokens_are_hidden_and_targets_say_what_stood_there(
        tokenizer, vocabulary, seed, unit, share, masked, length, padding):
    ids = rng(seed).integers(0, tokenizer.vocab_size, length + padding)
    documents = np.where(np.arange(length + padding) < length, np.arange(length + padding) // 17, -1)
    masking = Masking(share=share, unit=unit, masked=masked, random=0.0)
    inputs, targets = hide(masking, vocabulary, ids, documents, rng(seed + 1))
    hidden = targets != -100
    assert not hidden[documents < 0].any()
    assert not np.isin(ids[hidden], sorted(tokenizer.special_ids)).any()
    assert (targets[hidden] == ids[hidden]).all()
    assert (inputs[~hidden] == ids[~hidden]).all()
    able = (documents >= 0) & ~np.isin(ids, sorted(tokenizer.special_ids))
    if able.any():
        assert hidden.sum() >= 1
        if unit == "token":
            assert hidden.sum() == max(1, round(share * able.sum()))
    else:
        assert not hidden.any()
    wanted = tokenizer.mask_id if masked == 1.0 else None
    if wanted is not None:
        assert (inputs[hidden] == wanted).all()
    if masked == 0.0:
        assert (inputs == ids).all()


def test_everything_can_be_hidden_and_a_single_token_is(tokenizer, vocabulary):
    ids, documents = row(tokenizer)
    for unit in ("token", "word", "span"):
        inputs, targets = hide(Masking(share=1.0, masked=1.0, random=0.0, unit=unit), vocabulary, ids, documents, rng())
        assert (inputs[1:-1] == tokenizer.mask_id).all()
        assert (targets[1:-1] == ids[1:-1]).all()
        one, target = hide(Masking(unit=unit, masked=1.0, random=0.0), vocabulary, ids[:2], documents[:2], rng())
        assert one.tolist() == [tokenizer.bos_id, tokenizer.mask_id]
        assert target.tolist() == [-100, ids[1]]
    for ids in (np.array([], dtype=np.int64), np.array([tokenizer.bos_id, tokenizer.eos_id])):
        inputs, targets = hide(Masking(), vocabulary, ids, np.zeros(len(ids), dtype=np.int64), rng())
        assert inputs.tolist() == ids.tolist()
        assert (targets == -100).all()


def test_of_the_hidden_tokens_80_in_100_are_masked_10_are_others_and_10_stay(tokenizer, vocabulary):
    ids = np.tile(vocabulary.ordinary, 20)
    documents = np.zeros(len(ids), dtype=np.int64)
    inputs, targets = hide(Masking(), vocabulary, ids, documents, rng(5))
    hidden = targets != -100
    count = hidden.sum()
    assert count == round(0.15 * len(ids))
    masked = (inputs[hidden] == tokenizer.mask_id).mean()
    stayed = (inputs[hidden] == ids[hidden]).mean()
    # 1,700 draws: three standard deviations are 0.03 and 0.022.
    assert abs(masked - 0.8) < 0.03
    assert abs(stayed - 0.1) < 0.025
    others = inputs[hidden & (inputs != ids) & (inputs != tokenizer.mask_id)]
    assert len(np.unique(others)) > 100, "replacements come from the whole vocabulary"
    assert not np.isin(others, sorted(tokenizer.special_ids)).any()
    every = np.flatnonzero(hidden)
    assert abs(every.mean() / len(ids) - 0.5) < 0.02, "and from the whole row"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), unit=st.sampled_from(["word", "span"]))
def test_no_word_is_hidden_in_part(tokenizer, vocabulary, seed, unit):
    """Words are runs of letters and digits of the text itself, whatever pieces a byte-level BPE cuts them into."""
    ids, documents = row(tokenizer)
    _, targets = hide(Masking(unit=unit), vocabulary, ids, documents, rng(seed))
    owner: list[int] = []
    data = b""
    for place, token in enumerate(ids.tolist()):
        piece = tokenizer.token_bytes(token)
        owner += [place] * len(piece)
        data += piece
    assert data == TEXT.encode()
    several = 0
    for word in re.finditer(rb"[0-9A-Za-z\x80-\xff]+", data):
        places = {owner[i] for i in range(word.start(), word.end())}
        hidden = {bool(targets[place] != -100) for place in places}
        assert len(hidden) == 1, word[0]
        several += len(places) > 1
    assert several > 20, "or no word had more than one piece"
    wanted = round(0.15 * (len(ids) - 2))
    assert 0.5 * wanted <= (targets != -100).sum() <= wanted


def test_spans_have_the_lengths_of_a_clipped_geometric_distribution(vocabulary, tokenizer):
    """Space-parted numbers of one token each: every other token is a space-led word, so spans can be counted."""
    word = tokenizer.encode(" a")
    assert len(word) == 1
    ids = np.array(word * 4000)
    documents = np.zeros(len(ids), dtype=np.int64)
    lengths = []
    for seed in range(12):
        _, targets = hide(Masking(unit="span", share=0.02), vocabulary, ids, documents, rng(seed))
        edges = np.flatnonzero(np.diff(np.pad((targets != -100).astype(int), 1)))
        lengths += (edges[1::2] - edges[::2]).tolist()
    expected = 0.2 * 0.8 ** np.arange(10)
    mean = float((np.arange(1, 11) * expected).sum() / expected.sum())
    assert mean == pytest.approx(3.797, abs=0.01)
    assert max(lengths) >= 9
    assert abs(np.mean(lengths) - mean) < 0.5, np.mean(lengths)


def test_all_of_a_span_has_the_same_fate(vocabulary, tokenizer):
    ids = np.array(tokenizer.encode(" a") * 2000)
    documents = np.zeros(len(ids), dtype=np.int64)
    inputs, targets = hide(Masking(unit="span", share=0.1, masked=0.5, random=0.0), vocabulary, ids, documents, rng(1))
    edges = np.flatnonzero(np.diff(np.pad((targets != -100).astype(int), 1)))
    whole = [len(set(inputs[a:b].tolist())) == 1 for a, b in zip(edges[::2], edges[1::2], strict=True)]
    assert np.mean(whole) > 0.8, "only spans that happen to touch differ"
    fates = {int(inputs[a]) for a in edges[::2]}
    assert fates == {tokenizer.mask_id, int(ids[0])}


def test_words_do_not_run_across_documents(vocabulary, tokenizer):
    ids = np.array(tokenizer.encode("abcdefg") * 2)
    half = len(ids) // 2
    documents = np.repeat([0, 1], half)
    assert not vocabulary.word_starts(ids)[half]
    assert vocabulary.word_starts(ids, documents)[half]


def test_a_wordpiece_vocabulary_says_itself_where_words_go_on():
    vocab = {"[UNK]": 0, "[MASK]": 1, "play": 2, "##ing": 3, "##ed": 4, "the": 5, "game": 6, "[SEP]": 7, ".": 8}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = Tokenizer(backend.to_str(), {"mask_token": "[MASK]", "eos_token": "[SEP]", "unk_token": "[UNK]"})
    vocabulary = Vocabulary.of(tokenizer, 1)
    ids = np.array(tokenizer.encode("playing the game played."))
    assert ids.tolist() == [2, 3, 5, 6, 2, 4, 8]
    assert vocabulary.word_starts(ids).tolist() == [True, False, True, True, True, False, True]


@pytest.mark.parametrize(("fields", "name"), [
    ({"share": 0.0}, "share"), ({"share": 1.1}, "share"), ({"masked": 0.8, "random": 0.3}, "random"),
    ({"span_p": 1.0}, "span_p"), ({"span_longest": 0}, "span_longest"), ({"copies": 0}, "copies"),
])
def test_impossible_options_are_refused_by_name(fields, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        Masking(**fields)
