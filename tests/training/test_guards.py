"""Outliers, the noise scale, fp16 and numbers that are not finite, in the loop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from gristmill.core.errors import MachineError, UserError
from gristmill.core.stage import Runtime
from gristmill.models import Decoder, DecoderConfig
from gristmill.objectives import DPO, CausalLM
from gristmill.training import OptimizerConfig, ScheduleConfig, Trainer, TrainingConfig
from gristmill.training.device import prepare
from gristmill.training.outliers import FEWEST
from tests.training.slopes import InfiniteSlope

TINY = DecoderConfig(vocab_size=50, dim=16, layers=1, heads=1, kv_heads=1, head_dim=16, mlp_dim=32, context=16)
KINDS = ("muon", "adamw", "adam", "sgd", "adafactor", "lion", "adamw8bit")


class Text:
    """Rows of counting numbers, the same every time; at `odd` steps random ones with a loss far above."""

    def __init__(self, pieces=1, odd=(), rows=4):
        self.pieces, self.odd, self.rows = pieces, odd, rows

    def window(self, step):
        start = torch.arange(self.rows)[:, None] + step
        ids = (start + torch.arange(17)) % 50
        if step in self.odd:
            ids = torch.randint(0, 50, ids.shape, generator=torch.Generator().manual_seed(step))
        whole = {"input_ids": ids[:, :-1], "targets": ids[:, 1:]}
        size = self.rows // self.pieces
        return [{n: t[i:i + size] for n, t in whole.items()} for i in range(0, self.rows, size)]

    def documents(self, step, row):
        return [f"document {step}/{row} (web)"]


class Killed(Exception):
    pass


def trainer(folder: Path, *, steps=8, source=None, precision="fp32", kind="adamw", seed=0, objective=None,
            **config):
    model = Decoder(TINY)
    model.initialise(seed)
    compute = prepare(Runtime(device="cpu", threads=1, precision=precision))
    settings = {"optimizer": OptimizerConfig(kind=kind, learning_rate=0.01), "schedule": ScheduleConfig(),
                "evaluations": 1, "checkpoint_seconds": 0.0, **config}
    return Trainer(model=model, objective=objective or CausalLM(), source=source or Text(), steps=steps,
                   compute=compute, folder=folder, checkpoints=folder / "checkpoints",
                   config=TrainingConfig(**settings))


def trace(folder):
    return [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]


def cut_and_resumed(folder, cuts, source, **options):
    """Killed before each of these steps, begun again, and run to the end."""
    for cut in cuts:
        t = trainer(folder, source=source, **options)

        class Cutting(type(source)):
            def window(self, step, cut=cut):
                if step == cut:
                    raise Killed
                return super().window(step)

        t.source = Cutting(**vars(source))
        with pytest.raises(Killed):
            t.fit()
    t = trainer(folder, source=source, seed=99, **options)
    t.fit()
    return t


def same_run(one, other):
    assert (one.folder / "trace.jsonl").read_bytes() == (other.folder / "trace.jsonl").read_bytes()
    for (name, left), right in zip(one.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right), name


SPIKES = (FEWEST + 6, FEWEST + 9)
MARK = 49
"""A token that makes all logits of its batch a thousand times larger."""


class Marked(Text):
    def window(self, step):
        window = super().window(step)
        for batch in window:
            batch["input_ids"] = batch["input_ids"].clamp(max=MARK - 1)
            if step in self.odd:
                batch["input_ids"][0, 0] = MARK
        return window


def with_marks(t):
    seen = []
    t.model.embedding.register_forward_hook(lambda module, args, out: seen.append(bool((args[0] == MARK).any())))
    t.model.norm.register_forward_hook(lambda module, args, out: out * 1000 if seen[-1] else None)
    return t


@pytest.mark.parametrize("kind", ["muon", "sgd"])
def test_planted_outliers_are_skipped_counted_and_survive_a_resume(tmp_path, kind):
    """Of the other kinds see test_outliers.py."""
    options = {"steps": FEWEST + 12, "skip_outliers": 6.0, "kind": kind, "checkpoint_seconds": 3600.0,
               "source": Marked(odd=SPIKES)}
    whole, seen = with_marks(trainer(tmp_path / "whole", **options)), {}
    step_unless = whole.optimizer.step_unless

    def watched(skip):
        before = {n: p.detach().clone() for p, n in whole.names.items()}
        step_unless(skip)
        seen[whole.step] = (bool(skip), all(torch.equal(p, before[n]) for p, n in whole.names.items()))

    whole.optimizer.step_unless = watched
    whole.fit()
    assert {step for step, (skip, _) in seen.items() if skip} == set(SPIKES)
    assert {step for step, (_, unchanged) in seen.items() if unchanged} - {whole.steps - 1} == set(SPIKES)
    counted = [record["skipped"] for record in trace(whole.folder)]
    assert counted == [sum(at >= spike for spike in SPIKES) for at in range(len(counted))]

    class Cutting(Marked):
        def window(self, step):
            if step == SPIKES[0] + 1:
                raise Killed
            return super().window(step)

    options["keep_every"] = SPIKES[0] + 1  # writes a checkpoint then
    cut = with_marks(trainer(tmp_path / "cut", **{**options, "source": Cutting(odd=SPIKES)}))
    with pytest.raises(Killed):
        cut.fit()
    resumed = with_marks(trainer(tmp_path / "cut", seed=99, **options))
    resumed.fit()
    same_run(whole, resumed)


def test_without_outliers_nothing_changes(tmp_path):
    with_, without = trainer(tmp_path / "a", skip_outliers=6.0), trainer(tmp_path / "b")
    with_.fit()
    without.fit()
    records = [{k: v for k, v in record.items() if k != "skipped"} for record in trace(with_.folder)]
    assert records == trace(without.folder)


def test_the_noise_scale_is_traced_and_changes_nothing(tmp_path):
    plain = trainer(tmp_path / "plain", steps=6)
    plain.fit()
    for pieces in (1, 2):
        t = trainer(tmp_path / str(pieces), steps=6, source=Text(pieces), noise_scale=True)
        t.fit()
        for record, expected in zip(trace(t.folder), trace(plain.folder), strict=True):
            assert record["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    found = [record.get("noise_scale") for record in trace(t.folder)]
    assert any(value is not None for value in found)
    assert all(value is None or value > 0 for value in found)
    resumed = cut_and_resumed(tmp_path / "cut", [3], Text(2), steps=6, noise_scale=True)
    same_run(t, resumed)


def test_the_noise_scale_leaves_pairs_of_preferences_whole(tmp_path):
    class Preferences(Text):
        def window(self, step):
            return [{**batch, "reference_logps": -20.0 - torch.arange(self.rows)} for batch in super().window(step)]

    runs = [trainer(tmp_path / str(on), steps=3, source=Preferences(rows=6), objective=DPO(anchor=0.2), noise_scale=on)
            for on in (False, True)]
    for t in runs:
        t.fit()
    for plain, measured in zip(*(trace(t.folder) for t in runs), strict=True):
        for name in ("loss", "anchor", "grad_norm"):
            assert measured[name] == pytest.approx(plain[name], rel=1e-5)


def test_the_noise_scale_is_that_of_the_gradients_themselves(tmp_path):
    """Against both estimates made by hand, of micro-batches with unequal numbers of targets."""
    from gristmill.training.noise_scale import estimates

    class Uneven(Text):
        def window(self, step):
            window = [{n: t.clone() for n, t in batch.items()} for batch in super().window(step)]
            window[0]["targets"][0, :7] = -100
            return window

    t = trainer(tmp_path, source=Uneven(2), noise_scale=True)
    window = t.source.window(0)
    means, sizes = [], []
    for batches in (window[:1], window):
        count = sum(t.objective.counts(b)["loss"] for b in batches)
        t.optimizer.zero_grad()
        for batch in batches:
            (t.objective.terms(t.model, batch).sums["loss"] / count).backward()
        means.append(sum(float(p.grad.square().sum()) for p in t.names if p.grad is not None))
        sizes.append(count)
    t.optimizer.zero_grad()
    t.update(window)
    square, trace_ = estimates(torch.tensor(means[0]), sizes[0], torch.tensor(means[1]), sizes[1])
    found = t.guards.noise.sums / t.guards.noise.sums[2]
    torch.testing.assert_close(found[:2], torch.stack([square, trace_]), rtol=1e-4, atol=1e-5)


def test_fp16_learns_traces_its_scale_and_resumes(tmp_path):
    options = {"steps": 10, "precision": "fp16"}
    whole = trainer(tmp_path / "whole", **options)
    result = whole.fit()
    assert result["final_loss"] < trace(whole.folder)[0]["loss"]
    assert {record["loss_scale"] for record in trace(whole.folder)} == {2.0**16}
    same_run(whole, cut_and_resumed(tmp_path / "cut", [4], Text(), **options))


def test_an_overflow_of_fp16_skips_halves_and_goes_on(tmp_path):
    t = trainer(tmp_path / "a", steps=6, precision="fp16")
    before = {n: p.detach().clone() for p, n in t.names.items()}
    t.guards.scaler.load_tensors({"scale": torch.tensor(2.0**40), "growth_tracker": torch.tensor(0)})
    records = [t.update(t.source.window(step)) for step in range(3)]
    assert all(torch.equal(p, before[n]) for p, n in t.names.items())
    assert [record["loss_scale"] for record in records] == [2.0**39, 2.0**38, 2.0**37]
    assert not any("grad_norm" in record for record in records)
    assert all(json.loads(json.dumps(record, allow_nan=False)) for record in records)


def test_where_no_scale_helps_fp16_says_where_it_overflows(tmp_path):
    t = trainer(tmp_path, precision="fp16")
    t.guards.scaler.load_tensors({"scale": torch.tensor(2.0**-5), "growth_tracker": torch.tensor(0)})
    t.model.norm.register_forward_hook(lambda module, args, out: InfiniteSlope.apply(out))
    with pytest.raises(UserError, match=r"not finite.*gradient"):
        t.update(t.source.window(0))


@pytest.mark.parametrize(("pieces", "options"), [(2, {}), (2, {"skip_outliers": 6.0}), (1, {"noise_scale": True})])
def test_what_is_not_finite_names_layer_row_and_documents(tmp_path, pieces, options):
    t = trainer(tmp_path, source=Text(pieces), steps=40, checkpoint_seconds=3600.0, **options)

    def breaks(module, args, out):
        return out.masked_fill((args[0] == 44)[..., None], math.nan)

    t.model.embedding.register_forward_hook(breaks)
    with pytest.raises(UserError) as caught:
        t.fit()
    # Row 0 begins with the number of the step: 44 is first read at the end of row 3, in the second half.
    step = 44 - 15 - 3
    said = str(caught.value)
    assert f"step {step + 1} is not finite: loss nan" in said
    assert "the output of embedding, in micro-batch 2 of 2. Row 2 of it gives this alone" in said
    assert f"document {step}/3 (web)" in said
    assert t.step == step
    assert len(trace(t.folder)) == step


def test_out_of_memory_says_what_was_tried(tmp_path):
    t = trainer(tmp_path)

    def full(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")

    t.model.embedding.register_forward_pre_hook(full)
    with pytest.raises(MachineError, match=r"4 rows of 16 tokens at once \(CUDA out of memory\)") as caught:
        t.fit()
    assert "micro_batch: auto" in str(caught.value.fix)
