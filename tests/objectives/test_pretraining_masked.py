"""Batches for encoders: rows of text, pairs of texts, translations; pure in (seed, step); refusals; guesses."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig, EncoderConfig
from gristmill.objectives.masking import Masking, Vocabulary
from gristmill.objectives.pretraining import (
    MaskedLanguageModelling,
    NextSentencePrediction,
    TranslationLanguageModelling,
    default_objective,
)
from gristmill.objectives.pretraining.pairs import PairRows
from gristmill.objectives.pretraining.parallel import ParallelRows, filled, translations
from gristmill.objectives.pretraining.rows import Frame, SourceOrder, TextRows
from gristmill.tokens import TokenShards
from tests.models.random_encoders import random_encoder, tiny_config
from tests.objectives.parallel_text import masking_tokenizer, prose, shards_of, translated


@pytest.fixture(scope="module")
def tokenizer():
    return masking_tokenizer()


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> TokenShards:
    return shards_of(tmp_path_factory.mktemp("texts") / "shards", [*prose(24), ("", "en", ""), ("a", "en", "")])


@pytest.fixture(scope="module")
def bilingual(tmp_path_factory) -> TokenShards:
    alone = [(f"und {i} allein", "de", "") for i in range(3)]
    return shards_of(tmp_path_factory.mktemp("pairs") / "shards", [*translated(20), *alone, *prose(2)])


KINDS = {
    "masked_lm": MaskedLanguageModelling(), "words": MaskedLanguageModelling(masking=Masking(unit="word")),
    "spans across": MaskedLanguageModelling(masking=Masking(unit="span"), cross_documents=True),
    "by language": MaskedLanguageModelling(languages=["de", "en"], alpha=0.3),
    "next_sentence": NextSentencePrediction(), "order": NextSentencePrediction(negatives="swapped"),
    "translation_lm": TranslationLanguageModelling(languages=["de", "en"]),
    "translation, no languages": TranslationLanguageModelling(),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_a_pure_function_of_seed_and_step(name, bilingual, tokenizer):
    def source(seed):
        return KINDS[name].batches(bilingual, tokenizer, context=32, batch=5, seed=seed)

    first, again, other = source(3), source(3), source(4)
    jumped = again.batch(7)
    walked = [first.batch(step) for step in range(8)][7]
    assert walked.keys() == jumped.keys()
    assert all(torch.equal(walked[key], jumped[key]) for key in walked)
    assert not torch.equal(walked["input_ids"], other.batch(7)["input_ids"])
    assert all(tensor.shape[0] == 5 for tensor in walked.values())
    assert first.tokens_per_batch == 160
    keys = {key for step in range(12) for key in first.batch(step)}
    assert keys == set(walked), "every batch has the same tensors"
    assert all((batch["targets"] != -100).any() for batch in (first.batch(step) for step in range(12)))


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_leaks_nothing(name, bilingual, tokenizer):
    """In a real batch of every kind: the states of a place depend on all of its document and on nothing else; and what
    stands at a masked place is the mask token, not the answer."""
    family = "xlm" if "lang" in name else "bert"
    languages = ("de", "en") if getattr(KINDS[name], "languages", None) else ()
    model = random_encoder(tiny_config(family, vocab_size=640, context=96, pad_id=tokenizer.pad_id,
                                       languages=languages if family == "xlm" else ()))
    batch = KINDS[name].batches(bilingual, tokenizer, context=96, batch=4, seed=0).batch(1)
    masked = batch["input_ids"] == tokenizer.mask_id
    assert masked.any()
    assert (batch["targets"][masked] >= 0).all()
    assert (batch["targets"][batch["document_ids"] < 0] == -100).all()
    positions = batch.get("positions")
    arguments = {"document_ids": batch["document_ids"], "token_type_ids": batch.get("token_type_ids"),
                 "langs": batch.get("langs"), "position_ids": positions}
    if family == "bert":
        arguments["langs"] = None
    base = model.encode(batch["input_ids"], **arguments)
    changed_places = parted = 0
    for row in range(4):
        place = int(np.flatnonzero(batch["targets"][row] >= 0)[-1])
        ids = batch["input_ids"].clone()
        ids[row, place] = (ids[row, place] + 1) % 640
        moved = (model.encode(ids, **arguments) - base).abs().amax(-1) > 0
        allowed = torch.zeros_like(moved)
        allowed[row] = batch["document_ids"][row] == batch["document_ids"][row, place]
        assert not moved[~allowed].any()
        assert moved[allowed].all()
        changed_places += int(allowed.sum())
        parted += int((batch["document_ids"][row] >= 0).sum() > allowed.sum())
    assert changed_places > 8
    assert parted or name in ("spans across", "next_sentence", "order"), "several documents stand in a row"


@pytest.mark.parametrize("name", KINDS)
def test_held_out_batches_are_always_the_same(name, bilingual, tokenizer):
    held = KINDS[name].held_out(bilingual, tokenizer, context=32, batch=4, limit_tokens=200, seed=1)
    first, second = list(held), list(held)
    assert len(first) == len(held) >= 1
    assert held.total_bytes is None
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    scored = sum(int((batch["targets"] != -100).sum()) for batch in first)
    assert 5 <= scored <= 60


@settings(max_examples=25, deadline=None)
@given(context=st.integers(3, 60), cross=st.booleans(), subset=st.booleans())
def test_rows_of_text_hold_every_token_once_between_start_and_end(texts, tokenizer, context, cross, subset):
    chosen = np.array([0, 3, 4, 9, 24]) if subset else None
    rows = TextRows(texts, Frame.of(tokenizer), context, chosen, cross=cross)
    stream = []
    for index in range(rows.rows):
        row = rows.row(index, 0)
        ids = row.ids.tolist()
        assert 2 <= len(ids) <= context
        assert (ids[0], ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
        stream += ids
    documents = range(texts.documents) if chosen is None else chosen
    ordinary = [t for i in documents for t in texts.document(int(i)).tolist() if t not in tokenizer.special_ids]
    assert [t for t in stream if t not in tokenizer.special_ids] == ordinary


def test_documents_in_a_row_are_told_apart_unless_they_may_see_each_other(texts, tokenizer):
    frame = Frame.of(tokenizer)
    apart, across = (TextRows(texts, frame, 200, cross=cross).row(0, 0) for cross in (False, True))
    assert apart.ids.tolist() == across.ids.tolist()
    assert set(across.documents.tolist()) == {0}
    starts = np.flatnonzero(apart.ids == tokenizer.bos_id)
    assert len(starts) >= 3
    assert np.flatnonzero(np.diff(apart.documents)).tolist() == (starts[1:] - 1).tolist()


@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), data=st.data(), seed=st.integers(0, 1000))
def test_a_mixture_keeps_its_shares_and_shows_every_row_before_any_again(sizes, data, seed):
    weights = data.draw(st.lists(st.floats(0.01, 1.0), min_size=len(sizes), max_size=len(sizes)))
    mixture = SourceOrder(sizes, weights, seed)
    drawn = [mixture.at(place) for place in range(1024)]
    counts = Counter(source for source, _, _ in drawn)
    if len(sizes) > 1:
        for source, weight in enumerate(weights):
            assert abs(counts[source] - 1024 * weight / sum(weights)) <= len(sizes)
    for source, size in enumerate(sizes):
        epochs = [(epoch, row) for s, row, epoch in drawn if s == source]
        whole = [row for epoch, row in epochs if epoch < max(e for e, _ in epochs)]
        assert all(count == whole.count(0) for count in Counter(whole).values()), "whole epochs hold every row alike"
        assert len(set(epochs)) == len(epochs)
        assert all(0 <= row < size for _, row in epochs)


def test_dynamic_masks_differ_between_epochs_and_static_ones_take_turns(texts, tokenizer):
    def masks(masking, epochs):
        source = MaskedLanguageModelling(masking=masking).batches(texts, tokenizer, context=64, batch=1, seed=0)
        return [source.assemble([(0, 2, epoch)])["targets"] for epoch in range(epochs)]

    dynamic = masks(Masking(), 4)
    assert len({tuple(m.flatten().tolist()) for m in dynamic}) == 4
    static = masks(Masking(refresh="static", copies=2), 4)
    assert torch.equal(static[0], static[2])
    assert torch.equal(static[1], static[3])
    assert not torch.equal(static[0], static[1])
    once = masks(Masking(refresh="static", copies=1), 3)
    assert torch.equal(once[0], once[2])


def pair_rows(shards, tokenizer, negatives, context=48, short=0.1):
    return PairRows(shards, Frame.of(tokenizer), Vocabulary.of(tokenizer, tokenizer.mask_id), context,
                    shards.documents, 0, negatives=negatives, short=short)


def halves(row, tokenizer):
    """The two texts of a row."""
    ids, segments = row.ids, row.extra["token_type_ids"]
    assert ids[0] == tokenizer.bos_id
    assert (np.diff(segments) >= 0).all()
    ends = np.flatnonzero(ids == tokenizer.eos_id)
    assert len(ends) == 2
    assert segments[ends[0]] == 0
    assert (segments[ends[0] + 1:] == 1).all()
    return tokenizer.decode(ids[1:ends[0]].tolist()), tokenizer.decode(ids[ends[0] + 1:ends[1]].tolist())


@pytest.mark.parametrize("negatives", ["another_document", "swapped"])
def test_pairs_are_cut_from_real_documents(negatives, texts, tokenizer):
    rows = pair_rows(texts, tokenizer, negatives)
    whole = [tokenizer.decode(texts.document(i).tolist(), skip_special=True) for i in range(texts.documents)]
    labels = Counter()
    cut_at_sentences = told_apart = 0
    for version in range(4):
        for index in range(rows.rows):
            row = rows.row(index, version)
            assert len(row.ids) <= 48
            first, second = halves(row, tokenizer)
            assert first
            assert second
            labels[row.label] += 1
            if row.label == 0:
                assert any(first + second in text for text in whole)
                cut_at_sentences += first.endswith(".")
            elif negatives == "swapped":
                assert any(second + first in text for text in whole)
            else:
                assert any(second in text for text in whole)
                if len(second.split()) > 5:  # fewer words may happen to fit
                    assert not any(first + second in text for text in whole)
                    told_apart += 1
    total = sum(labels.values())
    assert abs(labels[1] / total - 0.5) < 4 * 0.5 / total**0.5
    assert cut_at_sentences > 0.8 * labels[0]
    assert negatives == "swapped" or told_apart > 0.5 * labels[1]


def test_a_swapped_pair_needs_one_document_and_another_document_two(tmp_path, tokenizer):
    single = shards_of(tmp_path / "one", prose(1))
    assert pair_rows(single, tokenizer, "swapped").rows >= 1
    with pytest.raises(UserError, match="one document only"):
        pair_rows(single, tokenizer, "another_document")
    with pytest.raises(UserError, match="no document has"):
        pair_rows(shards_of(tmp_path / "none", [("", "en", "")]), tokenizer, "swapped")
    with pytest.raises(UserError, match="context of 4"):
        pair_rows(single, tokenizer, "swapped", context=4)


def test_a_document_longer_than_a_row_is_cut_and_no_token_is_lost(tmp_path, tokenizer):
    shards = shards_of(tmp_path / "long", [(" ".join(t for t, _, _ in prose(6)), "en", "")])
    rows = pair_rows(shards, tokenizer, "swapped", short=0.0)
    assert rows.rows > 3
    body = Frame.of(tokenizer).body(shards.document(0))
    total = 0
    for index in range(rows.rows):
        total += len(rows.row(index, 0).ids) - 3
    assert total == len(body)


def test_translations_are_found_by_pair_and_language(bilingual, tmp_path):
    assert bilingual.languages == ["de", "en"]
    found = translations(bilingual, bilingual.documents)
    assert list(found) == [(0, 1)]
    assert found[0, 1].shape == (20, 2)
    german, english = found[0, 1].T
    assert (bilingual.document_languages[german] == 0).all()
    assert (bilingual.document_languages[english] == 1).all()
    assert (bilingual.document_pairs[german] == bilingual.document_pairs[english]).all()
    three = shards_of(tmp_path / "three", [("a", "en", "x"), ("b", "de", "x"), ("c", "fr", "x"), ("d", "en", "y"),
                                           ("e", "en", "y"), ("f", "de", "y"), ("g", "de", "z")])
    counted = {key: len(value) for key, value in translations(three, three.documents).items()}
    assert counted == {(0, 1): 1, (0, 2): 1, (1, 2): 1}, "y has two English texts, z no second language"


def test_a_row_of_translations_has_both_languages_and_positions_begin_anew(bilingual, tokenizer):
    pairs = translations(bilingual, bilingual.documents)[0, 1]
    rows = ParallelRows(bilingual, Frame.of(tokenizer), 64, pairs, 0, [1, 0])
    sides, seen = Counter(), 0
    for version in range(3):
        for index in range(rows.rows):
            row = rows.row(index, version)
            assert len(row.ids) <= 64
            langs, positions = row.extra["langs"], row.extra["positions"]
            for pair in range(row.documents.max() + 1):
                own = row.documents == pair
                begins = np.flatnonzero(own & (row.ids == tokenizer.bos_id))
                assert len(begins) == 2
                assert (positions[begins] == 0).all()
                assert set(langs[own].tolist()) == {0, 1}
                sides[int(langs[begins[0]])] += 1
                first, second = (tokenizer.decode(row.ids[own & (langs == lang)].tolist(), skip_special=True)
                                 for lang in (0, 1))
                assert len(first.split()) == len(second.split()), "0 is English here, 1 German"
                assert first.split()[0] in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
                                            "ten")
                seen += 1
            within = np.diff(positions)
            assert set(np.unique(within[row.ids[1:] != tokenizer.bos_id]).tolist()) == {1}
    assert seen == 60
    assert min(sides.values()) > 15, "either side comes first"


@settings(max_examples=40, deadline=None)
@given(first=st.integers(2, 70), second=st.integers(2, 70), context=st.integers(4, 50))
def test_long_translations_are_shortened_from_the_longer_one_on(tmp_path_factory, tokenizer, first, second, context):
    word = tokenizer.encode(" a")[0]
    from gristmill.tokens import ShardWriter

    folder = tmp_path_factory.mktemp("long") / "shards"
    with ShardWriter(folder, tokenizer.vocab_size) as writer:
        for size, language in ((first, "de"), (second, "en")):
            ids = [tokenizer.bos_id, *[word] * (size - 2), tokenizer.eos_id]
            writer.add(np.array(ids), language, size, language=language, pair="p")
        shards = writer.finish()
    row = ParallelRows(shards, Frame.of(tokenizer), context, np.array([[0, 1]]), 0, [0, 1]).row(0, 0)
    kept = [int((row.extra["langs"] == lang).sum()) for lang in (0, 1)]
    assert sum(kept) <= context
    assert sum(kept) == min(first + second, context) or min(first, second) > context // 2
    assert kept[0] >= min(first, context // 2)
    assert kept[1] >= min(second, context // 2)
    assert (row.ids[np.flatnonzero(np.diff(row.extra["langs"]))] == tokenizer.eos_id).all()


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_pairs_are_laid_into_rows_without_a_gap_or_an_overflow(sizes):
    starts = filled(np.array(sizes), 30).tolist()
    assert starts[0] == 0
    for begin, end in zip(starts, [*starts[1:], len(sizes)], strict=True):
        assert 0 < sum(sizes[begin:end]) <= 30
    for begin, end in itertools.pairwise(starts):
        assert sum(sizes[begin:end + 1]) > 30


def test_languages_are_drawn_by_temperature(tmp_path, tokenizer):
    shards = shards_of(tmp_path / "uneven", [*prose(60, "en"), *prose(6, "de")])
    sizes = {name: int(np.diff(shards.offsets)[shards.document_languages == i].sum())
             for i, name in enumerate(shards.languages)}
    for alpha in (0.0, 0.5, 1.0):
        objective = MaskedLanguageModelling(languages=["en", "de"], alpha=alpha)
        source = objective.batches(shards, tokenizer, context=32, batch=64, seed=0)
        german = [source.order.at(place)[0] == 0 for place in range(1024)]
        expected = sizes["de"]**alpha / (sizes["de"]**alpha + sizes["en"]**alpha)
        assert abs(np.mean(german) - expected) < 0.002
        langs = source.batch(0)["langs"][:, 0].tolist()
        assert langs == [int(here) for here in german[:64]], "languages are numbered as the model names them"


def test_a_batch_mixes_translations_and_own_text_in_their_shares(bilingual, tokenizer):
    objective = TranslationLanguageModelling(languages=["en", "de"], monolingual=0.25)
    source = objective.batches(bilingual, tokenizer, context=48, batch=64, seed=0)
    mixed = 0
    for step in range(16):
        batch = source.batch(step)
        real = batch["document_ids"] >= 0
        for row in range(64):
            own = real[row] & (batch["document_ids"][row] == 0)
            mixed += len(set(batch["langs"][row][own].tolist())) == 2
    assert mixed == 768


ENCODER = tiny_config("bert", vocab_size=640, next_sentence=True)
REFUSED = [
    (MaskedLanguageModelling(), DecoderConfig(vocab_size=640, dim=8, layers=1, heads=1, kv_heads=1, head_dim=8,
                                              mlp_dim=8, context=8), "trains encoders"),
    (NextSentencePrediction(), tiny_config("bert", vocab_size=640), "no head for pairs"),
    (NextSentencePrediction(), tiny_config("roberta", vocab_size=640, pad_id=0), "no head for pairs"),
    (MaskedLanguageModelling(), tiny_config("roberta", vocab_size=640), "pad_id: 0"),
    (TranslationLanguageModelling(languages=["en", "de"]), ENCODER, "languages are en, de, the model's none"),
    (MaskedLanguageModelling(), tiny_config("xlm", vocab_size=640, pad_id=0, languages=("en", "de")),
     "languages are none, the model's en, de"),
]


@pytest.mark.parametrize(("objective", "config", "said"), REFUSED)
def test_a_model_that_does_not_fit_is_refused(objective, config, said, tokenizer):
    with pytest.raises(UserError, match=said):
        objective.check(config, tokenizer)


def test_a_tokenizer_without_a_mask_token_is_refused():
    from gristmill.tokenizer.train import train_bpe

    plain = train_bpe([["some text to train a small tokenizer on, some text"]], vocab_size=265, min_count=1)
    with pytest.raises(UserError, match=r"mask: true"):
        MaskedLanguageModelling().check(ENCODER, plain)


def test_text_without_pairs_or_in_an_unknown_language_is_refused(texts, bilingual, tokenizer):
    with pytest.raises(UserError, match="no two documents that are translations"):
        TranslationLanguageModelling().batches(texts, tokenizer, context=32, batch=2, seed=0)
    with pytest.raises(UserError, match="the text is in de, and the model knows fr, en"):
        MaskedLanguageModelling(languages=["fr", "en"]).batches(bilingual, tokenizer, context=32, batch=2, seed=0)
    with pytest.raises(UserError, match="no room for text"):
        MaskedLanguageModelling().batches(texts, tokenizer, context=2, batch=2, seed=0)


@pytest.mark.parametrize("kind", ["masked_lm", "next_sentence", "translation_lm"])
def test_a_guess_is_what_stands_at_the_gap_between_both_sides(kind, tokenizer):
    config = EncoderConfig(vocab_size=640, dim=24, layers=2, heads=3, head_dim=8, mlp_dim=32, context=24)
    model = random_encoder(config)
    objective = default_objective(kind)
    logs, true = objective.guess(model, tokenizer, "def main(", "args): pass")
    wanted, *rest = tokenizer.encode("args): pass")
    ids = [tokenizer.bos_id, *tokenizer.encode("def main("), tokenizer.mask_id, *rest, tokenizer.eos_id]
    place = ids.index(tokenizer.mask_id)
    expected = model(torch.tensor([ids]))[0, place].log_softmax(-1)
    assert true == wanted
    torch.testing.assert_close(logs, expected)
    assert rest, "or the right side is not tested"
    long, _ = objective.guess(model, tokenizer, "x = 1\n" * 50, "args): pass" * 20)
    assert long.shape == (640,)
