"""Corpora as training rows: components and levels of difficulty, the same order however it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.data.documents import Document, iterate_documents, row, write_shard
from gristmill.tokens import (
    BatchWarmup,
    Curriculum,
    Loader,
    Mixture,
    MixturePoint,
    PackedBatches,
    Positions,
    ShardWriter,
    arrange,
    text_batches,
)
from gristmill.tokens.labels import component_labels, difficulties
from gristmill.tokens.seen import stretches_read
from gristmill.tokens.selection import grouped

CONTEXT = 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four sources of different sizes; token ids are bytes, so that every source has letters of its own."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(150):
        source = ["web", "books", "code", "tiny"][min(int(rng.integers(0, 6)), 2) if number != 77 else 3]
        letters = {"web": "abcdefgh", "books": "ijklmnop", "code": "qrstuvwx", "tiny": "yz"}[source]
        length = 6 if source == "tiny" else int(rng.integers(2, 90))
        text = "".join(rng.choice(list(letters), length))
        metadata = {"score": int(rng.integers(0, 100)), "licence": "cc0" if number % 3 else "cc-by"}
        if number % 10 == 0:
            metadata = {"other": 1}
        rows.append(row(Document(id=f"{source}/{number}", text=text, source=source, metadata=metadata), split="train"))
    folder = tmp_path_factory.mktemp("corpus")
    write_shard(folder / "documents" / "train-00000.parquet", rows)
    return Artifact(folder, {"kind": "corpus", "name": "corpus", "digest": "d1", "version": 1})


@pytest.fixture(scope="module")
def text(corpus, tmp_path_factory):
    with ShardWriter(tmp_path_factory.mktemp("tokens") / "shards", 258, shard_tokens=900) as writer:
        for document in iterate_documents(corpus.path, "train"):
            ids = np.array([256, *document["text"].encode(), 257])
            writer.add(ids, document["id"], len(ids) - 2, source=document["source"])
        return writer.finish()


def made(text, context=CONTEXT):
    return lambda part, seed: text_batches(part, context=context, batch=1, seed=seed)


def sources(text, batch):
    """The source of each row, from its letters."""
    found = []
    for ids in batch["input_ids"]:
        letters = bytes(i for i in ids.tolist() if 97 <= i < 121)
        kinds = {(letter - 97) // 8 for letter in letters}
        assert len(kinds) == 1, "a row has text of one component only"
        found.append(["web", "books", "code"][kinds.pop()])
    return found


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_selection_reads_like_its_documents(text, data):
    groups = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=text.documents, max_size=text.documents)))
    selections = grouped(text, groups, 3)
    for number, selection in enumerate(selections):
        chosen = np.flatnonzero(groups == number)
        assert selection.documents == len(chosen)
        flat = np.concatenate([np.empty(0, dtype=text.dtype), *(text.document(i) for i in chosen)])
        assert selection.total_tokens == len(flat)
        start = data.draw(st.integers(0, len(flat)))
        stop = data.draw(st.integers(start, len(flat)))
        assert np.array_equal(selection.slice(start, stop), flat[start:stop])
        for place, i in enumerate(chosen.tolist()):
            assert np.array_equal(selection.document(place), text.document(i))
            assert selection.document_id(place) == text.document_id(i)
        if len(flat):
            position = data.draw(st.integers(0, len(flat) - 1))
            assert selection.locate(position).document in {text.document_id(i) for i in chosen}
        assert selection.labels("source").tolist() == text.labels("source")[chosen].tolist()
        assert selection.total_bytes == text.document_bytes[chosen].sum()


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_shares_hold_in_every_stretch_of_the_run(corpus, text, packing, tmp_path):
    mixture = Mixture(weights={"web": 0.5, "books": 0.3, "*": 0.2})
    if packing == "best_fit":
        mixture = Mixture(weights={"web": 0.5, "books": 0.3, "code": 0.2, "tiny": 0})
    arrangement = arrange(text, corpus, "train", context=CONTEXT, mixture=mixture, packing=packing, cache=tmp_path)
    assert arrangement.left_out == (["tiny"] if packing == "concatenate" else [])
    rows = arrangement.rows(made(text), 600, 5)
    order = np.array(sources(text, rows.rows(np.arange(600))))
    for name, share in (("web", 0.5), ("books", 0.3), ("code", 0.2)):
        due = np.arange(1, 601) * share
        assert np.abs(np.cumsum(order == name) - due).max() < 1.01
    described = rows.described()["mixture"]
    assert sum(one["share"] for one in described["components"]) == pytest.approx(1)
    again = arrange(text, corpus, "train", context=CONTEXT, mixture=mixture, packing=packing, cache=tmp_path)
    assert torch.equal(again.rows(made(text), 600, 5).rows(np.array([7, 333]))["input_ids"],
                       rows.rows(np.array([7, 333]))["input_ids"])


def test_each_component_has_every_row_once_an_epoch(corpus, text):
    arrangement = arrange(text, corpus, "train", context=CONTEXT, mixture=Mixture(alpha=0.3))
    rows = arrangement.rows(made(text), 400, 5)
    for number, (part, own) in enumerate(zip(arrangement.texts, rows.parts, strict=True)):
        components, draws = rows.interleaving.at(np.arange(400))
        windows = own.order.rows_at(draws[components == number])
        first = windows[:own.epoch_rows]
        assert sorted(first.tolist()) == list(range(len(first))) or len(set(first.tolist())) == len(first)
        assert own.epoch_rows == (part.total_tokens - 1) // CONTEXT


@dataclass
class Share:
    """What one of several ranks reads."""

    source: Any
    positions: Positions
    rank: int
    world: int
    steps: int | None = None

    def batch(self, step):
        return self.source.rows(self.positions.places(step, self.rank, self.world))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_number_of_ranks_and_workers_reads_the_same_order_from_any_step(corpus, text, data):
    """Ranks and reading ahead change at every resume; put together it is what one reader reads without a stop."""
    curriculum = data.draw(st.sampled_from([
        None, Curriculum(by="length", buckets=3),
        Curriculum(mixtures=[MixturePoint(at=0.2), MixturePoint(at=0.8, alpha=0.0)])]))
    warmup = data.draw(st.sampled_from([None, BatchWarmup(start=4, tokens=20 * CONTEXT)]))
    arrangement = arrange(text, corpus, "train", context=CONTEXT, mixture=Mixture(), curriculum=curriculum)
    positions = Positions(12, CONTEXT, warmup)
    steps, step, read = 10, 0, []
    total = positions.span(steps)[0]
    while step < steps:
        stop = data.draw(st.integers(step + 1, steps))
        world = data.draw(st.integers(1, 4))
        rows = arrangement.rows(made(text), total, 9)
        ranks = [Share(rows, positions, rank, world) for rank in range(world)]
        loaders = [Loader(rank, step, stop, prefetch=data.draw(st.integers(0, 2))) for rank in ranks]
        for parts in zip(*loaders, strict=True):
            read += [batch["input_ids"] for _, batch in parts]
        for loader in loaders:
            loader.close()
        step = stop
    alone = arrangement.rows(made(text), total, 9).rows(np.arange(total))["input_ids"]
    assert torch.equal(torch.cat(read), alone)


def test_more_ranks_than_rows_are_refused():
    with pytest.raises(UserError, match="4 rows cannot be dealt to 5 processes"):
        Positions(4, CONTEXT).places(0, 0, 5)


@settings(max_examples=60, deadline=None)
@given(batch=st.integers(1, 40), start=st.integers(1, 40), tokens=st.integers(1, 5000), rows=st.integers(1, 3000))
def test_updates_follow_each_other_and_grow_to_the_batch(batch, start, tokens, rows):
    positions = Positions(batch, 10, BatchWarmup(start=start, tokens=tokens))
    at = 0
    sizes = []
    for step in range(80):
        first, stop = positions.span(step)
        assert first == at
        sizes.append(stop - first)
        at = stop
    assert sizes == sorted(sizes)
    assert sizes[0] == min(start, batch)
    before = sum(size for size in sizes if size < batch)
    if before < at and before:
        levels = len({size for size in sizes if size < batch})
        assert tokens <= before * 10 < tokens + 10 * levels * batch
    steps = positions.steps(rows)
    assert abs(positions.span(steps)[0] - rows) <= batch
    assert Positions(batch, 10).steps(rows) == max(1, round(rows / batch))


@pytest.mark.parametrize(("by", "cached"), [("length", False), ("rarity", True), ("metadata.score", True)])
def test_easy_documents_come_first(corpus, text, by, cached, tmp_path):
    curriculum = Curriculum(by=by, buckets=4, pacing="sorted")
    arrangement = arrange(text, corpus, "train", context=CONTEXT, curriculum=curriculum,
                          cache=tmp_path if cached else None)
    values = difficulties(text, by, corpus, "train", None)
    (component,) = arrangement.components
    assert len(component.buckets) > 1
    seen: list[int] = []
    last = -np.inf
    for bucket in component.buckets:
        own = values[bucket.chosen]
        assert own.min() >= last
        last = own.max()
        seen += bucket.chosen.tolist()
    assert sorted(seen) == list(range(text.documents))
    hard = arrange(text, corpus, "train", context=CONTEXT, curriculum=Curriculum(by=by, buckets=4, hardest_first=True))
    assert values[hard.components[0].buckets[0].chosen].min() >= values[
        hard.components[0].buckets[-1].chosen].max() - 1e-9


def test_rarity_is_the_mean_surprise_of_the_tokens(corpus, text):
    counts = np.bincount(text.slice(0, text.total_tokens), minlength=text.vocab_size)
    expected = [float(np.mean(-np.log2(counts[text.document(i)] / text.total_tokens))) for i in range(text.documents)]
    assert difficulties(text, "rarity", corpus, "train", None) == pytest.approx(expected)


def test_labels_and_numbers_of_the_metadata(corpus, text, tmp_path):
    for cache in (None, tmp_path, tmp_path):
        names, numbers = component_labels(text, "metadata.licence", corpus, "train", cache)
        assert names == ["", "cc-by", "cc0"]
        assert [names[i] for i in numbers[:4]] == ["", "cc0", "cc0", "cc-by"]
    assert np.isinf(difficulties(text, "metadata.score", corpus, "train", None)[::10]).all()
    with pytest.raises(UserError, match=r"no field|has a field 'author'(?s:.*)licence"):
        component_labels(text, "metadata.author", corpus, "train", None)
    with pytest.raises(UserError, match=r"no document has a number called metadata.licence"):
        difficulties(text, "metadata.licence", corpus, "train", None)
    with pytest.raises(UserError, match=r"'tiny' has 8 tokens, less than a row"):
        arrange(text, corpus, "train", context=CONTEXT, mixture=Mixture(weights={"tiny": 1, "*": 1}))
    with pytest.raises(UserError, match="none of "):
        arrange(text, corpus, "train", context=10**6, mixture=Mixture())


def test_a_schedule_of_mixtures_keeps_the_limit_on_epochs(corpus, text):
    curriculum = Curriculum(mixtures=[MixturePoint(at=0, weights={"web": 0, "books": 1, "code": 0})])
    arrangement = arrange(text, corpus, "train", context=CONTEXT, mixture=Mixture(max_epochs=2), curriculum=curriculum)
    with pytest.raises(UserError, match=r"read books .* times, and mixture.max_epochs allows 2"):
        arrangement.rows(made(text), 4000, 0)


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
@pytest.mark.parametrize("reading", [{}, {"mixture": {"weights": {"web": 0.9, "*": 0.1}}},
                                     {"curriculum": {"by": "length", "buckets": 3, "mixtures": []}}])
def test_what_a_run_has_read_is_known_from_its_plan(corpus, text, packing, reading):
    plan = {"steps": 6, "batch": 4, "context": CONTEXT, "seed": 11, "reading": {"packing": packing, **reading}}
    if packing == "best_fit" and "mixture" in reading:
        reading["mixture"]["weights"]["tiny"] = 0
    stretches = stretches_read(plan, text, corpus)
    read = sum(map(len, stretches))
    assert 0 < read <= 24 * CONTEXT * 1.5
    if not reading and packing == "concatenate":
        batches = PackedBatches(text, context=CONTEXT, batch=4, seed=11)
        visited = np.zeros(text.total_tokens, dtype=bool)
        for step in range(6):
            for start in (batches.order.at(step) * CONTEXT).tolist():
                visited[start:start + CONTEXT + 1] = True
        assert read == visited.sum()
    if "mixture" in reading:
        letters = np.concatenate(stretches)
        web = ((letters >= 97) & (letters < 105)).sum()
        assert web / ((letters >= 97) & (letters < 121)).sum() > 0.7
