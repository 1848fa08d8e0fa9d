"""The data card: what a corpus is made of, for whoever uses it or a model trained on it.

After Gebru et al., "Datasheets for Datasets" (2018), as far as a program can know the answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gristmill.core.config import to_plain
from gristmill.data.pii import Pii
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
            "pii": to_plain(stage.pii), "decontaminate": to_plain(stage.decontaminate),
            "learned": to_plain(stage.learned),
            "normalise": to_plain(stage.normalise), "filter": to_plain(stage.filter),
            "dedup": to_plain(stage.dedup), "languages": stage.languages, "split": to_plain(stage.split),
            "sample": stage.sample, "limit_mb": stage.limit_mb,
            "order": [phase["phase"] for phase in funnel["phases"]],
        },
        "splits": funnel["splits"],
        "leakage": funnel["leakage"],
        "limits": [
            _private(stage.pii),
            "Nothing was removed for its licence unless a rule above says so: that is for whoever names the sources.",
            "Near-duplicates are judged by shared word 5-grams; a translation or a paraphrase is not found.",
        ],
    }


def _private(pii: Pii) -> str:
    """What was done about personal data, in a sentence."""
    if pii.action in ("none", "report"):
        return "Personal data was left in the texts." if pii.action == "report" else "Nobody looked for personal data."
    return (f"Personal data of fixed forms ({', '.join(pii.kinds)}) was masked; names and postal addresses were not "
            "looked for.")


def _documents(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {name: found["documents"] for name, found in sorted(counts.items())}


def card_text(card: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    said = [f"# Data card\n\n{card['documents']:,} documents, {card['bytes'] / 1e6:,.1f} MB of text\n",
            "| source | documents | MB | licences | languages |", "|---|---|---|---|---|"]
    for source in card["sources"]:
        licenses, languages = (", ".join(f"{name} {count:,}" for name, count in source[key].items())
                               for key in ("licenses", "languages"))
        said.append(f"| {source['name']} | {source['documents']:,} | {source['bytes'] / 1e6:,.1f} | {licenses} | "
                    f"{languages} |")
    said.append("\n## Splits\n")
    said += [f"- {name}: {found['documents']:,} documents, {found['bytes'] / 1e6:,.1f} MB"
             for name, found in card["splits"].items()]
    said.append("\n## Processing\n\nIn this order: " + ", ".join(card["processing"]["order"]) + ".\n\n```json")
    said.append(json.dumps({k: v for k, v in card["processing"].items() if k != "order"}, indent=2))
    said.append("```\n\n## Leakage\n")
    for split, found in card["leakage"].items():
        if isinstance(found, dict):
            said.append(f"- {split}: {found['shared']:.2%} of its word 13-grams also occur in train")
    said.append("\n## Limits\n")
    said += [f"- {limit}" for limit in card["limits"]]
    return "\n".join(said)
