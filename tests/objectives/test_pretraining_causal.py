"""Prefix LM, fill-in-the-middle and multi-token prediction: what batches hold, who sees whom, what is scored."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.models.config import EncoderConfig
from gristmill.objectives import CausalLM
from gristmill.objectives.multi_token import MultiTokenLM, later_targets
from gristmill.objectives.pretraining import (
    CausalLanguageModelling,
    FillInTheMiddle,
    MultiTokenPrediction,
    PrefixLanguageModelling,
)
from gristmill.objectives.pretraining.fill_in_the_middle import Sentinels, moved
from gristmill.tokenizer.train import train_bpe
from gristmill.tokens import PackedBatches
from tests.models.random_models import random_decoder
from tests.objectives.causal_text import cut, full_tokenizer, loss_and_gradients, random_rows, shards_of_lengths

KINDS = [CausalLanguageModelling(), PrefixLanguageModelling(), FillInTheMiddle(), MultiTokenPrediction()]
LENGTHS = [50, 9, 200, 31, 77, 12, 140, 3]


def named(objective) -> str:
    return objective.kind


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return shards_of_lengths(tmp_path_factory.mktemp("shards") / "s", LENGTHS)


@pytest.mark.parametrize("objective", KINDS, ids=named)
def test_batches_are_a_function_of_seed_and_step(objective, shards):
    def made(seed, steps):
        source = objective.batches(shards, full_tokenizer(), context=32, batch=3, seed=seed)
        return {step: source.batch(step) for step in steps}

    there, back = made(1, [0, 1, 5]), made(1, [5, 1, 0])
    for step in there:
        assert there[step].keys() == back[step].keys()
        assert all(torch.equal(there[step][name], back[step][name]) for name in there[step])
        assert all(len(tensor) == 3 for tensor in there[step].values())
    assert not torch.equal(there[0]["input_ids"], there[1]["input_ids"])
    if objective.kind in ("prefix_lm", "fill_in_the_middle"):
        other = made(2, range(4))
        assert any(not torch.equal(other[step]["targets"], made(1, [step])[step]["targets"]) for step in other)


@pytest.mark.parametrize("objective", KINDS, ids=named)
def test_held_out_batches_are_always_the_same(objective, shards):
    def read():
        return list(objective.held_out(shards, full_tokenizer(), context=32, batch=3, limit_tokens=300, seed=0))

    for first, second in zip(read(), read(), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("objective", KINDS, ids=named)
def test_accumulation_changes_neither_loss_nor_gradients(objective, shards):
    tokenizer = full_tokenizer()
    batch = objective.batches(shards, tokenizer, context=32, batch=4, seed=0).batch(0)
    model = random_decoder(vocab_size=tokenizer.vocab_size)
    loss = objective.loss(model.config)
    if objective.kind == "multi_token":
        loss.attach(model)
    whole, gradients = loss_and_gradients(model, loss, [batch])
    parts, added = loss_and_gradients(model, loss, cut(batch, 1))
    assert parts == pytest.approx(whole, rel=1e-6)
    largest = max(float(g.abs().max()) for g in gradients.values())
    assert all(float((gradients[n] - added[n]).abs().max()) < 1e-5 * largest for n in gradients)


@pytest.mark.parametrize("objective", KINDS, ids=named)
def test_only_decoders_and_tokenizers_with_the_tokens_are_taken(objective):
    encoder = EncoderConfig(family="bert", vocab_size=64, dim=8, layers=1, heads=1, head_dim=8, mlp_dim=8, context=16)
    with pytest.raises(UserError, match="decoder"):
        objective.check(encoder, full_tokenizer())
    if objective.kind == "fill_in_the_middle":
        with pytest.raises(UserError, match="special_tokens"):
            objective.check(random_decoder().config, train_bpe([["a b c d e f " * 50]], vocab_size=268))


# -- prefix LM -------------------------------------------------------------------------------------------------------

def test_a_prefix_is_the_beginning_of_its_piece_and_is_not_scored(shards):
    batches = PrefixLanguageModelling().batches(shards, full_tokenizer(), context=32, batch=3, seed=0)
    plain = PackedBatches(shards, context=32, batch=3, seed=0)
    sizes = []
    for step in range(12):
        batch, before = batches.batch(step), plain.batch(step)
        assert torch.equal(batch["input_ids"], before["input_ids"])
        scored = batch["targets"] != -100
        assert torch.equal(batch["targets"][scored], before["targets"][scored])
        for row in range(3):
            for number in batch["document_ids"][row].unique():
                if number < 0:
                    continue
                own = batch["document_ids"][row] == number
                prefix, kept = batch["prefix"][row][own].tolist(), scored[row][own].tolist()
                size = sum(prefix)
                assert prefix == [True] * size + [False] * (len(prefix) - size), "a prefix is a beginning"
                assert 1 <= size <= max(len(prefix) - 1, 1)
                assert not any(kept[:size - 1]), "what everybody sees is not predicted"
                assert kept[size - 1:len(prefix) - 1] == [True] * (len(prefix) - size)
                sizes.append(size / len(prefix))
    assert len(set(sizes)) > 5


def test_a_prefix_sees_itself_whole_and_nothing_after_it():
    model = random_decoder()
    ids = torch.randint(0, 97, (1, 12), generator=torch.Generator().manual_seed(0))
    documents = torch.tensor([[0] * 7 + [1] * 5])
    prefix = torch.tensor([[True] * 4 + [False] * 3 + [True] * 2 + [False] * 3])
    base = model(ids, document_ids=documents, prefix=prefix)
    for place in range(12):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % 97
        moved_by = (model(other, document_ids=documents, prefix=prefix) - base).abs().amax(-1)[0] > 1e-6
        start, end = (0, 7) if place < 7 else (7, 12)
        sees = {query for query in range(start, end) if query >= place or bool(prefix[0, place])}
        assert set(moved_by.nonzero()[:, 0].tolist()) == sees


# -- fill in the middle ----------------------------------------------------------------------------------------------

SENTINELS = Sentinels(prefix=1001, suffix=1002, middle=1003, start=1, end=2)


@given(st.integers(2, 40), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_the_text_can_be_put_together_again(length, whole, cut_off, suffix_first, seed):
    text = np.arange(10, 10 + length)
    tokens = np.concatenate([[1] if whole else [], text, [] if cut_off else [2]]).astype(np.int64)
    made = moved(tokens, np.random.default_rng(seed), SENTINELS, room=100, suffix_first=suffix_first)
    assert len(made) == whole + length + 4
    assert made[-1] == 2
    body = made[int(whole):-1].tolist()
    if suffix_first:
        assert body[:2] == [1001, 1002]
        middle = body.index(1003)
        suffix, rest = body[2:middle], body[middle + 1:]
        found = rest + suffix
    else:
        a, b = body.index(1002), body.index(1003)
        assert body[0] == 1001
        found = body[1:a] + body[b + 1:] + body[a + 1:b]
    assert found == text.tolist()


def test_pieces_are_rewritten_at_the_rate_and_stay_documents_of_their_own(shards):
    tokenizer = full_tokenizer()
    marks = [tokenizer.token_id(name) for name in ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")]
    counted = {}
    for rate in (0.0, 0.5, 1.0):
        source = FillInTheMiddle(rate=rate).batches(shards, tokenizer, context=64, batch=4, seed=0)
        pieces = rewritten = 0
        for step in range(20):
            batch = source.batch(step)
            for row in range(4):
                for number in batch["document_ids"][row].unique():
                    own = batch["document_ids"][row] == number
                    if number >= 0 and int(own.sum()) > 12:
                        pieces += 1
                        rewritten += marks[0] in batch["input_ids"][row][own].tolist()
            inside = batch["targets"][:, :-1] != -100
            same = batch["document_ids"][:, 1:] == batch["document_ids"][:, :-1]
            assert torch.equal(batch["targets"][:, :-1][inside & same], batch["input_ids"][:, 1:][inside & same])
        counted[rate] = rewritten / pieces
    assert counted[0.0] == 0
    assert 0.3 < counted[0.5] < 0.7
    assert counted[1.0] > 0.95


def test_without_a_rate_it_is_plain_causal_text(shards):
    found = FillInTheMiddle(rate=0.0).batches(shards, full_tokenizer(), context=32, batch=3, seed=0).batch(2)
    wanted = PackedBatches(shards, context=32, batch=3, seed=0).batch(2)
    assert all(torch.equal(found[name], wanted[name]) for name in ("input_ids", "targets", "document_ids"))


# -- multi-token prediction ------------------------------------------------------------------------------------------

def test_later_targets_stop_at_documents_and_at_what_is_not_scored():
    targets = torch.tensor([[11, 12, -100, 14, 15, 16]])
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
    assert later_targets(targets, documents, 1).tolist() == [[12, -100, -100, 15, 16]]
    assert later_targets(targets, documents, 2).tolist() == [[-100, -100, -100, 16]]
    assert later_targets(targets, None, 9).shape == (1, 0)


@pytest.mark.parametrize("form", ["sequential", "parallel"])
def test_the_first_term_is_causal_lm_and_the_others_are_what_they_say(form):
    model, batch = random_decoder(), random_rows(3)
    objective = MultiTokenLM(3, form=form)
    objective.attach(model)
    terms = objective.terms(model, batch)
    plain = CausalLM().terms(model, batch)
    torch.testing.assert_close(terms.sums["loss"], plain.sums["loss"])
    counts = objective.counts(batch)
    assert counts["loss"] >= counts["loss_2"] >= counts["loss_3"] > 0
    # Written out: states of the trunk, through the first further block, to the logits of the token after the next.
    trunk = model.hidden(batch["input_ids"], document_ids=batch["document_ids"])
    states = objective.depths[0](model, trunk[:, :-1], batch["input_ids"][:, 1:], batch["document_ids"][:, :-1])
    logits = F.linear(states, model.head_weight).flatten(0, 1)
    wanted = F.cross_entropy(logits, later_targets(batch["targets"], batch["document_ids"], 1).flatten(),
                             ignore_index=-100, reduction="sum")
    torch.testing.assert_close(terms.sums["loss_2"], wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", ["sequential", "parallel"])
def test_no_place_is_told_the_token_that_it_predicts(form):
    """The depth-2 prediction at a place knows tokens up to the next one, never the one after it."""
    model = random_decoder()
    objective = MultiTokenLM(2, form=form)
    objective.attach(model)
    with torch.no_grad():
        for parameter in objective.depths.parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, 97, (1, 10), generator=torch.Generator().manual_seed(0))
    documents = torch.tensor([[0] * 6 + [1] * 4])

    def states(given):
        trunk = model.hidden(given, document_ids=documents)
        return objective.depths[0](model, trunk[:, :-1], given[:, 1:], documents[:, :-1])

    base = states(ids)
    for place in range(10):
        other = ids.clone()
        other[0, place] = (other[0, place] + 1) % 97
        moved_by = (states(other) - base).abs().amax(-1)[0] > 1e-6
        for query in range(9):
            knows = place <= query + (form == "sequential")
            if not knows:
                assert not moved_by[query], (query, place)


def test_the_further_blocks_start_as_a_function_of_the_model():
    model = random_decoder()
    first, second = MultiTokenLM(3), MultiTokenLM(3)
    first.attach(model)
    torch.manual_seed(99)
    second.attach(model)
    for a, b in zip(first.depths.parameters(), second.depths.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", ["sequential", "parallel"])
def test_every_weight_of_the_further_blocks_learns(form):
    """Copies of a block that looks values up look none up; DDP refuses a weight without a gradient."""
    model = random_decoder(value_embeddings=True)
    objective = MultiTokenLM(3, form=form)
    attached = objective.attach(model)
    sum(objective.terms(model, random_rows(3)).sums.values()).backward()
    assert [name for name, parameter in attached.named_parameters() if parameter.grad is None] == []
    assert model.blocks[-1].attention.value_embedding is not None


def test_rows_that_are_too_short_for_a_depth_add_nothing():
    model = random_decoder()
    objective = MultiTokenLM(4)
    objective.attach(model)
    batch = {"input_ids": torch.tensor([[3, 4]]), "targets": torch.tensor([[4, 5]])}
    assert objective.counts(batch) == {"loss": 2, "loss_2": 1, "loss_3": 0, "loss_4": 0}
    terms = objective.terms(model, batch)
    assert float(terms.sums["loss_4"]) == 0
    assert all(torch.isfinite(value) for value in terms.sums.values())


@pytest.mark.parametrize("change", [{"depth": 0}, {"depth": 17}, {"weight": -1.0}, {"z_loss": -1.0},
                                    {"label_smoothing": 1.0}])
def test_impossible_options_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        MultiTokenPrediction(**change)
