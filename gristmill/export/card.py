"""The model card: what the model is, what it learned from, what it can do and cannot, how to use it.

Sections follow Mitchell et al. 2019 (arXiv:1810.03993). It says only what records say; what is unknown is called so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.core.artifact import Artifact
from gristmill.core.files import read_json
from gristmill.export.lineage import Ancestor, ancestors
from gristmill.export.usage import USES, usage
from gristmill.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person says about the release."""

    name: str
    licence: str | None = None
    summary: str | None = None
    limits: tuple[str, ...] = ()
    evaluation: Artifact | None = None


def write_card(card: Card, source: Artifact, model: Any, tokenizer: Tokenizer, proof: Mapping[str, Any]) -> str:
    """The whole card as Markdown with the YAML head that model hubs read."""
    line = ancestors(source)
    parameters = sum(p.numel() for p in model.parameters())
    config = model.config
    use = USES[type(model).__name__]
    parts = [
        _head(card, use.pipeline, config.family),
        f"# {card.name}",
        card.summary or f"A {config.family} {use.body} with {parameters:,} parameters, made with Gristmill.",
        "## Model",
        _table(("", ""), [
            ("family", config.family), ("parameters", f"{parameters:,}"), ("blocks", config.layers),
            ("width", config.dim),
            ("heads (query / key-value)", f"{config.heads} / {getattr(config, 'kv_heads', config.heads)}"),
            ("context", f"{config.context} tokens"),
            ("vocabulary", f"{tokenizer.vocab_size:,} tokens"), ("head tied to the embedding", _yes(config.tied_head)),
        ]),
        "## How to use it",
        usage(card.name, model, tokenizer),
        "## Data", _data(line),
        "## Training", _training(line),
        "## Evaluation", _evaluation(card.evaluation, source),
        "## Limits", _limits(card, parameters, use.writes),
        "## Licence", f"{card.licence or 'Not stated.'} The licences of the training data apply beside it; see Data.",
        "## Lineage", _lineage(line),
        "## Proof", _proof(proof),
    ]
    return "\n\n".join(parts) + "\n"


def _head(card: Card, pipeline: str, family: str) -> str:
    lines = ["---", "library_name: transformers", f"pipeline_tag: {pipeline}", f"tags: [gristmill, {family}]"]
    if card.licence:
        lines.append(f"license: {card.licence.lower()}")
    return "\n".join([*lines, "---"])


def _data(line: list[Ancestor]) -> str:
    parts = []
    for ancestor in line:
        if ancestor.kind != "corpus":
            continue
        parts.append(f"**{ancestor.name}**")
        if ancestor.artifact is None:
            parts.append("Its folder is not there any more; nothing more is known here.")
            continue
        path = ancestor.artifact.path / "card.json"
        facts = read_json(path) if path.is_file() else dict(ancestor.artifact.metrics)
        parts.append(_facts(facts))
    return "\n\n".join(parts) or "Unknown: the records of this model name no corpus."


def _training(line: list[Ancestor]) -> str:
    rows = []
    for ancestor in line:
        if ancestor.kind == "model" and ancestor.artifact is not None:
            record = ancestor.artifact.record
            shown = {k: v for k, v in ancestor.artifact.metrics.items() if isinstance(v, (int, float, str, bool))}
            facts = ", ".join(f"{k} {_number(v)}" for k, v in shown.items()) or "no metrics"
            rows.append((ancestor.name, f"seed {record['seed']}; {facts}" if "seed" in record else facts))
    return _table(("stage", "what is recorded"), rows) if rows else "Unknown: this model came without records."


def _evaluation(evaluation: Artifact | None, source: Artifact) -> str:
    if evaluation is None:
        return "None was given to this export."
    results = read_json(evaluation.path / "results.json")
    parts = [f"From {evaluation.name}; intervals are 95 %."]
    known = {m.get("digest"): m.get("name") for m in results.get("models", [])}
    ours = known.get(source.digest)
    if ours is None:
        parts.append("None of the evaluated models is the very one released here; these are its relatives.")
    rows = []
    for task in results.get("tasks", []):
        for row in task.get("rows", []):
            name = f"**{row['model']}** (this one)" if row["model"] == ours else row["model"]
            rows.append((task["task"], f"{task.get('metric', '')} {task.get('unit', '')}".strip(),
                         f"{task.get('better', '')} is better" if task.get("better") else "", name,
                         _interval(row), task.get("n", "")))
        rows += [(task["task"], "", "", f"{b['name']} (baseline)", _number(b["value"]), "")
                 for b in task.get("baselines", [])]
    parts.append(_table(("task", "metric", "", "model", "value", "n"), rows))
    gains = [gain["text"] for gain in results.get("gains", []) if gain.get("text")]
    if gains:
        parts.append("\n".join(f"- {text}" for text in gains))
    return "\n\n".join(parts)


def _limits(card: Card, parameters: int, writes: bool) -> str:
    limits = [*card.limits]
    if parameters < 1_000_000_000 and writes:
        limits.append("A small model: it states wrong facts fluently. Do not rely on what it says.")
    limits.append("It repeats what its data holds, biases and errors included; no safety evaluation is part of this "
                  "card unless it stands above.")
    if writes:
        limits.append("Code that it writes is not checked; run it only where it can do no harm.")
    return "\n".join(f"- {limit}" for limit in limits)


def _lineage(line: list[Ancestor]) -> str:
    return _table(("artifact", "kind", "digest"), [(a.name, a.kind, f"`{a.digest[:16]}`") for a in line])


def _proof(proof: Mapping[str, Any]) -> str:
    rows = [(name, f"{w['largest']:.1e}", f"{w['logits']:.1e}", _yes(w["same_greedy_tokens"]))
            for name, w in proof["witnesses"].items()]
    return (f"The stored files were read again by independent readers and run on {proof['tokens']} tokens in fp32. "
            f"Largest difference relative to the largest magnitude ({proof['tolerance']:g} is allowed):\n\n"
            + _table(("reader", "any block", "logits", "same greedy tokens"), rows))


def _facts(facts: Any, depth: int = 0) -> str:
    """Nested facts as a list; long lists by their length."""
    if not isinstance(facts, Mapping):
        return _number(facts)
    lines = []
    for key, value in facts.items():
        label = "  " * depth + f"- {str(key).replace('_', ' ')}: "
        if isinstance(value, Mapping) and value:
            lines += [label.rstrip(), _facts(value, depth + 1)]
        elif isinstance(value, list):
            short = len(value) <= 8 and all(isinstance(v, (str, int, float)) for v in value)
            lines.append(label + (", ".join(_number(v) for v in value) if short else f"{len(value)} entries"))
        else:
            lines.append(label + _number(value))
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    value = _number(row["value"])
    if row.get("low") is None or row.get("high") is None:
        return value
    return f"{value} ({_number(row['low'])} to {_number(row['high'])})"


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return _yes(bool(value)) if value is not None else "unknown"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("\n", " ").replace("|", "\\|")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])
