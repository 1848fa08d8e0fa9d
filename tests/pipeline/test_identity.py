"""What identity depends on, and what it does not."""

import dataclasses
from dataclasses import field
from typing import Literal

from toy_stages import ToyCorpus, ToyFiles, ToyModel, ToyNumbers, ToyScores

from gristmill.core.config import CorpusRef, ModelRef, config
from gristmill.core.stage import stage
from gristmill.pipeline.identity import identity, stage_seed


def toy(config, inputs=(), seed=1, outside=None):
    return identity(config, seed, dict(inputs), outside)


@stage(kind="growing", produces="model")
class Before:
    rate: float = 0.1


@config
class Extra:
    depth: int = 3
    names: list[str] = field(default_factory=list)


@stage(kind="growing", produces="model")
class After:
    rate: float = 0.1
    added: int = 5
    extra: Extra = Extra()
    mode: Literal["a", "b"] = "a"


@stage(kind="growing", produces="model", semantics_version=2)
class Redefined:
    rate: float = 0.1


def test_a_new_field_with_a_default_leaves_old_identities_alone():
    assert toy(Before()) == toy(After())
    assert toy(Before(rate=0.5)) == toy(After(rate=0.5))
    assert toy(After(added=6)) != toy(After())
    assert toy(After(extra=Extra(depth=4))) != toy(After())


def test_writing_a_default_out_is_no_change():
    assert toy(ToyModel(rate=0.1)) == toy(ToyModel())


def test_semantics_version_seed_and_outside_count():
    assert len({toy(Before()), toy(Redefined()), toy(Before(), seed=2), toy(Before(), outside="files")}) == 4


def test_references_count_by_digest_and_not_by_name():
    assert toy(ToyScores(models=["a", "b"]), {"a": "1", "b": "2"}) == toy(
        ToyScores(models=["x", "y@3"]), {"x": "1", "y@3": "2"}
    )
    assert toy(ToyScores(models=["a", "b"]), {"a": "1", "b": "2"}) != toy(
        ToyScores(models=["a", "b"]), {"a": "2", "b": "1"}
    )


def test_a_discriminator_with_a_default_counts():
    """Two kinds of source whose other fields are equal, or defaults, are two different things."""
    assert toy(ToyCorpus(sources=[ToyNumbers()])) != toy(ToyCorpus(sources=[]))
    assert toy(ToyCorpus(sources=[ToyFiles(path="a")])) != toy(ToyCorpus(sources=[ToyNumbers()]))

    @config
    class Folder:
        kind: Literal["folder"] = "folder"
        path: str

    Holder = dataclasses.make_dataclass("Holder", [("source", object)], frozen=True, kw_only=True)
    Holder.kind, Holder.semantics_version = "holder", 1
    assert toy(Holder(source=ToyFiles(path="a"))) != toy(Holder(source=Folder(path="a")))


def test_a_reference_with_a_default_counts_too():
    @stage(kind="with_default", produces="model")
    class WithDefault:
        corpus: CorpusRef = "corpus"
        start: ModelRef | None = None

    assert toy(WithDefault(), {"corpus": "1"}) != toy(WithDefault(), {"corpus": "2"})


def test_seeds_differ_by_stage_and_recipe():
    assert len({stage_seed(1, "a"), stage_seed(1, "b"), stage_seed(2, "a")}) == 3


def test_golden_value():
    """An identity that changes without a reason makes every finished artifact of every user stale."""
    assert identity(ToyModel(corpus="c", rate=0.5), stage_seed(7, "base"), {"c": "d" * 64}) == (
        "3f9d47d6ba169b58d5af36dedc0224807b3a993b626c9e179f46425dae58e4fb")
