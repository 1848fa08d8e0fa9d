"""Sections `data` and `tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gristmill.core.errors import GristmillError
from gristmill.core.files import read_json
from gristmill.data.dedup.report import first_difference
from gristmill.pipeline.report.charts import Series, bins, histogram, line_chart
from gristmill.pipeline.report.formatting import clip, count, percent
from gristmill.pipeline.report.run import Missing, Run, Stage
from gristmill.pipeline.report.signal_panels import signal_panels
from gristmill.pipeline.report.tokenizer_measures import measures

PHASES = {"collect": "read", "pii": "little personal data", "decontaminate": "not in evaluation sets",
          "sample": "in the sample", "filter": "good enough", "url": "one a URL", "exact": "no exact copies",
          "near": "no near-duplicates", "repeats": "without repeats",
          "originals and made": "originals and made", "augment": "good enough"}
EXAMPLES, EXAMPLE_CHARACTERS, REASONS, SHARES = 4, 420, 12, 8
TOKEN_EDGES = [0, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000]
COUNTED_TOKENS = 50_000_000
"""Tokens that are counted for the histogram: all of a small corpus, the beginning of a large one."""


def data(run: Run) -> dict[str, Any]:
    """One entry a corpus: funnel, reasons, lengths, examples, splits."""
    corpora = run.of_kind("corpus")
    if not corpora:
        raise Missing("No corpus has been made in this run yet.")
    return {"corpora": [_corpus(stage) for stage in corpora]}


def _corpus(stage: Stage) -> dict[str, Any]:
    funnel, card, examples = (stage.json(f"{name}.json") for name in ("funnel", "card", "examples"))
    if not funnel:
        return {"stage": stage, "funnel": None, "splits": (stage.metrics or {}).get("splits") or {}}
    phases = funnel.get("phases") or []
    first = phases[0] if phases else {}
    read = (first.get("documents") or 0) + _dropped(first)
    rows: list[dict[str, Any]] = []
    if _dropped(first):
        rows.append({"phase": "found", "said": "found", "documents": read, "bytes": None, "dropped": 0, "sources": {}})
    for phase in phases:
        rows.append(
            {
                "phase": phase.get("phase"),
                "said": PHASES.get(str(phase.get("phase")), phase.get("phase")),
                "documents": phase.get("documents") or 0,
                "bytes": phase.get("bytes"),
                "dropped": _dropped(phase),
                "sources": phase.get("sources") or {},
            }
        )
    for row in rows:
        row["share"] = round(100 * row["documents"] / max(read, 1), 2)
        row["tip"] = "; ".join(f"{name}: {count(c.get('documents'))} documents" for name, c in row["sources"].items())
    reasons = sorted(
        (funnel.get("reasons") or {}).items(), key=lambda item: (-(item[1].get("documents") or 0), item[0])
    )
    largest = max((c.get("documents") or 0 for _, c in reasons), default=1) or 1
    lengths = funnel.get("lengths") or {}
    return {
        "stage": stage,
        "funnel": rows,
        "by_source": _by_source(phases),
        "reasons": [
            (r, c.get("documents"), c.get("bytes"), round(100 * (c.get("documents") or 0) / largest, 2))
            for r, c in reasons[:REASONS]
        ],
        "more_reasons": max(0, len(reasons) - REASONS),
        "lengths": histogram(
            "Document lengths",
            lengths.get("edges") or [],
            lengths.get("documents") or [],
            x_name="characters",
            unit="documents",
            note="documents that were kept",
        ),
        "alarms": funnel.get("alarms") or [],
        "duplicates": _duplicates(stage.json("duplicates.json") or {}),
        "repeats": _repeats((stage.json("duplicates.json") or {}).get("repeats") or {}),
        "augmented": _augmented(stage.json("augment.json") or {}),
        "contamination": (stage.json("contamination.json") or {}).get("tasks") or {},
        "signals": signal_panels(stage.json("signals.json") or {}),
        "splits": funnel.get("splits") or {},
        "leakage": _leakage(funnel.get("leakage") or {}),
        "shares": _shares(funnel, phases),
        "clusters": funnel.get("clusters") or {},
        "limits": (card or {}).get("limits") or [],
        "licenses": _licenses(card or {}),
        "kept": [_example(e) for e in ((examples or {}).get("kept") or [])[:EXAMPLES]],
        "rejected": _rejected((examples or {}).get("rejected") or {}, [r for r, _ in reasons]),
    }


def _duplicates(duplicates: dict[str, Any]) -> list[dict[str, Any]]:
    """For each source and step that removed something, its counts and its least similar pairs."""
    return [
        {"source": source, "step": step, "documents": removed["documents"], "bytes": removed["bytes"],
         "pairs": removed["examples"][:2]}
        for source, about in (duplicates.get("sources") or {}).items()
        for step, removed in about["removed"].items() if removed["documents"]
    ]


def _repeats(repeats: dict[str, Any]) -> list[dict[str, Any]]:
    """For each source that lost repeated text: its counts, and some of what went."""
    found = []
    for source, counts in sorted((repeats.get("sources") or {}).items()):
        shown = (repeats.get("examples") or {}).get(source) or {}
        lines = [f"{count(times)} ×: {clip(line, 120)}" for line, times in (shown.get("lines") or [])[:3]]
        found.append({"source": source, **counts,
                      "examples": lines + [clip(one["text"], 160) for one in (shown.get("stretches") or [])[:2]]})
    return found


def _augmented(augment: dict[str, Any]) -> list[dict[str, Any]]:
    """For each method of augmentation: what it made, what was rejected, and pairs of originals and made texts."""
    found = []
    for method in augment.get("methods") or []:
        similarity = method.get("similarity") or {}
        pronouns = method.get("pronouns") or {}
        rejected = [(reason, counts["documents"]) for reason, counts in (method.get("rejected") or {}).items()]
        found.append({
            "name": method["name"], "taken": method["documents_taken"], "made": method["made"]["documents"],
            "bytes": method["made"]["bytes"], "similarity": similarity.get("median"),
            "rejected": sorted(rejected, key=lambda item: -item[1])[:4],
            "models": ", ".join(method.get("models") or []),
            "pronouns": [f"{when}: she {count(pronouns[when]['she'])}, he {count(pronouns[when]['he'])}"
                         for when in ("before", "after") if when in pronouns],
            "pairs": [(e["of"], *first_difference(e["original"], e["made"]))
                      for e in method.get("examples") or [] if not e.get("reason")][:2],
        })
    return found


def _dropped(phase: dict[str, Any]) -> int:
    return sum(c.get("documents") or 0 for c in (phase.get("dropped") or {}).values())


def _by_source(phases: list[dict[str, Any]]) -> dict[str, list[tuple[int, int]]]:
    """source -> (documents left, documents dropped) after each phase, where there is more than one source."""
    names = sorted({name for phase in phases for name in phase.get("sources") or {}})
    if len(names) < 2:
        return {}
    found: dict[str, list[tuple[int, int]]] = {}
    for name in names:
        counts = [(phase.get("sources") or {}).get(name) or {} for phase in phases]
        found[name] = [(c.get("documents") or 0, c.get("dropped_documents") or 0) for c in counts]
    return found


def _shares(funnel: dict[str, Any], phases: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, float, str]]]]:
    """(title, rows (name, percent of the text, tip)) by language, domain and source, the largest first."""
    sources = (phases[-1] if phases else {}).get("sources") or {}
    found = []
    for title, counts in (("Languages", funnel.get("languages")), ("Domains", funnel.get("domains")),
                          ("Sources", sources)):
        total = sum(c.get("bytes") or 0 for c in (counts or {}).values())
        rows = [(name, round(100 * (c.get("bytes") or 0) / total, 2), f"{name}: {count(c.get('documents'))} documents")
                for name, c in sorted((counts or {}).items(), key=lambda item: -(item[1].get("bytes") or 0))
                ] if total else []
        if len(rows) > SHARES:
            rest = round(100 - sum(share for _, share, _ in rows[:SHARES - 1]), 2)
            rows = [*rows[:SHARES - 1], ("others", max(rest, 0.0), f"{len(rows) - SHARES + 1} more")]
        if len(rows) > 1:
            found.append((title, rows))
    return found


def _leakage(leakage: dict[str, Any]) -> list[str]:
    said = []
    for split, found in leakage.items():
        if isinstance(found, dict) and "shared" in found:
            said.append(
                f"{split}: {percent(found['shared'])} of its word 13-grams also occur in train; "
                f"{count(found.get('documents_over_half'))} documents share more than half"
            )
    pairs = leakage.get("near_duplicates_across_splits")
    if pairs is not None:
        said.append(f"near-duplicate pairs across splits: {count(pairs)}")
    return said


def _licenses(card: dict[str, Any]) -> list[tuple[str, int]]:
    total: dict[str, int] = {}
    for source in card.get("sources") or []:
        for name, documents in (source.get("licenses") or {}).items():
            total[name] = total.get(name, 0) + documents
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))


def _example(example: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": clip(example.get("id", ""), 80),
        "about": ", ".join(str(v) for k in ("source", "language", "split") if (v := example.get(k))),
        "detail": example.get("detail") or "",
        "text": clip(str(example.get("text", "")).strip("\n"), EXAMPLE_CHARACTERS),
    }


def _rejected(examples: dict[str, Any], order: list[str]) -> list[dict[str, Any]]:
    """One example of each of the commonest reasons."""
    place = {reason: i for i, reason in enumerate(order)}
    ranked = sorted(examples.items(), key=lambda item: (place.get(item[0], len(order)), item[0]))
    return [{**_example(found[0]), "reason": reason} for reason, found in ranked if found][:EXAMPLES]


def tokenizers(run: Run) -> dict[str, Any]:
    """One entry a tokenizer: bytes per token, longest and commonest tokens, histograms."""
    stages = run.of_kind("tokenizer")
    if not stages:
        raise Missing("No tokenizer was trained in this run; a model that was brought in has its own.")
    return {"tokenizers": [_tokenizer(run, stage) for stage in stages]}


def _tokenizer(run: Run, stage: Stage) -> dict[str, Any]:
    metrics = stage.json("metrics.json") or stage.metrics
    facts = [
        ("entries", count(metrics.get("vocab_size"))),
        ("merges", count(metrics.get("merges"))),
        ("bytes per token, held out", _bytes_per_token(metrics, "valid")),
        ("bytes per token, training", _bytes_per_token(metrics, "train")),
        ("entries never used", count(metrics.get("unused_entries"))),
    ]
    longest = [
        {"text": t.get("text", ""), "note": f"{t.get('bytes')} bytes, id {t.get('id')}"}
        for t in metrics.get("longest_tokens") or []
    ]
    counted, why = _counted(run, stage)
    return {
        "stage": stage,
        "facts": facts,
        "longest": longest,
        "special": list((metrics.get("special_tokens") or {}).items()),
        "counted": counted,
        "why": why,
        "measures": measures(metrics),
    }


def _bytes_per_token(metrics: Any, split: str) -> str:
    value = metrics.get(f"{split}_bytes_per_token")
    return f"{value:.2f}" if isinstance(value, (int, float)) else "–"


def _counted(run: Run, stage: Stage) -> tuple[dict[str, Any] | None, str]:
    """Histograms of the training tokens, where the token shards of this tokenizer are still in the cache."""
    from gristmill.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.load(stage.path or "")
        folder = _shards(run.folder / "cache", tokenizer.digest)
        if folder is None:
            return None, "The token shards are no longer in the cache, so tokens are not counted here."
        return _count(folder, tokenizer), ""
    except GristmillError as error:
        return None, f"Tokens could not be counted: {error.what}."


def _shards(cache: Path, tokenizer: str) -> Path | None:
    for manifest in sorted(cache.glob("tokens-*/manifest.json")):
        about = read_json(manifest).get("about") or {}
        if about.get("tokenizer") == tokenizer and about.get("split") == "train" and about.get("limit_bytes") is None:
            return manifest.parent
    return None


def _count(folder: Path, tokenizer: Any) -> dict[str, Any]:
    import numpy as np

    from gristmill.tokens import TokenShards

    shards = TokenShards.open(folder)
    read = min(shards.total_tokens, COUNTED_TOKENS)
    counts = np.zeros(shards.vocab_size, dtype=np.int64)
    for start in range(0, read, 1 << 22):
        counts += np.bincount(shards.slice(start, min(start + (1 << 22), read)), minlength=shards.vocab_size)
    order = np.argsort(-counts, kind="stable")
    ordinary = [int(i) for i in order if int(i) not in tokenizer.special_ids and counts[i]][:24]
    ranked = counts[order][counts[order] > 0]
    places: list[int] = []
    if len(ranked):
        places = np.unique(np.geomspace(1, len(ranked), num=min(120, len(ranked))).astype(np.int64)).tolist()
    lengths = np.diff(shards.offsets)
    return {
        "tokens": shards.total_tokens,
        "documents": shards.documents,
        "read": read,
        "common": [
            {"text": tokenizer.decode([i]), "note": f"{int(counts[i]):,} times, {percent(counts[i] / read)}"}
            for i in ordinary
        ],
        "ranks": line_chart(
            "Token frequencies",
            [Series("occurrences", places, [int(ranked[p - 1]) for p in places], 2)],
            x_name="rank",
            log_x=True,
            log_y=True,
            note="how often the commonest, the 10th, the 100th … token occurs",
        ),
        "lengths": histogram(
            "Tokens in a document",
            TOKEN_EDGES,
            bins(lengths, TOKEN_EDGES),
            x_name="tokens",
            unit="documents",
            note="training split",
        ),
    }
