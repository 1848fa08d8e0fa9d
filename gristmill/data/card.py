"""The data card: what a corpus is made of, for whoever uses it or a model trained on it.

After Gebru et al., "Datasheets for Datasets" (2018), as far as a program can know the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from gristmill.core.config import to_plain


def data_card(sources: Sequence[tuple[str, Any]], config: Any, documents: Sequence[dict[str, Any]],
              funnel: dict[str, Any]) -> dict[str, Any]:
    """The card as JSON-ready values.

    sources: (name, config) of each source. documents: source, language, license, bytes of every kept document.
    """
    described = []
    for name, source in sources:
        own = [d for d in documents if d["source"] == name]
        described.append({
            "name": name, "config": to_plain(source), "documents": len(own), "bytes": sum(d["bytes"] for d in own),
            "licenses": dict(sorted(Counter(d["license"] for d in own).items())),
            "languages": dict(sorted(Counter(d["language"] for d in own).items())),
        })
    return {
        "sources": described,
        "documents": len(documents),
        "bytes": sum(d["bytes"] for d in documents),
        "languages": funnel["languages"],
        "processing": {
            "normalise": to_plain(config.normalise), "filter": to_plain(config.filter),
            "dedup": to_plain(config.dedup), "languages": config.languages, "split": to_plain(config.split),
            "sample": config.sample, "limit_mb": config.limit_mb,
            "order": [phase["phase"] for phase in funnel["phases"]],
        },
        "splits": funnel["splits"],
        "leakage": funnel["leakage"],
        "limits": [
            "Nothing was removed for personal data, toxicity or licences: that is for whoever names the sources.",
            "Near-duplicates are judged by shared word 5-grams; a translation or a paraphrase is not found.",
        ],
    }
