"""The n-gram model against the slow one, value by value; and that its probabilities are probabilities."""

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.ngram import counts as counting
from gristmill.data.ngram.model import NgramModel
from gristmill.data.ngram.smoothing import discounts
from gristmill.data.ngram.table import HashTable
from gristmill.data.ngram.tokens import BEGIN, rows_of
from gristmill.data.ngram.training import train
from tests.data.ngram.kneser_ney import KneserNey

LETTERS = "abcdefgh"


def rows_drawn(seed, rows=30, longest=25):
    chosen = random.Random(seed)
    return [[chosen.choice(LETTERS[: chosen.choice([3, 8])]) for _ in range(chosen.randrange(longest))]
            for _ in range(rows)]


def model_of(rows, order, scratch, *, unit="word", min_count=1, keep_count=1):
    joined = [(" " if unit == "word" else "").join(row) for row in rows]
    return train([joined[:7], joined[7:]], unit, order, min_count=min_count, keep_count=keep_count, scratch=scratch)


def bits_of(model, texts):
    rows = rows_of(texts, model.unit)
    bits, _ = model.token_bits(rows)
    return bits[rows.tokens != BEGIN]


@pytest.mark.parametrize("seed", range(12))
def test_every_bit_is_that_of_the_slow_model(seed, tmp_path):
    chosen, rows = random.Random(seed), rows_drawn(seed)
    order, min_count, keep_count = chosen.choice([2, 3, 5]), chosen.choice([1, 2, 30]), chosen.choice([1, 2, 3])
    slow = KneserNey(rows, order, min_count, keep_count)
    model = model_of(rows, order, tmp_path, min_count=min_count, keep_count=keep_count)
    unseen = [[chosen.choice(LETTERS + "xy") for _ in range(chosen.randrange(25))] for _ in range(10)]
    expected = [bits for row in unseen for bits in slow.bits(row)]
    assert np.allclose(bits_of(model, [" ".join(row) for row in unseen]), expected, rtol=0, atol=2e-5)


def test_characters_are_counted_like_words(tmp_path):
    rows = rows_drawn(3)
    model = model_of(rows, 4, tmp_path, unit="character", min_count=2)
    slow = KneserNey(rows, 4, 2)
    assert np.allclose(bits_of(model, ["abcx", "hgä"]), [*slow.bits("abcx"), *slow.bits("hgä")], rtol=0, atol=2e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4]), st.sampled_from([1, 2]), st.sampled_from([1, 2]))
def test_probabilities_sum_to_one_after_any_context(tmp_path_factory, seed, order, min_count, keep_count):
    rows = rows_drawn(seed, rows=12)
    model = model_of(rows, order, tmp_path_factory.mktemp("ngram"), min_count=min_count, keep_count=keep_count)
    chosen = random.Random(seed)
    context = [chosen.choice(LETTERS + "z") for _ in range(chosen.randrange(4))]
    seen = {token for row in rows for token in row if sum(r.count(token) for r in rows) >= min_count}
    texts = [" ".join([*context, token]) for token in sorted(seen)] + [" ".join([*context, "unknown"])]
    found = rows_of([*texts, " ".join(context)], "word")
    bits, _ = model.token_bits(found)
    last = np.concatenate((found.edges[1:-1] - 2, found.edges[-1:] - 1))  # the added words; and the end of the text
    assert np.exp2(-bits[last]).sum() == pytest.approx(1, abs=1e-5)


def test_golden_values_by_hand(tmp_path):
    """Two texts, `a b` and `a c`, bigrams.

    Unigrams count left neighbours: a 1 (<s>), b 1, c 1, </s> 2 (b, c): 5 in all. n1 = 3, n2 = 1, so Y = 3/5,
    D1 = 1 - 2 Y / 3 = 0.6, D2 = 2. Left over: (3 * 0.6 + 2) / 5 = 0.76, a fifth of it for each of a, b, c, </s>, <unk>:
    p(a) = 0.4 / 5 + 0.152 = 0.232, p(</s>) = p(<unk>) = 0.152.
    Bigrams: <s> a twice; a b, a c, b </s>, c </s> once. n1 = 4, n2 = 1, Y = 2/3, D1 = 1 - 2 Y / 4 = 2/3, D2 = 2.
    p(a | <s>) = (2 - 2) / 2 + 1 * 0.232; p(b | a) = (1/3) / 2 + (2/3) * 0.232; p(</s> | b) = 1/3 + (2/3) * 0.152.
    """
    model = train([["a b", "a c"]], "word", 2, min_count=1, keep_count=1, scratch=tmp_path)
    p = np.exp2(-bits_of(model, ["a b", "a zebra", ""]))
    after_a, end = 1 / 6 + 2 / 3 * 0.232, 1 / 3 + 2 / 3 * 0.152
    assert p.tolist() == pytest.approx([
        0.232, after_a, end,
        0.232, 2 / 3 * 0.152, 0.152,  # after the unknown: the unigram
        0.152,  # an empty text
    ])
    found = model.measure(["a b", "a zebra", ""])
    assert found.tokens.tolist() == [3, 3, 1]
    assert found.unknown.tolist() == [0, 1, 0]
    assert found.perplexity[0] == pytest.approx((0.232 * after_a * end) ** (-1 / 3), rel=1e-6)
    bits = -math.log2(0.232 * 2 / 3 * 0.152 * 0.152) + 8 * len("zebra")
    assert found.bits_per_byte[1] == pytest.approx(bits / len("a zebra"), rel=1e-6)


def test_an_unknown_character_costs_what_it_takes_to_name_it(tmp_path):
    model = train([["abab", "baba"]], "character", 3, min_count=1, keep_count=1, scratch=tmp_path)
    found = model.measure(["中"])
    assert found.text_bytes.tolist() == [3]
    assert found.spelled[0] == pytest.approx(math.log2(0x110000 - 4))  # a, b, the end, the unknown


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("abc x\n.中")), max_size=6))
def test_a_text_gets_the_same_bits_in_any_batch(trained, batch):
    for model in trained:
        together = model.measure(batch)
        alone = [model.measure([text]) for text in batch]
        assert together.bits_per_byte.tolist() == [one.bits_per_byte[0] for one in alone]
        assert together.perplexity.tolist() == [one.perplexity[0] for one in alone]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return [model_of(rows_drawn(1), 3, tmp_path_factory.mktemp(unit), unit=unit) for unit in ("word", "character")]


def test_counting_in_many_parts_and_blocks_is_counting_at_once(tmp_path, monkeypatch):
    rows = rows_drawn(5, rows=60)
    whole = model_of(rows, 4, tmp_path / "a", min_count=2)
    monkeypatch.setattr(counting, "PART", 64)
    monkeypatch.setattr(counting, "_BLOCK", 37)
    parts = model_of(rows, 4, tmp_path / "b", min_count=2)
    for one, other in zip(whole.orders, parts.orders, strict=True):
        assert one.table.keys.tobytes() == other.table.keys.tobytes()
        assert one.bits.tobytes() == other.bits.tobytes()
        assert one.weights.tobytes() == other.weights.tobytes()


def test_saving_and_opening_memory_mapped(tmp_path, trained):
    for model in trained:
        folder = tmp_path / model.unit
        folder.mkdir()
        model.save(folder)
        again = NgramModel.open(folder)
        assert isinstance(again.orders[0].bits, np.memmap)
        assert again.measure(["abc a b"]).bits_per_byte == model.measure(["abc a b"]).bits_per_byte


def test_a_damaged_model_is_refused(tmp_path, trained):
    trained[0].save(tmp_path)
    about = (tmp_path / "ngram.json").read_text()
    (tmp_path / "ngram.json").write_text(json.dumps({**json.loads(about), "tokens_version": "ngram_tokens_v9"}))
    with pytest.raises(UserError, match="another version"):
        NgramModel.open(tmp_path)
    (tmp_path / "ngram.json").write_text(about)
    (tmp_path / "bits.npy").write_bytes((tmp_path / "bits.npy").read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot be read"):
        NgramModel.open(tmp_path)
    np.save(tmp_path / "bits.npy", np.zeros(3, np.float32))
    with pytest.raises(UserError, match="do not fit"):
        NgramModel.open(tmp_path)
    (tmp_path / "bits.npy").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        NgramModel.open(tmp_path)


def test_pickles_are_never_opened(tmp_path, trained):
    trained[0].save(tmp_path)
    np.save(tmp_path / "bits.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        NgramModel.open(tmp_path)


@given(st.sets(st.integers(0, 2**64 - 1), max_size=60), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_the_table_finds_what_is_there_and_nothing_else(keys, others):
    ordered = np.array(sorted(keys), np.uint64)
    table = HashTable.of(ordered)
    assert table.find(ordered).tolist() == list(range(len(ordered)))
    expected = [sorted(keys).index(other) if other in keys else -1 for other in others]
    assert table.find(np.array(others, np.uint64)).tolist() == expected


def test_keys_that_crowd_into_one_bucket_are_found():
    keys = np.arange(1000, dtype=np.uint64)
    assert HashTable.of(keys).find(np.array([0, 999, 1000], np.uint64)).tolist() == [0, 999, -1]


def test_discounts_of_chen_and_goodman():
    y = 10 / (10 + 2 * 5)
    assert discounts([10, 5, 3, 2]) == pytest.approx([0, 1 - 2 * y * 5 / 10, 2 - 3 * y * 3 / 5, 3 - 4 * y * 2 / 3])
    assert discounts([0, 0, 0, 0]).tolist() == [0, 0.5, 1, 1.5]
    assert discounts([10, 5, 30, 2])[2] == 1  # the estimate is negative
