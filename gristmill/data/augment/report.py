"""What is told of the made documents: augment.json, and the rows for funnel.json, card.json and examples.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gristmill.core.config import to_plain
from gristmill.core.seeds import fraction
from gristmill.data.augment.ask import Asked
from gristmill.data.augment.making import Found
from gristmill.data.augment.method import MADE
from gristmill.data.augment.rewriting import WRITING
from gristmill.data.documents import SPLITS
from gristmill.data.funnel import LENGTH_EDGES, Tally, count, largest_first, merge

SIMILARITIES = [round(0.1 * i, 1) for i in range(11)]
"""Edges of the histograms of similarity; 1 is in the last bin."""
EXAMPLES, EXAMPLE_CHARACTERS = 4, 700


class Account:
    """Adds up what was made, shard by shard."""

    def __init__(self, methods: Mapping[str, Any], seed: int) -> None:
        self.methods, self.seed = methods, seed
        self.rejected: dict[str, Tally] = {name: {} for name in methods}
        self.sources: Tally = {}
        """source -> reason -> counts of what was rejected."""
        self.made: dict[str, Tally] = {name: {} for name in methods}
        self.values: dict[str, dict[str, list[np.ndarray]]] = {
            name: {"similarity": [], "ratio": [], "changed": []} for name in methods}
        self.models: dict[str, Counter[str]] = {name: Counter() for name in methods}
        self.pronouns: dict[str, list[int]] = {}
        self.examples: list[tuple[float, Path, dict[str, Any]]] = []

    def add(self, shard: Path, table: pa.Table) -> None:
        """Take in what was made of a shard's documents."""
        for row in table.drop_columns(["content", "ngrams", "cluster"]).to_pylist():
            name, size = row["method"], len(row["text"].encode("utf-8", "replace"))
            about = json.loads(row["metadata"])[MADE]
            if row["reason"]:
                count(self.rejected[name], [row["reason"]], size)
                count(self.sources, [row["source"], row["reason"]], size)
            else:
                count(self.made[name], [], size)
                if about.get("model"):
                    self.models[name][about["model"]] += 1
                if "she" in about:
                    before = self.pronouns.setdefault(name, [0, 0])
                    before[0] += about["she"][1]
                    before[1] += about["he"][1]
            self._example(shard, row, about)
        stays = table.filter(pc.equal(table["reason"], ""))
        for name in self.methods:
            mine = stays.filter(pc.equal(stays["method"], name))
            for value, found in self.values[name].items():
                found.append(mine[value].to_numpy())

    def _example(self, shard: Path, row: dict[str, Any], about: Mapping[str, Any]) -> None:
        key = (row["method"], row["reason"])
        shown = {"id": row["id"], "of": row["of"], "method": row["method"], "reason": row["reason"],
                 "detail": row["detail"], "similarity": row["similarity"], "source": row["source"],
                 "language": row["language"], "split": row["split"], "about": about,
                 "made": row["text"][:EXAMPLE_CHARACTERS]}
        same = [entry for entry in self.examples if (entry[2]["method"], entry[2]["reason"]) == key]
        point = fraction(self.seed, "example", row["id"])
        if len(same) >= EXAMPLES:
            worst = max(same, key=lambda entry: entry[0])
            if point >= worst[0]:
                return
            self.examples.remove(worst)
        self.examples.append((point, shard, shown))

    def chosen(self) -> list[dict[str, Any]]:
        """The examples with the beginnings of their originals."""
        wanted: dict[Path, list[str]] = {}
        for _, shard, shown in self.examples:
            wanted.setdefault(shard, []).append(shown["of"])
        texts: dict[str, str] = {}
        for shard, ids in wanted.items():
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=1024, columns=["id", "text"]):
                    here = batch.filter(pc.is_in(batch["id"], value_set=pa.array(ids)))
                    texts.update(zip(here["id"].to_pylist(), here["text"].to_pylist(), strict=True))
        return [{**shown, "original": texts[shown["of"]][:EXAMPLE_CHARACTERS]}
                for _, _, shown in sorted(self.examples, key=lambda e: (e[2]["method"], e[2]["reason"], e[0]))]

    def total(self) -> dict[str, int]:
        """{documents, bytes} that were made and stay."""
        found: Tally = {"documents": 0, "bytes": 0}
        for tally in self.made.values():
            merge(found, tally)
        return found


def augment_json(account: Account, found: Found, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """augment.json: what each method made, what was rejected and why, and how far from the originals it lies."""
    methods = []
    for name, method in account.methods.items():
        values = {value: np.concatenate([np.empty(0), *parts]) for value, parts in account.values[name].items()}
        similarity = values["similarity"]
        entry: dict[str, Any] = {
            "name": name, "kind": method.kind, "version": method.version, "config": to_plain(method),
            "documents_taken": found.taken[name], "made": account.made[name] or {"documents": 0, "bytes": 0},
            "rejected": largest_first(account.rejected[name]),
            "similarity": {"what": "Jaccard similarity of word 5-grams of a made text and its original",
                           **_spread(similarity), "edges": SIMILARITIES,
                           "documents": np.histogram(np.minimum(similarity, 1), SIMILARITIES)[0].tolist(),
                           "near_duplicates": round(float((similarity >= 0.8).mean()), 6) if len(similarity) else None},
            "length_ratio": _spread(values["ratio"]), "words_changed": _spread(values["changed"]),
            "examples": [example for example in examples if example["method"] == name],
        }
        if method.kind in WRITING:
            entry["asked"] = _asked(found.asked[name])
            entry["models"] = dict(sorted(account.models[name].items()))
            entry["prompts"] = [step.template for step in method.steps("en")]
        if name in account.pronouns:
            she, he = account.pronouns[name]
            entry["pronouns"] = {"before": {"she": found.pronouns.she, "he": found.pronouns.he},
                                 "after": {"she": found.pronouns.she + she, "he": found.pronouns.he + he}}
        methods.append(entry)
    made = account.total()
    train = found.tally.get("splits", {}).get("train", {"documents": 0, "bytes": 0})
    return {"methods": methods, "made": made, "originals": dict(train),
            "share_of_train": round(made["documents"] / max(made["documents"] + train["documents"], 1), 6)}


def _spread(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"mean": None, "p5": None, "median": None, "p95": None}
    cuts = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return {name: round(float(value), 6)
            for name, value in zip(("mean", "p5", "median", "p95"), (values.mean(), *cuts), strict=True)}


def _asked(asked: Asked) -> dict[str, Any]:
    return {"texts": asked.jobs, "within_budget": asked.within, "requests": asked.requests,
            "prompt_tokens": asked.prompt_tokens, "completion_tokens": asked.completion_tokens}


def funnel_json(tally: Tally, carried: Tally, account: Account, leaked: Mapping[str, Any],
                before: Mapping[str, Any]) -> dict[str, Any]:
    """funnel.json in the shape of the data stage's: originals and everything that was made, then what stays.

    tally: of the new corpus. carried: of the corpus that came in. leaked: held-out n-grams in made documents. before:
    the funnel.json of the corpus that came in, where it has one; `leakage` and `clusters` are taken from it.
    """
    names = sorted({*tally.get("kept", {}), *account.sources})
    nothing = {"documents": 0, "bytes": 0}
    reasons: Tally = {}
    come, stay = {}, {}
    for source in names:
        gone: Tally = dict(nothing)
        for reason, counts in account.sources.get(source, {}).items():
            merge(reasons.setdefault(reason, {}), counts)
            merge(gone, counts)
        kept = tally.get("kept", {}).get(source, nothing)
        come[source] = {what: kept[what] + gone[what] for what in nothing}
        come[source] |= {"dropped_documents": 0, "dropped_bytes": 0}
        stay[source] = dict(kept) | {"dropped_documents": gone["documents"], "dropped_bytes": gone["bytes"]}
    phases = [{"phase": phase, "documents": sum(c["documents"] for c in sources.values()),
               "bytes": sum(c["bytes"] for c in sources.values()), "dropped": dropped, "sources": sources}
              for phase, sources, dropped in (("originals and made", come, {}),
                                              ("augment", stay, largest_first(reasons)))]
    read = {source: {"inputs": 0, "unreadable": 0, **counts} for source, counts in sorted(carried["kept"].items())}
    splits, lengths = tally.get("splits", {}), tally.get("lengths", {})
    return {
        "read": read, "bytes_read": sum(counts["bytes"] for counts in read.values()), "phases": phases,
        "reasons": largest_first(reasons), "splits": {name: splits.get(name, nothing) for name in SPLITS},
        "languages": largest_first(tally.get("languages", {})), "domains": largest_first(tally.get("domains", {})),
        "lengths": {"edges": LENGTH_EDGES,
                    "documents": [lengths.get(str(i), {}).get("documents", 0) for i in range(len(LENGTH_EDGES))]},
        "clusters": before.get("clusters", {}), "leakage": before.get("leakage", {}), "leakage_of_made": leaked,
        "alarms": [],
    }


def card_json(tally: Tally, before: Mapping[str, Any], funnel: Mapping[str, Any],
              augment: Mapping[str, Any]) -> dict[str, Any]:
    """card.json: the card of the corpus that came in, with what was made and who made it."""
    known = {source["name"]: source for source in before.get("sources", [])}

    def documents(place: str, source: str) -> dict[str, int]:
        return {name: c["documents"] for name, c in sorted(tally.get(place, {}).get(source, {}).items())}

    described = [{"name": source, "config": known.get(source, {}).get("config", {}), **counts,
                  "licenses": documents("licenses", source), "languages": documents("source_languages", source)}
                 for source, counts in sorted(tally["kept"].items())]
    methods = [{"name": one["name"], "kind": one["kind"], "documents": one["made"]["documents"],
                "models": list(one.get("models", {}))} for one in augment["methods"]]
    models = sorted({model for one in methods for model in one["models"]})
    limits = [(f"{augment['made']['documents']} training documents ({augment['share_of_train']:.1%}) were made from "
               "others; their metadata say how (`augmented`). Held-out documents are as they were.")]
    if models:
        limits.append(f"Some were written by {', '.join(models)}: what such a text may be used for, the licence of "
                      "that model says, beside that of the original. A model may add errors.")
    before_steps = before.get("processing", {})
    return {
        "sources": described, "documents": sum(one["documents"] for one in described),
        "bytes": sum(one["bytes"] for one in described), "languages": funnel["languages"],
        "processing": {**before_steps, "augment": methods, "order": [*before_steps.get("order", []), "augment"]},
        "splits": funnel["splits"], "leakage": funnel["leakage"], "limits": [*before.get("limits", []), *limits],
    }


def examples_json(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """examples.json in the shape of the data stage's: {kept: [...], rejected: {reason: [...]}}."""
    kept: list[dict[str, Any]] = []
    rejected: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        shown = {key: example[key] for key in ("id", "source", "language", "split", "detail")}
        shown |= {"metadata": {MADE: example["about"]}, "text": example["made"]}
        (rejected.setdefault(example["reason"], []) if example["reason"] else kept).append(shown)
    return {"kept": kept, "rejected": rejected}
