"""The data card: what a corpus is made of, for whoever uses it or a model trained on it.

After Gebru et al., "Datasheets for Datasets" (2018), as far as a program can know the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gristmill.core.config import to_plain
from gristmill.data.sources import source_names


def data_card(stage: Any, tally: Mapping[str, Any], funnel: Mapping[str, Any]) -> dict[str, Any]:
    """The card as JSON-ready values.

    tally: counts of kept documents by source, license and language. funnel: what funnel.json says.
    """
    described = []
    for name, source in zip(source_names(stage.sources), stage.sources, strict=True):
        kept = tally.get("kept", {}).get(name, {"documents": 0, "bytes": 0})
        described.append({
            "name": name, "config": to_plain(source), **kept,
            "licenses": _documents(tally.get("licenses", {}).get(name, {})),
            "languages": _documents(tally.get("source_languages", {}).get(name, {})),
        })
    return {
        "sources": described,
        "documents": sum(entry["documents"] for entry in described),
        "bytes": sum(entry["bytes"] for entry in described),
        "languages": funnel["languages"],
        "processing": {
            "normalise": to_plain(stage.normalise), "filter": to_plain(stage.filter),
            "dedup": to_plain(stage.dedup), "languages": stage.languages, "split": to_plain(stage.split),
            "sample": stage.sample, "limit_mb": stage.limit_mb,
            "order": [phase["phase"] for phase in funnel["phases"]],
        },
        "splits": funnel["splits"],
        "leakage": funnel["leakage"],
        "limits": [
            "Nothing was removed for personal data, toxicity or licences: that is for whoever names the sources.",
            "Near-duplicates are judged by shared word 5-grams; a translation or a paraphrase is not found.",
        ],
    }


def _documents(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {name: found["documents"] for name, found in sorted(counts.items())}
