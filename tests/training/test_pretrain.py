"""The stage `pretrain` with mixtures, curricula and best-fit packing: what it reads, what it writes down, and resuming
in the middle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gristmill.core.artifact import Artifact
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, read_jsonl
from gristmill.core.progress import Silent
from gristmill.core.seeds import derive_seed
from gristmill.core.stage import Runtime, StageContext
from gristmill.data.documents import Document, row, write_shard
from gristmill.models.spec import ModelSpec
from gristmill.objectives.pretraining import MaskedLanguageModelling, MultiTokenPrediction, PrefixLanguageModelling
from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.train import train_bpe
from gristmill.tokens import BatchWarmup, Curriculum, Mixture, MixturePoint, Positions, materialise, text_batches
from gristmill.training.loop import Trainer, TrainingConfig
from gristmill.training.optimizers import OptimizerConfig
from gristmill.training.pretrain import Budget, Pretrain
from gristmill.training.reading import Windows, check_reading, shortened

torch.set_num_threads(1)
CONTEXT, STEPS = 32, 10


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A corpus of two sources with scores, and its tokenizer."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    words = {"prose": ["the", "mill", "turns", "slowly", "and", "grinds"], "code": ["def", "return", "(x)", "=", "1"]}
    texts = [(source, " ".join(rng.choice(words[source], int(rng.integers(2, 60)))))
             for source in rng.choice(["prose", "code"], 260, p=[0.8, 0.2])]
    for split, part in (("train", texts[:220]), ("valid", texts[220:])):
        write_shard(folder / "corpus" / "documents" / f"{split}-00000.parquet", [
            row(Document(id=f"{source}/{split}{i}", text=text, source=str(source), metadata={"score": len(text) % 7}),
                split=split) for i, (source, text) in enumerate(part)])
    train_bpe([[text for _, text in texts]], vocab_size=300).save(folder / "tokenizer")
    return {kind: Artifact(folder / kind, {"kind": kind, "name": kind, "digest": f"{kind} 1", "version": 1})
            for kind in ("corpus", "tokenizer")}


def recipe(**settings):
    return Pretrain(**{
        "corpus": "corpus", "tokenizer": "tokenizer", "budget": Budget(steps=STEPS), "batch": 8, "micro_batch": 3,
        "model": ModelSpec(depth=1, dim=32, heads=2, context=CONTEXT), "validation_tokens": 200, "prompts": [],
        "training": TrainingConfig(evaluations=1, checkpoint_seconds=0.0), **settings})


def run(stage, inputs, folder):
    """The losses of every step, and plan.json."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    stage.run(StageContext(name="r/base@1", seed=5, work=work, cache=folder / "cache", inputs=inputs,
                           runtime=Runtime(device="cpu", threads=1, compile="never", precision="fp32")))
    return [step["loss"] for step in read_jsonl(work / "trace.jsonl")], read_json(work / "plan.json")


EVERYTHING = {
    "mixture": Mixture(max_epochs=9),
    "curriculum": Curriculum(by="metadata.score", buckets=3, short_rows=8, short_until=0.5,
                             mixtures=[MixturePoint(at=0.2, weights={"code": 0.2, "prose": 0.8}),
                                       MixturePoint(at=0.8, alpha=0.0)]),
    "packing": "best_fit", "batch_warmup": BatchWarmup(start=2, tokens=400),
}


def test_a_run_with_everything_resumed_in_the_middle_is_the_undisturbed_run(inputs, tmp_path, monkeypatch):
    stage = recipe(**EVERYTHING)
    losses, plan = run(stage, inputs, tmp_path / "whole")
    assert len(losses) == STEPS
    advance = Trainer.advance

    def stops(trainer, window, *times):
        if trainer.step == 6 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return advance(trainer, window, *times)

    stopped: list[bool] = []
    monkeypatch.setattr(Trainer, "advance", stops)
    with pytest.raises(KeyboardInterrupt):
        run(stage, inputs, tmp_path / "stopped")
    again, same_plan = run(stage, inputs, tmp_path / "stopped")
    assert again == losses
    assert same_plan == plan


def test_the_plan_says_what_is_read(inputs, tmp_path):
    _, plan = run(recipe(**EVERYTHING), inputs, tmp_path)
    rows = Positions(8, CONTEXT, EVERYTHING["batch_warmup"]).span(STEPS)[0]
    assert plan["reading"]["rows"] == rows < STEPS * 8
    assert plan["tokens"] == rows * CONTEXT
    assert plan["packed"]["padding"] < 0.2
    assert plan["packed"]["cut_by_windows"] > 0
    components = plan["arrangement"]["mixture"]["components"]
    assert {one["name"] for one in components} == {"code", "prose"}
    assert sum(one["drawn"] for one in components) == rows * CONTEXT
    shares = np.array(plan["arrangement"]["shares"]["shares"])
    half = len(shares) // 2
    assert shares[half:, 0].mean() > shares[:half, 0].mean() + 0.1  # code: from 0.2 to 0.5
    assert plan["arrangement"]["row_lengths"][0] == 8
    assert plan["arrangement"]["row_lengths"][-1] == CONTEXT
    assert sum(sum(one["drawn"]) for one in plan["arrangement"]["buckets"]) == rows


def test_left_out_settings_leave_the_batches_as_they_were(inputs, tmp_path):
    """The rows of a plain run are those of its objective alone, in its order; nothing new is in its plan."""
    _, plan = run(recipe(), inputs, tmp_path)
    assert not {"reading", "arrangement", "packed"} & plan.keys()
    from gristmill.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    shards = materialise(inputs["corpus"], tokenizer, "train", tmp_path / "cache")
    seed = derive_seed(5, "order")
    for task in (None, PrefixLanguageModelling()):
        def make(task=task):
            if task is None:
                return text_batches(shards, context=CONTEXT, batch=8, seed=seed)
            return task.batches(shards, tokenizer, context=CONTEXT, batch=8, seed=seed)

        windows = Windows(make, Positions(8, CONTEXT), 3)
        for step in (0, 3, 17):
            parts = windows.window(step)
            assert [len(part["input_ids"]) for part in parts] == [3, 3, 2]
            whole = make().batch(step)
            for name, tensor in whole.items():
                assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


def test_short_rows_hold_the_same_targets():
    batch = {"input_ids": torch.arange(24).reshape(2, 12), "targets": torch.arange(1, 25).reshape(2, 12),
             "document_ids": torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2], [0] * 7 + [-1] * 5],
                                          dtype=torch.int32)}
    short = shortened(batch, 3)
    assert short["input_ids"].tolist()[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert torch.equal(short["targets"].flatten(), batch["targets"].flatten())
    assert short["document_ids"].tolist() == [
        [0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, -1], [-1, -1, -1, -1]]


@pytest.mark.parametrize("objective", ["masked_lm", "next_sentence", "prefix_lm", "fill_in_the_middle", "multi_token"])
def test_mixtures_work_for_every_objective(objective, inputs, tmp_path):
    from gristmill.objectives.pretraining import KINDS
    from gristmill.tokens import arrange
    from tests.objectives.causal_text import full_tokenizer

    tokenizer = full_tokenizer()
    shards = materialise(inputs["corpus"], tokenizer, "train", tmp_path)
    task = KINDS[objective]()
    arrangement = arrange(shards, inputs["corpus"], "train", context=CONTEXT, mixture=Mixture(alpha=0.0))
    rows = arrangement.rows(
        lambda text, seed: task.batches(text, tokenizer, context=CONTEXT, batch=1, seed=seed), 50, 1)
    whole = rows.rows(np.arange(20))
    for place in (0, 7, 19):
        alone = rows.rows(np.array([place]))
        for name, tensor in alone.items():
            assert torch.equal(tensor[0], whole[name][place])
    assert rows.interleaving.counts(20).tolist() == [10, 10]


def test_objectives_with_their_own_rows_refuse_other_layouts(inputs, tmp_path):
    model = ModelSpec(family="bert", depth=1, dim=32, heads=2, context=CONTEXT)
    for settings, message in (({"packing": "best_fit"}, "lays out its rows in its own way"),
                              ({"curriculum": Curriculum(short_rows=8)}, "rows of masked_lm cannot be cut")):
        stage = recipe(model=model, objective=MaskedLanguageModelling(), **settings)
        with pytest.raises(UserError, match=message):
            check_reading(stage.objective, stage.packing, stage.curriculum)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"batch_warmup": BatchWarmup(start=8, tokens=400)}, "batch_warmup.start: must be less than the batch, 8"),
    ({"micro_batch": 9}, "micro_batch: must be at most the batch, 8")])
def test_sizes_that_do_nothing_are_refused(inputs, tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        recipe(**wrong)
    with pytest.raises(ValueError, match="checkpoint_seconds: must not be negative"):
        TrainingConfig(checkpoint_seconds=-1.0)
    with pytest.raises(UserError, match="129 rows at once are more than the 128 of an update"):
        run(recipe(batch=None, micro_batch=129), inputs, tmp_path)
    with pytest.raises(UserError, match="updates of 128 rows are no smaller than the full ones of 128"):
        run(recipe(batch=None, batch_warmup=BatchWarmup(start=128, tokens=400)), inputs, tmp_path)


def test_two_sayings_of_how_much_is_read_are_refused():
    with pytest.raises(ValueError, match=r"weights and curriculum\.mixtures both say"):
        recipe(mixture=Mixture(weights={"*": 1}), curriculum=Curriculum(mixtures=[MixturePoint(at=0)]))


def test_a_mixture_that_cannot_be_stops_before_training(inputs, tmp_path):
    with pytest.raises(UserError, match=r"nothing called web(?s:.*)choose from code, prose"):
        run(recipe(mixture=Mixture(weights={"web": 1, "*": 1})), inputs, tmp_path)
    assert not (tmp_path / "work" / "trace.jsonl").exists()


def test_pairs_of_similar_lengths_waste_no_places(inputs, tmp_path):
    from gristmill.objectives.pretraining import NextSentencePrediction
    from tests.objectives.causal_text import full_tokenizer

    tokenizer = full_tokenizer()
    shards = materialise(inputs["corpus"], tokenizer, "train", tmp_path)
    shares = []
    for similar in (False, True):
        task = NextSentencePrediction(short=0.0, similar_lengths=similar)
        windows = Windows(lambda task=task: task.batches(shards, tokenizer, context=96, batch=6, seed=0),
                          Positions(6, 96), 4)
        filled = places = 0
        for step in range(20):
            parts = windows.window(step)
            assert all(len(part["next_sentence_label"]) == len(part["input_ids"]) for part in parts)
            assert sum(part["input_ids"].numel() for part in parts) <= 6 * 96
            filled += sum(int((part["document_ids"] >= 0).sum()) for part in parts)
            places += sum(part["input_ids"].numel() for part in parts)
        shares.append(filled / places)
    assert shares[1] > 0.85 > shares[0]
    for negatives in ("another_document", "swapped"):  # nothing is cut off
        task = NextSentencePrediction(similar_lengths=True, negatives=negatives)
        pairs = task.batches(shards, tokenizer, context=96, batch=6, seed=0).batches.sources[0]
        most = pairs.lengths()
        assert len(most) == pairs.rows
        assert all(len(pairs.row(i, version).ids) <= most[i] for i in range(0, pairs.rows, 3) for version in (0, 1))
    with pytest.raises(UserError, match="order of their own"):
        check_reading(NextSentencePrediction(similar_lengths=True), "concatenate", None, mixed=True)


def test_the_largest_micro_batch_is_found_written_down_and_kept(inputs, tmp_path, monkeypatch):
    """With less memory than the planner wants for a whole update; resumed, with more, the choice stays."""
    from gristmill.training import pretrain

    whole, _ = run(recipe(micro_batch=8), inputs, tmp_path / "whole")
    stage = recipe(micro_batch="auto")
    fits = []
    real = pretrain.fitting
    monkeypatch.setattr(pretrain, "fitting", lambda *a, **k: fits.append(real(*a, **k)) or fits[-1])
    run(recipe(micro_batch="auto", budget=Budget(steps=1)), inputs, tmp_path / "probe")
    by_rows = {fit.rows: fit.memory.total for fit in fits[0]}
    assert max(by_rows) == 8
    monkeypatch.setattr(pretrain, "available_bytes", lambda device: by_rows[3] / 0.92 * 1.001)
    advance = Trainer.advance

    def killed(trainer, *args, **kwargs):
        if trainer.step == 4:
            raise KeyboardInterrupt
        return advance(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        run(stage, inputs, tmp_path / "cut")
    decided = read_json(tmp_path / "cut" / "work" / "telemetry" / "compute.json")
    assert decided["micro_batch"] == 3
    monkeypatch.setattr(Trainer, "advance", advance)
    monkeypatch.setattr(pretrain, "available_bytes", lambda device: 1e12)
    losses, plan = run(stage, inputs, tmp_path / "cut")
    assert plan["micro_batch"] == "auto"
    assert any("micro_batch = 3" in note for note in plan["derivations"])
    assert read_json(tmp_path / "cut" / "work" / "telemetry" / "compute.json") == decided
    np.testing.assert_allclose(losses, whole, rtol=1e-4)
    fixed, _ = run(recipe(micro_batch=3), inputs, tmp_path / "fixed")
    assert losses == fixed


def test_the_layout_is_chosen_for_what_will_be_trained(inputs, tmp_path, monkeypatch):
    """The reasons of `parallel: auto` count what the recipe says of memory, and what it says of rows."""
    from gristmill.training import pretrain

    def chosen(text, work, compute):
        raise KeyboardInterrupt(work)

    monkeypatch.setattr(pretrain, "choose_layout", chosen)
    training = TrainingConfig(activation_checkpointing="full", ema=0.9, noise_scale=True,
                              optimizer=OptimizerConfig(kind="sgd", learning_rate=0.1))
    with pytest.raises(KeyboardInterrupt) as caught:
        run(recipe(micro_batch="auto", training=training, curriculum=Curriculum(short_rows=8),
                   batch_warmup=BatchWarmup(start=2, tokens=400), objective=MultiTokenPrediction()), inputs, tmp_path)
    work = caught.value.args[0]
    assert (work.checkpointing, work.optimizer, work.average, work.noise_scale) == ("full", "momentum", True, True)
    assert (work.rows, work.fewest_rows, work.micro_batch, work.context, work.shortest) == (8, 2, 1, CONTEXT, 8)
    assert type(work.objective).__name__ == "MultiTokenLM"


@pytest.mark.parametrize("growing", [{}, {"batch_warmup": BatchWarmup(start=2, tokens=400)}], ids=["even", "growing"])
def test_a_trial_that_runs_out_of_memory_leaves_the_training_as_it_was(inputs, tmp_path, monkeypatch, growing):
    """As on a GPU: sizes are tried from the largest on, with whole and full updates, before anything counts."""
    from gristmill.training import fit_memory, pretrain

    tried, updates, window = [], [], Windows.window

    def full(module, args):
        tried.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def trying(trainer, fits, source, **options):
        monkeypatch.setattr(Windows, "window", lambda self, step: updates.append(step) or window(self, step))
        hook = trainer.model.embedding.register_forward_pre_hook(full)
        found = fit_memory.try_out(trainer, fits, source, gpu=True, **options)
        hook.remove()
        monkeypatch.setattr(Windows, "window", window)
        return found

    monkeypatch.setattr(pretrain, "try_out", trying)
    losses, plan = run(recipe(micro_batch="auto", **growing), inputs, tmp_path / "tried")
    assert list(dict.fromkeys(tried)) == [8, 4, 3, 2]  # 3, 3 and 2 rows
    first = Positions(8, CONTEXT, growing.get("batch_warmup")).sizes[-1].start
    assert sorted(set(updates)) == [first, first + 1, first + 2]
    assert any("and tried" in note for note in plan["derivations"])
    fixed, _ = run(recipe(micro_batch=3, **growing), inputs, tmp_path / "fixed")
    assert losses == fixed


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_bad_row_is_laid_to_its_documents(inputs, tmp_path, monkeypatch, options):
    """A row is broken on its way to the model; the error names the documents of the corpus whose text it holds."""
    window, broken = Windows.window, {}

    def breaking(self, step):
        made = [{name: tensor.clone() for name, tensor in batch.items()} for batch in window(self, step)]
        broken["ids"] = made[1]["input_ids"][0].clone() if step == STEPS - 1 else None
        for batch in made:
            batch["input_ids"].clamp_(max=298)
        if step == STEPS - 1:
            made[1]["input_ids"][0, 0] = 299
        return made

    monkeypatch.setattr(Windows, "window", breaking)
    stage = recipe(**options)
    begin = Trainer.begin

    def begun(trainer):
        begin(trainer)
        trainer.model.embedding.register_forward_hook(
            lambda module, args, out: out.masked_fill((args[0] == 299)[..., None], float("nan")))

    monkeypatch.setattr(Trainer, "begin", begun)
    with pytest.raises(UserError, match="First not finite: the output of embedding, in micro-batch 2 of 3") as caught:
        run(stage, inputs, tmp_path / "bad")
    said = str(caught.value)
    assert "Row 1 of it gives this alone, which holds" in said
    shards = materialise(inputs["corpus"], Tokenizer.load(inputs["tokenizer"].path), "train",
                         tmp_path / "bad" / "cache", Silent())
    text = shards.slice(0, shards.total_tokens)
    at = next(i for i in range(len(text)) if (text[i:i + 8] == broken["ids"][:8].numpy()).all())
    origin = shards.locate(at)
    assert f"{origin.document} ({origin.source})" in said
