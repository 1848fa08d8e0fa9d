"""What tuning costs on general text: bits per byte of every stage minus that of the first model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gristmill.core.config import config
from gristmill.core.progress import Bar
from gristmill.core.seeds import derive_seed
from gristmill.evaluation.statistics import paired_test
from gristmill.evaluation.subject import Subject
from gristmill.evaluation.tasks.base import Record, Setting, Summary, comparison
from gristmill.evaluation.tasks.perplexity import HeldOutText, Perplexity


@config
class Forgetting:
    """Loss on general text that tuning caused, in bits per byte against the first model, paired by document."""

    kind: Literal["forgetting"] = "forgetting"

    def data(self, setting: Setting) -> HeldOutText:
        return self.text(setting).data(setting)

    def work(self, data: HeldOutText) -> tuple[float, str]:
        return Perplexity().work(data)

    def measure(self, subject: Subject, data: HeldOutText, setting: Setting, bar: Bar) -> Record:
        return self.text(setting).measure(subject, data, setting, bar)

    def measure_baselines(self, data: HeldOutText, setting: Setting) -> Record:
        return {}

    def text(self, setting: Setting) -> Perplexity:
        """The perplexity task whose records these are: the evaluation's own, where it has one."""
        return setting.perplexity or Perplexity()

    def summarise(self, data: HeldOutText, records: Mapping[str, Record], baselines: Record,
                  setting: Setting) -> Summary:
        """One entry a later model."""
        first, *later = records
        bits = {name: np.asarray(r["nats"]) / np.log(2) for name, r in records.items()}
        total, entries = float(data.sizes.sum()), []
        for name in later:
            seed = derive_seed(setting.seed, "forgetting", name)
            result = paired_test(bits[first], bits[name], data.sizes, seed=seed)
            entry: dict[str, Any] = {
                **comparison(first, name, result), "model": name, "against": first, "metric": "bits per byte",
                "unit": "bits/byte", "before": float(bits[first].sum() / total),
                "after": float(bits[name].sum() / total),
            }
            entry["text"] = sentence(entry)
            entries.append(entry)
        return Summary(forgetting=entries)


def sentence(entry: dict[str, Any]) -> str:
    """What an entry says, for a person."""
    numbers = (f"{entry['before']:.3f} -> {entry['after']:.3f} bits per byte ({entry['difference']:+.3f}, "
               f"95 % interval {entry['low']:+.3f} to {entry['high']:+.3f}, p = {entry['p_value']:.2g})")
    if entry["low"] > 0:
        verdict = "has forgotten something of"
    elif entry["high"] < 0:
        verdict = "has become better at"
    else:
        verdict = "is neither clearly better nor clearly worse at"
    return f"{entry['model']} {verdict} general text against {entry['against']}: {numbers}"
