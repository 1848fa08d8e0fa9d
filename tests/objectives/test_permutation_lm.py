"""Permutation language modelling: its loss, what is predicted and in which order, what nobody may see, memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.core.stage import Runtime
from gristmill.models.config import DecoderConfig
from gristmill.models.families import FAMILIES
from gristmill.models.two_stream import TwoStream, permutation_mask
from gristmill.objectives.permutation_lm import PermutationLM
from gristmill.objectives.pretraining import PermutationLanguageModelling, default_objective
from gristmill.objectives.pretraining.permutation_lm import spans
from gristmill.tokens import TokenShards
from gristmill.training import OptimizerConfig, ScheduleConfig, Trainer, TrainingConfig
from gristmill.training.device import prepare
from tests.models.closeness import close
from tests.models.random_two_stream import public_twin, random_two_stream, target_mapping, tiny_config
from tests.objectives.parallel_text import masking_tokenizer, prose, shards_of

CONTEXT, MEMORY = 24, 16


@pytest.fixture(scope="module")
def tokenizer():
    return masking_tokenizer()


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> TokenShards:
    return shards_of(tmp_path_factory.mktemp("texts") / "shards", [*prose(20), ("a", "en", "")])


def source(texts, tokenizer, seed=3, **options):
    return PermutationLanguageModelling(**options).batches(texts, tokenizer, context=CONTEXT, batch=4, seed=seed)


# The draw.

@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 8), st.integers(0, 999))
@settings(max_examples=150, deadline=None)
def test_spans_are_so_many_places_in_stretches_of_their_own(length, one_in, longest, seed):
    options = PermutationLanguageModelling(one_in=one_in, longest_span=longest)
    found = spans(length, options, np.random.default_rng(seed))
    assert len(found) == max(1, length // one_in)
    assert found[0] >= 0
    assert found[-1] < length
    assert (np.diff(found) > 0).all()
    again = spans(length, options, np.random.default_rng(seed))
    assert (found == again).all()


def test_lengths_and_places_are_spread_evenly():
    """Five lengths alike often (runs that touch count as one, which makes the long ones a little longer), and no place
    of the row predicted much more often than another."""
    options, length = PermutationLanguageModelling(one_in=6, longest_span=5), 127
    places, runs = np.zeros(length), np.zeros(40)
    for seed in range(3000):
        found = spans(length, options, np.random.default_rng(seed))
        places[found] += 1
        for run in np.split(found, np.flatnonzero(np.diff(found) > 1) + 1):
            runs[len(run)] += 1
    middle = places[12:-12] / places.sum() * length
    assert middle.min() > 0.75
    assert middle.max() < 1.25
    shares = runs / runs.sum()
    assert all(0.12 < share < 0.28 for share in shares[1:6]), shares[:8]


def test_a_batch_is_a_pure_function_of_seed_and_step(texts, tokenizer):
    first, again, other = (source(texts, tokenizer, seed, memory=MEMORY) for seed in (3, 3, 4))
    jumped, walked = again.batch(7), [first.batch(step) for step in range(8)][7]
    assert walked.keys() == jumped.keys()
    assert all(torch.equal(walked[key], jumped[key]) for key in walked)
    assert not torch.equal(walked["ranks"], other.batch(7)["ranks"])
    assert all(tensor.shape[0] == 4 for tensor in walked.values())
    assert first.tokens_per_batch == 4 * CONTEXT


def test_the_same_row_is_asked_otherwise_in_every_epoch(texts, tokenizer):
    made = source(texts, tokenizer)
    asked: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for step in range(3 * made.text.windows // 4 + 1):
        batch = made.batch(step)
        for ids, ranks in zip(batch["input_ids"].tolist(), batch["ranks"].tolist(), strict=True):
            asked.setdefault(tuple(ids), []).append(tuple(ranks))
    often = [orders for orders in asked.values() if len(orders) > 1]
    assert often
    assert sum(len(set(orders)) == len(orders) for orders in often) > 0.9 * len(often)


def test_what_is_predicted_stands_in_the_row_and_has_a_rank(texts, tokenizer):
    made = source(texts, tokenizer)
    for step in range(6):
        batch = made.batch(step)
        for ids, ranks, places, targets in zip(
                *(batch[key] for key in ("input_ids", "ranks", "target_positions", "targets")), strict=True):
            assert sorted(ranks[places].tolist()) == list(range(CONTEXT // 6))
            assert int((ranks >= 0).sum()) == len(places)
            start = ids[places] == tokenizer.bos_id
            assert torch.equal(targets, torch.where(start, -100, ids[places])), "a start is known by its place"
        assert PermutationLM().counts(batch) == {"loss": int((batch["targets"] >= 0).sum())}


def test_held_out_text_is_asked_the_same_at_every_evaluation(texts, tokenizer):
    held = PermutationLanguageModelling(memory=MEMORY).held_out(
        texts, tokenizer, context=CONTEXT, batch=4, limit_tokens=300, seed=0)
    first, again = list(held), list(held)
    assert len(first) == len(held)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, again, strict=True) for key in a)
    rows = torch.cat([batch["input_ids"][batch["document_ids"] >= 0] for batch in first])
    assert torch.equal(rows, torch.from_numpy(texts.slice(0, len(rows)).astype(np.int64)))
    assert held.total_bytes is None
    padding = torch.cat([batch["target_positions"][(batch["document_ids"] < 0).all(1)] for batch in first])
    assert (padding == -1).all()
    for batch in first:
        aimed = batch["target_positions"] >= 0
        documents = batch["document_ids"].gather(1, batch["target_positions"].clamp(min=0))
        assert (documents[aimed] >= 0).all(), "padding is never asked for"


# Memory.

def test_memory_is_the_text_right_before_the_row(texts, tokenizer):
    made = source(texts, tokenizer, memory=MEMORY)
    whole, index = texts.slice(0, texts.total_tokens), texts.document_index(0, texts.total_tokens)
    seen = set()
    for step in range(made.text.windows // 4):
        batch = made.batch(step)
        for row, start in enumerate((made.text.order.at(step) * CONTEXT).tolist()):
            seen.add(start)
            assert batch["input_ids"][row].tolist() == whole[start:start + CONTEXT].tolist()
            ids, documents = batch["memory_ids"][row].tolist(), batch["memory_document_ids"][row].tolist()
            for place in range(MEMORY):
                at = start - MEMORY + place
                if at < 0:
                    assert documents[place] == -1
                    continue
                assert ids[place] == whole[at]
                now = batch["document_ids"][row].tolist()
                for i, number in enumerate(now):
                    assert (documents[place] == number) == (index[at] == index[start + i])
    assert {0, CONTEXT} <= seen


def test_memory_lowers_nothing_but_what_it_may_tell(texts, tokenizer):
    """The loss moves with the remembered text of its own document, and not at all with that of another."""
    model = random_two_stream(tiny_config(vocab_size=640))
    made = source(texts, tokenizer, memory=MEMORY)
    moved = 0
    for step in range(6):
        batch = made.batch(step)
        own = batch["memory_document_ids"] == 0
        before = PermutationLM().terms(model, batch).sums["loss"].item()
        for which in (own, ~own):
            changed = {**batch, "memory_ids": torch.where(which, (batch["memory_ids"] + 7) % 600, batch["memory_ids"])}
            after = PermutationLM().terms(model, changed).sums["loss"].item()
            if which is own:
                moved += after != before
            else:
                assert after == pytest.approx(before, rel=1e-6)
    assert moved >= 3


# The loss.

@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_and_its_gradients_are_the_public_ones_with_memory(tied, tmp_path):
    """One document, so that the public class, which knows no documents, can say the same."""
    pytest.importorskip("transformers")
    tokenizer = masking_tokenizer()
    text = " ".join(text for text, _, _ in prose(30))
    shards = shards_of(tmp_path / "shards", [(text, "en", "")])
    model = random_two_stream(tiny_config(vocab_size=640, tied_head=tied), 5)
    theirs = public_twin(model)
    made = PermutationLanguageModelling(memory=MEMORY).batches(shards, tokenizer, context=CONTEXT, batch=4, seed=0)
    batch = next(b for b in map(made.batch, range(99)) if bool((b["memory_document_ids"] == 0).all()))
    objective = PermutationLM()
    terms = objective.terms(model, batch)
    loss = terms.sums["loss"] / objective.counts(batch)["loss"]
    with torch.no_grad():
        mems = theirs(batch["memory_ids"], use_mems=True).mems
    out = theirs(batch["input_ids"], perm_mask=permutation_mask(batch["ranks"]).float(), mems=mems,
                 target_mapping=target_mapping(batch["target_positions"], CONTEXT), labels=batch["targets"])
    assert abs((loss - out.loss).item()) <= 1e-6 * max(1.0, loss.item())
    wanted = (out.logits.argmax(-1) == batch["targets"]).sum()
    assert terms.metrics["accuracy"][0] == wanted
    loss.backward()
    out.loss.backward()
    mapped = FAMILIES["xlnet"].to_public(
        {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}, model.config)
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters() if p.grad is not None)
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            assert float((mapped[name] - parameter.grad).abs().max()) <= 1e-5 * largest, name


def test_no_targets_one_token_and_no_rows_are_computed():
    model = random_two_stream(tiny_config())
    one = {"input_ids": torch.tensor([[5]]), "document_ids": torch.zeros(1, 1, dtype=torch.int32),
           "ranks": torch.tensor([[0]]), "target_positions": torch.tensor([[0]]), "targets": torch.tensor([[5]])}
    value = PermutationLM().terms(model, one).sums["loss"]
    value.backward()
    assert value.isfinite()
    assert value > 0
    nothing = {**one, "targets": torch.tensor([[-100]]), "target_positions": torch.tensor([[-1]])}
    assert PermutationLM().counts(nothing) == {"loss": 0}
    assert PermutationLM().terms(model, nothing).sums["loss"] == 0
    empty = {name: tensor[:0] for name, tensor in one.items()}
    assert PermutationLM().terms(model, empty).sums["loss"] == 0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_all_tokens_predicted_begin_from_nothing(texts, tokenizer):
    batch = source(texts, tokenizer, one_in=1).batch(0)
    assert (batch["ranks"] >= 0).all()
    assert batch["target_positions"].shape == (4, CONTEXT)
    assert PermutationLM().terms(random_two_stream(tiny_config(vocab_size=640)), batch).sums["loss"].isfinite()


# What nobody may see.

@given(st.integers(0, 999), st.booleans(), st.booleans())
@settings(max_examples=12, deadline=None)
def test_neither_stream_sees_what_the_order_hides(seed, packed, memory):
    """Change one token: a query moves only where its token comes later in the order (or the changed one is context)
    and is of the same document; a content state besides where it is the token's own."""
    generator = torch.Generator().manual_seed(seed)
    model = random_two_stream(tiny_config(layers=3), seed)
    time, remembered = 10, 4 if memory else 0
    ids = torch.randint(0, 61, (1, remembered + time), generator=generator)
    order = torch.randperm(time, generator=generator)
    ranks = torch.where(order < 6, order, -1)[None]
    cut = int(torch.randint(1, time, (1,), generator=generator))
    documents = (torch.arange(-remembered, time) >= cut).int()[None] if packed else torch.zeros(
        1, remembered + time, dtype=torch.int32)

    def run(ids):
        mems = model.remember(ids[:, :remembered], document_ids=documents[:, :remembered]) if memory else None
        arguments = {"document_ids": documents[:, remembered:], "perm_mask": permutation_mask(ranks), "mems": mems}
        with torch.no_grad():
            return (model.encode(ids[:, remembered:], targets=torch.arange(time)[None], **arguments).output[0],
                    model.encode(ids[:, remembered:], **arguments).output[0])

    before = run(ids)
    for changed in range(remembered + time):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1 + seed % 60) % 61
        after = run(other)
        j = changed - remembered
        for i in range(time):
            same = bool(documents[0, changed] == documents[0, remembered + i])
            context = j < 0 or ranks[0, j] < 0
            free = same and (context or bool(ranks[0, j] < ranks[0, i]))
            # Context does not see what is predicted, and so tells nobody of it.
            for stream, may in ((0, free), (1, free or i == j)):
                moved = not torch.allclose(before[stream][i], after[stream][i], atol=1e-5)
                assert moved == may, (stream, i, changed)


# Resuming.

class Killed(Exception):
    pass


class Windows:
    """The trainer's view of batches; raises at `stop`."""

    def __init__(self, batches, stop=None):
        self.batches, self.stop = batches, stop

    def window(self, step):
        if step == self.stop:
            raise Killed
        return [self.batches.batch(step)]


def trainer(folder: Path, batches, stop=None, seed=1) -> Trainer:
    model = TwoStream(tiny_config(vocab_size=640, context=CONTEXT, dropout=0.1))
    model.initialise(seed)
    torch.manual_seed(seed)  # of dropout
    # The embedding's own rate follows from first weights where it is not set; here these differ on purpose.
    chosen = TrainingConfig(optimizer=OptimizerConfig(embedding_learning_rate=0.05), schedule=ScheduleConfig(),
                            evaluations=2, checkpoint_seconds=0.0)
    return Trainer(model=model, objective=PermutationLM(), source=Windows(batches, stop), steps=9,
                   compute=prepare(Runtime(device="cpu", threads=1, precision="fp32")), folder=folder,
                   checkpoints=folder / "checkpoints", config=chosen, evaluate=None)


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_stopped_anywhere_it_ends_with_the_same_bits_memory_included(stop, texts, tokenizer, tmp_path):
    whole = trainer(tmp_path / "whole", source(texts, tokenizer, memory=MEMORY))
    expected = whole.fit()
    with pytest.raises(Killed):
        trainer(tmp_path / "cut", source(texts, tokenizer, memory=MEMORY), stop).fit()
    # What it starts from must not matter: all is in the checkpoint.
    again = trainer(tmp_path / "cut", source(texts, tokenizer, memory=MEMORY), seed=99)
    assert again.fit() == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


# The contract.

def test_a_guess_is_a_distribution_that_the_word_itself_does_not_change(tokenizer):
    model = random_two_stream(tiny_config(vocab_size=640))
    options = default_objective("permutation_lm")
    with torch.no_grad():
        found, true = options.guess(model, tokenizer, "Sentence one of text", " seven tells")
        other, _ = options.guess(model, tokenizer, "Sentence one of text", " nine")
        moved, _ = options.guess(model, tokenizer, "Sentence two of text", " nine")
    assert found.shape == (640,)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert true == tokenizer.encode(" seven tells")[0]
    assert torch.equal(found, other)
    assert not close(found, moved, 1e-3)


@pytest.mark.parametrize(("options", "field"), [
    ({"one_in": 0}, "one_in"), ({"longest_span": 0}, "longest_span"), ({"memory": -1}, "memory")])
def test_impossible_options_are_refused_by_name(options, field):
    with pytest.raises(ValueError, match=f"^{field}: "):
        PermutationLanguageModelling(**options)


@pytest.mark.parametrize(("changes", "options", "message"), [
    ({"causal": True}, {}, "causal"), ({"memory": 8}, {"memory": 9}, "forgets"), ({"reuse": 8}, {"memory": 4}, "reuse"),
])
def test_models_that_cannot_be_trained_so_are_refused(changes, options, message, tokenizer):
    with pytest.raises(UserError, match=message) as error:
        PermutationLanguageModelling(**options).check(tiny_config(**changes), tokenizer)
    assert error.value.fix
    decoder = DecoderConfig(vocab_size=50, dim=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp_dim=64, context=32)
    with pytest.raises(UserError, match="two-stream"):
        PermutationLanguageModelling(**options).check(decoder, tokenizer)
    PermutationLanguageModelling(memory=8).check(tiny_config(memory=8), tokenizer)


def test_text_that_fills_no_batch_is_refused(tokenizer, tmp_path):
    shards = shards_of(tmp_path / "shards", [("a", "en", "")])
    with pytest.raises(UserError, match="fewer than"):
        PermutationLanguageModelling().batches(shards, tokenizer, context=CONTEXT, batch=4, seed=0)


def test_targets_are_scored_at_their_own_places():
    """By hand: the sum over the order of -log p(word | what came before), one query at a time."""
    model = random_two_stream(tiny_config(), 2)
    ids = torch.randint(0, 61, (1, 8), generator=torch.Generator().manual_seed(1))
    ranks = torch.tensor([[-1, 2, 0, -1, 1, -1, -1, 3]])
    places = torch.tensor([[1, 2, 4, 7]])
    batch = {"input_ids": ids, "document_ids": torch.zeros(1, 8, dtype=torch.int32), "ranks": ranks,
             "target_positions": places, "targets": ids.gather(1, places)}
    expected = torch.zeros(())
    for place in places[0].tolist():
        logits = model(ids, perm_mask=permutation_mask(ranks), target_mapping=F.one_hot(
            torch.tensor([[place]]), 8).float())[0, 0]
        expected = expected - logits.log_softmax(-1)[ids[0, place]]
    assert PermutationLM().terms(model, batch).sums["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
