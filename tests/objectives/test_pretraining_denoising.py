"""Batches for encoder-decoders: rows of corrupted pieces, nothing lost and nothing leaked; pure in (seed, step);
refusals; guesses."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models.config import DecoderConfig
from gristmill.models.families import FAMILIES
from gristmill.objectives.pretraining import MixtureOfDenoisers, SpanCorruption, default_objective
from gristmill.objectives.pretraining.corrupted import SHORTEST, Lengths, corrupted, lay_out
from gristmill.objectives.sequence_to_sequence import SequenceToSequence
from gristmill.objectives.span_corruption import Denoiser, restored
from tests.models.random_encoder_decoders import random_encoder_decoder, tiny_config
from tests.objectives.causal_text import cut, full_tokenizer, loss_and_gradients, shards_of_lengths

LENGTHS = [40, 0, 1, 2, 3, 700, 5, 17, 90, 33, 1, 250, 64, 8]
MODES = MixtureOfDenoisers(denoisers=[
    Denoiser(mode="<|fim_prefix|>"), Denoiser(density=0.25, mean_span=None, mode="<|fim_suffix|>", share=2.0),
    Denoiser(density=0.5, mean_span=8.0, mode="<|fim_middle|>")], mode_tokens=True)
KINDS = {"t5": SpanCorruption(), "dense": SpanCorruption(density=0.5, mean_span=1.0, targets=80),
         "ul2": MixtureOfDenoisers(), "modes": MODES}


@pytest.fixture(scope="module")
def tokenizer():
    return full_tokenizer()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return shards_of_lengths(tmp_path_factory.mktemp("texts") / "shards", LENGTHS)


def documents_of(batch, row):
    """What is read, what is given to the decoder and what is written of every document of a row, without padding."""
    for number in range(int(batch["document_ids"][row].max()) + 1):
        read = batch["document_ids"][row] == number
        written = batch["decoder_document_ids"][row] == number
        yield (batch["input_ids"][row][read].numpy(), batch["decoder_input_ids"][row][written].numpy(),
               batch["targets"][row][written].numpy())


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_a_pure_function_of_seed_and_step(name, shards, tokenizer):
    def source(seed):
        return KINDS[name].batches(shards, tokenizer, context=64, batch=5, seed=seed)

    first, again, other = source(3), source(3), source(4)
    jumped = again.batch(7)
    walked = [first.batch(step) for step in range(8)][7]
    assert walked.keys() == jumped.keys()
    assert all(torch.equal(walked[key], jumped[key]) for key in walked)
    assert not torch.equal(walked["input_ids"], other.batch(7)["input_ids"])
    assert all(tensor.shape[0] == 5 for tensor in walked.values())
    assert first.tokens_per_batch == 320
    assert all((first.batch(step)["targets"] != -100).any() for step in range(12))
    with pytest.raises(IndexError):
        first.batch(-1)


@pytest.mark.parametrize("name", KINDS)
def test_an_epoch_holds_every_token_of_the_text_once_and_all_can_be_told_from_a_row(name, shards, tokenizer):
    """For each denoiser: read and written together give back the documents, but for those of fewer than two tokens."""
    wanted = [shards.document(i)[1:-1].tolist() for i in range(shards.documents)]
    wanted = [ids for ids in wanted if len(ids) >= 2]
    whole = KINDS[name].held_out(shards, tokenizer, context=64, batch=4, limit_tokens=10**6, seed=1)
    for number, source in enumerate(whole.batches.sources):
        batches = corrupted([source.denoiser], shards, tokenizer, context=64, batch=4, seed=1,
                            targets=whole.batches.targets, modes=source.mode is not None)
        found, pieces = [], batches.sources[0].pieces
        for index in range(batches.sources[0].rows):
            batch = batches.assemble([(0, index, 3)])
            for read, shifted, written in documents_of(batch, 0):
                if source.mode is not None:
                    assert read[0] == source.mode
                    read = read[1:]
                assert read[-1] == written[-1] == tokenizer.eos_id
                assert shifted.tolist() == [tokenizer.pad_id, *written[:-1].tolist()]
                found.append(restored(read[:-1], written[:-1], tokenizer.sentinel_ids).tolist())
        joined = [[] for _ in range(shards.documents)]
        for (document, begin, end), ids in zip(pieces.tolist(), found, strict=True):
            assert (begin, end) == (len(joined[document]), len(joined[document]) + len(ids))
            joined[document] += ids
        assert [ids for ids in joined if ids] == wanted, number


@pytest.mark.parametrize("name", KINDS)
def test_held_out_batches_are_always_the_same(name, shards, tokenizer):
    held = KINDS[name].held_out(shards, tokenizer, context=64, batch=4, limit_tokens=400, seed=1)
    first, second = list(held), list(held)
    assert len(first) == len(held) >= 1
    assert held.total_bytes is None
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    texts = sum(int((batch["document_ids"] >= 0).sum()) for batch in first)
    assert 30 <= texts <= 1200


def test_spans_are_drawn_anew_in_every_epoch_and_rows_of_an_epoch_all_come(shards, tokenizer):
    batches = SpanCorruption().batches(shards, tokenizer, context=64, batch=1, seed=0)
    rows = batches.sources[0].rows
    drawn = [batches.order.at(place) for place in range(2 * rows)]
    assert sorted(row for _, row, epoch in drawn if epoch == 0) == list(range(rows))
    assert [row for _, row, _ in drawn[:rows]] != [row for _, row, _ in drawn[rows:]]
    one, two = (batches.assemble([(0, 2, epoch)]) for epoch in (0, 1))
    assert not torch.equal(one["targets"], two["targets"])
    assert torch.equal(one["document_ids"], two["document_ids"]), "sizes follow from lengths alone"


def test_a_row_of_one_long_text_is_full_on_both_sides(tmp_path, tokenizer):
    shards = shards_of_lengths(tmp_path / "long", [5000])
    for context, targets in ((64, 14), (100, 22)):
        batches = SpanCorruption().batches(shards, tokenizer, context=context, batch=4, seed=0)
        assert batches.targets == targets
        batch = batches.assemble([(0, row, 0) for row in range(4)])
        assert (batch["document_ids"] == 0).all()
        assert (batch["decoder_document_ids"] == 0).all()


def test_the_published_lengths_with_enough_sentinels():
    lengths = Lengths(Denoiser(), 512, 100, False)
    assert lengths.natural == 114
    assert lengths.longest(512, 114) == 568
    assert lengths.sizes(568) == (512, 114)
    assert Lengths(Denoiser(), 512, 100, True).sizes(567)[0] == 512, "a mode token takes a place"
    capped = Lengths(Denoiser(), 512, 5, False)
    size = capped.longest(512, 114)
    assert int(Denoiser().counts(size)[1]) == 5 < int(Denoiser().counts(size + 1)[1])


@settings(max_examples=60, deadline=None)
@given(documents=st.lists(st.integers(0, 300), min_size=1, max_size=40), context=st.integers(24, 80),
       density=st.floats(0.05, 0.8), mean_span=st.none() | st.floats(1, 20), sentinels=st.integers(1, 30),
       spare=st.integers(0, 20))
def test_pieces_lie_in_rows_without_a_gap_an_overflow_or_needless_room(
        documents, context, density, mean_span, sentinels, spare):
    denoiser = Denoiser(density=density, mean_span=mean_span)
    lengths = Lengths(denoiser, context, sentinels, False)
    targets = lengths.natural + spare
    if lengths.longest(context, targets) < 4:
        return
    pieces, starts = lay_out(np.array(documents), lengths, context, targets)
    at = Counter()
    for document, begin, end in pieces.tolist():
        assert begin == at[document], "the next piece begins where the one before ended"
        at[document] = end
        assert end - begin >= 2
        assert int(denoiser.counts(end - begin)[1]) <= sentinels
    assert {d: n for d, n in enumerate(documents) if n >= 2} == dict(at)
    bounds = [*starts.tolist(), len(pieces)]
    for begin, end in itertools.pairwise(bounds):
        sizes = np.array([lengths.sizes(stop - start) for _, start, stop in pieces[begin:end].tolist()])
        used = sizes.sum(0)
        assert end > begin
        assert used[0] <= context
        assert used[1] <= targets
        if end < len(pieces):
            _, start, stop = pieces[end].tolist()
            free = lengths.longest(context - int(used[0]), targets - int(used[1]))
            assert free < max(stop - start, SHORTEST) + 1, "the next piece would not have fitted"


def test_denoisers_come_in_their_shares_with_their_modes(shards, tokenizer):
    batches = MODES.batches(shards, tokenizer, context=64, batch=64, seed=0)
    first = torch.cat([batches.batch(step)["input_ids"][:, 0] for step in range(16)]).tolist()
    counts = Counter(tokenizer.token_name(token) for token in first)
    assert counts == {"<|fim_prefix|>": 256, "<|fim_suffix|>": 512, "<|fim_middle|>": 256}


def test_the_mixture_of_ul2_has_seven_alike_and_one_that_cuts_off_the_end(shards, tokenizer):
    objective = MixtureOfDenoisers()
    assert len(objective.denoisers) == 7
    assert Counter(one.mode for one in objective.denoisers) == {"[R]": 2, "[S]": 1, "[X]": 4}
    batches = objective.batches(shards, tokenizer, context=64, batch=1, seed=0)
    assert batches.order.counts.tolist() == [147, 147, 146, 146, 146, 146, 146]
    sequential = batches.assemble([(2, 1, 0)])
    for read, _, written in documents_of(sequential, 0):
        assert read[-2:].tolist() == [tokenizer.sentinel_ids[0], tokenizer.eos_id]
        assert written[0] == tokenizer.sentinel_ids[0]
        assert not set(written[1:].tolist()) & set(tokenizer.sentinel_ids)
    assert 55 <= batches.targets <= 70, "as much is written as is read"


@pytest.mark.parametrize("name", ["t5", "ul2"])
def test_a_written_text_depends_on_its_own_document_alone_and_never_on_what_comes(name, shards, tokenizer):
    """Through the real collator and the model: whatever is perturbed moves nothing else."""
    config = tiny_config(vocab_size=tokenizer.vocab_size)
    model = random_encoder_decoder(config)
    batches = KINDS[name].batches(shards, tokenizer, context=64, batch=1, seed=0)
    rows = [batches.assemble([(0, index, 0)]) for index in range(batches.sources[0].rows)]
    batch = max(rows, key=lambda row: int(row["document_ids"].max()))
    arguments = {key: value for key, value in batch.items() if key != "targets"}
    assert int(batch["document_ids"].max()) >= 2
    real = batch["decoder_document_ids"][0] >= 0
    with torch.no_grad():
        base = model(**arguments)
        for side, own in (("input_ids", "document_ids"), ("decoder_input_ids", "decoder_document_ids")):
            for place in range(0, batch[side].shape[1], 3):
                if batch[own][0, place] < 0:
                    continue
                changed = batch[side].clone()
                changed[0, place] = (changed[0, place] + 1) % config.vocab_size
                moved = (model(**{**arguments, side: changed}) - base).abs().amax(-1)[0] > 0
                wanted = batch["decoder_document_ids"][0] == batch[own][0, place]
                if side == "decoder_input_ids":
                    wanted = wanted & (torch.arange(len(wanted)) >= place)
                assert torch.equal(moved & real, wanted)


def test_packed_rows_give_the_loss_of_each_piece_alone(shards, tokenizer):
    model = random_encoder_decoder(tiny_config(vocab_size=tokenizer.vocab_size))
    batches = SpanCorruption().batches(shards, tokenizer, context=64, batch=3, seed=0)
    batch = batches.batch(0)
    objective = SequenceToSequence()
    found = objective.terms(model, batch)
    total, count, right = 0.0, 0, 0
    with torch.no_grad():
        for row in range(3):
            for read, shifted, written in documents_of(batch, row):
                logits = model(torch.tensor(read)[None], torch.tensor(shifted)[None])[0]
                total += float(F.cross_entropy(logits, torch.tensor(written), reduction="sum"))
                right += int((logits.argmax(-1) == torch.tensor(written)).sum())
                count += len(written)
    assert objective.counts(batch) == {"loss": count}
    assert float(found.sums["loss"].detach()) == pytest.approx(total, rel=1e-5)
    assert int(found.metrics["accuracy"][0]) == right


def test_micro_batches_add_up_to_the_whole_one(shards, tokenizer):
    config = tiny_config(vocab_size=tokenizer.vocab_size)
    batch = MixtureOfDenoisers().batches(shards, tokenizer, context=48, batch=6, seed=0).batch(0)
    for objective in (SequenceToSequence(), SequenceToSequence(label_smoothing=0.1, z_loss=1e-3)):
        model = random_encoder_decoder(config)
        whole, wanted = loss_and_gradients(model, objective, [batch])
        parts, found = loss_and_gradients(model, objective, cut(batch, 1))
        assert parts == pytest.approx(whole, rel=1e-5)
        largest = max(float(g.abs().max()) for g in wanted.values())
        assert all(float((found[name] - wanted[name]).abs().max()) <= 1e-5 * largest for name in wanted)


def test_a_guess_is_what_begins_the_gap(tokenizer):
    model = random_encoder_decoder(tiny_config(vocab_size=tokenizer.vocab_size + 3))
    first = tokenizer.sentinel_ids[0]
    for objective, before in ((SpanCorruption(), []), (MODES, [tokenizer.token_id("<|fim_suffix|>")])):
        logs, true = objective.guess(model, tokenizer, "import os", " as path")
        read = torch.tensor([[*before, *tokenizer.encode("import os"), first, tokenizer.eos_id]])
        wanted = model(read, torch.tensor([[tokenizer.pad_id, first]]))[0, -1].log_softmax(-1)
        torch.testing.assert_close(logs, wanted)
        assert true == tokenizer.encode(" as path")[0]
        assert objective.guess(model, tokenizer, "x = 1\n" * 50, "y")[0].shape == logs.shape


@pytest.mark.parametrize("kind", ["span_corruption", "denoisers"])
def test_models_and_tokenizers_that_do_not_fit_are_refused(kind, tokenizer):
    objective, fitting = default_objective(kind), tiny_config(vocab_size=tokenizer.vocab_size)
    objective.check(fitting, tokenizer)
    decoder = DecoderConfig(vocab_size=700, dim=8, layers=1, heads=1, kv_heads=1, head_dim=8, mlp_dim=8, context=16)
    with pytest.raises(UserError, match="llama is none"):
        objective.check(decoder, tokenizer)
    with pytest.raises(UserError, match="start_id is 3") as refused:
        objective.check(tiny_config(vocab_size=tokenizer.vocab_size, start_id=3), tokenizer)
    assert "options: {start_id: 0}" in refused.value.fix
    from tests.generation.test_text import byte_tokenizer
    from tests.objectives.parallel_text import masking_tokenizer

    for bare in (byte_tokenizer(), masking_tokenizer()):
        with pytest.raises(UserError, match="no sentinel tokens"):
            objective.check(fitting, bare)


def test_modes_need_their_tokens(tokenizer):
    with pytest.raises(UserError, match=r"no mode token \[R\], \[S\], \[X\]") as refused:
        MixtureOfDenoisers(mode_tokens=True).check(tiny_config(vocab_size=tokenizer.vocab_size), tokenizer)
    assert 'special_tokens: ["[R]", "[S]", "[X]"]' in refused.value.fix
    with pytest.raises(ValueError, match=r"^denoisers: with mode_tokens"):
        MixtureOfDenoisers(denoisers=[Denoiser()], mode_tokens=True)


def test_text_and_rows_that_are_too_short_are_refused(tmp_path, tokenizer):
    tiny = shards_of_lengths(tmp_path / "tiny", [0, 1, 1])
    with pytest.raises(UserError, match="no document of two tokens"):
        SpanCorruption().batches(tiny, tokenizer, context=64, batch=2, seed=0)
    text = shards_of_lengths(tmp_path / "text", [100])
    with pytest.raises(UserError, match="no room for text"):
        SpanCorruption().batches(text, tokenizer, context=4, batch=2, seed=0)
    with pytest.raises(UserError, match="no room for text"):
        SpanCorruption(targets=2).batches(text, tokenizer, context=64, batch=2, seed=0)
    two = shards_of_lengths(tmp_path / "two", [2])
    batch = SpanCorruption().batches(two, tokenizer, context=16, batch=3, seed=0).batch(0)
    assert (batch["targets"] != -100).sum(1).tolist() == [3, 3, 3]


@pytest.mark.parametrize(("make", "field"), [
    (lambda: SpanCorruption(density=1.0), "density"), (lambda: SpanCorruption(mean_span=0.0), "mean_span"),
    (lambda: SpanCorruption(targets=0), "targets"), (lambda: SpanCorruption(z_loss=-1.0), "z_loss"),
    (lambda: MixtureOfDenoisers(denoisers=[]), "denoisers"),
    (lambda: MixtureOfDenoisers(label_smoothing=1.0), "label_smoothing")])
def test_impossible_options_are_refused_by_name(make, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        make()


def test_it_is_the_objective_of_the_family():
    assert {type(default_objective(FAMILIES[name].objective)) for name in ("t5", "mt5")} == {SpanCorruption}
