"""Sections `headline`, `what happened` and `lineage`."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from gristmill.pipeline.report.formatting import clip, count, duration, number, p_value, percent, short_name, size
from gristmill.pipeline.report.lineage_graph import Node, draw
from gristmill.pipeline.report.run import Missing, Run, Stage

PLAIN_KINDS = {
    "data": "collect and clean the text",
    "tokenizer": "learn the tokens",
    "pretrain": "learn to predict text",
    "finetune": "learn to answer",
    "align": "learn which answers are better",
    "evaluate": "measure on held-out text",
    "export": "make the public folder",
    "import": "take in a public model",
}
ANSWER_LENGTH = 900


def headline(run: Run) -> dict[str, Any]:
    """Name, facts, gains, one answer."""
    results = run.results()
    corpus = next(iter(run.of_kind("corpus")), None)
    models = run.of_kind("model")
    trained = [s for s in models if isinstance(s.metrics.get("tokens"), int)]
    unfinished = [s for s in run.stages if s.path is None]
    facts = [("time", duration(run.seconds), f"{len(run.stages) - len(unfinished)} stages, each as it first ran")]
    if corpus is not None:
        facts.append(("text", size(corpus.metrics.get("bytes")), f"{count(corpus.metrics.get('documents'))} documents"))
    if parameters := model_parameters(run, results):
        facts.append(("parameters", count(parameters), "weights in the model"))
    if trained:
        facts.append(
            ("tokens trained on", count(sum(s.metrics["tokens"] for s in trained)), "over all training stages")
        )
    score = _bits(results)
    if score:
        facts.append(("bits per byte", number(score[1]), f"{short_name(score[0])}, held-out text"))
    return {
        "facts": facts,
        "gains": gains(results),
        "answer": answer(results),
        "unfinished": [(s.name, s.state, s.error) for s in unfinished],
    }


def model_parameters(run: Run, results: dict[str, Any]) -> int | None:
    """The number of weights of the run's last model, as far as somebody wrote it down."""
    known = [m.get("parameters") for m in results.get("models") or []]
    for stage in run.of_kind("model"):
        known.append(stage.metrics.get("parameters") or (stage.json("plan.json") or {}).get("parameters"))
    return next((n for n in reversed(known) if isinstance(n, int)), None)


def gains(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The gain of each stage: {text, said (the sentence without its numbers), numbers, improved}."""
    rows = []
    for gain in results.get("gains") or []:
        show = percent if gain.get("unit") == "share" else number
        numbers = f"{show(gain.get('before'))} → {show(gain.get('after'))}, {p_value(gain.get('p_value'))}"
        text = gain.get("text") or f"{short_name(gain.get('model'))}, {gain.get('metric')}: {numbers}"
        said, colon, rest = str(text).partition(": ")
        rows.append(
            {
                "text": str(text),
                "said": said,
                "numbers": rest.replace("->", "→") if colon else numbers,
                "improved": bool(gain.get("improved")),
            }
        )
    return rows


def answer(results: dict[str, Any]) -> dict[str, str] | None:
    """One answer of the last model that was evaluated: to the shortest question about a held-out function if there
    is one, so that it is not chosen by how good it is."""
    found = []
    for sample in results.get("samples") or []:
        outputs = list((sample.get("outputs") or {}).items())
        if outputs and str(outputs[-1][1]).strip():
            model, text = str(outputs[-1][0]), clip(str(outputs[-1][1]).strip("\n"), ANSWER_LENGTH)
            prompt = str(sample.get("prompt", "")).strip("\n")
            rank = (not sample.get("question"), not sample.get("documented"), len(prompt))
            found.append((rank, {"prompt": prompt, "model": model, "text": text}))
    return min(found, key=lambda item: item[0])[1] if found else None


def _bits(results: dict[str, Any]) -> tuple[str, float] | None:
    """The best model's bits per byte: fine-tuning may well cost some."""
    for task in results.get("tasks") or []:
        if is_bits_per_byte(task) and task.get("rows"):
            best = min(task["rows"], key=lambda row: row["value"])
            return str(best["model"]), best["value"]
    return None


def is_bits_per_byte(task: dict[str, Any]) -> bool:
    """Is this an evaluation of bits per byte of text (not only of answers)?"""
    return str(task.get("metric") or "").replace("_", " ").lower() == "bits per byte"


def timeline(run: Run) -> dict[str, Any]:
    """Every stage with what it took; bars follow each other as the stages did."""
    if not run.stages:
        raise Missing("The run has no stages yet.")
    total, start, rows = run.seconds or 1.0, 0.0, []
    for stage in run.stages:
        rows.append(
            {
                "stage": stage,
                "doing": PLAIN_KINDS.get(stage.kind, stage.kind),
                "seconds": stage.seconds if stage.path else None,
                "from": round(100 * start / total, 2),
                "share": round(100 * stage.seconds / total, 2),
                "action": (stage.action or stage.state) if stage.path else stage.state,
                "tip": f"{stage.name}: {duration(stage.seconds)}, {percent(stage.seconds / total)} of the whole",
            }
        )
        start += stage.seconds
    return {"rows": rows, "total": run.seconds}


def lineage(run: Run) -> dict[str, Any]:
    """The artifacts of the run, what came from outside, and what was made from what."""
    nodes: dict[str, Node] = {}
    edges: list[tuple[str, str]] = []
    keys = {(str(s.record.get("name")), s.version): s.name for s in run.stages if s.path}
    for stage in run.stages:
        if stage.path is None:
            continue
        nodes[stage.name] = Node(
            stage.name,
            stage.produces,
            clip(f"{stage.name}@{stage.version}", 15),
            stage.digest[:10],
            f"{stage.record.get('name')}@{stage.version}, {stage.kind}, digest {stage.digest}",
            f"#stage-{stage.name}",
        )
        for reference, entry in (stage.record.get("inputs") or {}).items():
            key = keys.get((str(entry.get("name")), int(entry.get("version") or 0)))
            if key is None:
                key = f"outside:{entry.get('name')}@{entry.get('version')}"
                nodes[key] = Node(
                    key,
                    str(entry.get("kind", "")),
                    clip(PurePosixPath(str(entry.get("name"))).name, 14),
                    str(entry.get("digest") or "")[:10],
                    f"{reference}: from outside this run",
                    outside=True,
                )
            edges.append((key, stage.name))
        for number_, (title, detail) in enumerate(_sources(stage)):
            key = f"source:{stage.name}:{number_}"
            nodes[key] = Node(
                key, "source", clip(title, 14), clip(detail, 15), f"{title} {detail}".strip(), outside=True
            )
            edges.append((key, stage.name))
    if not nodes:
        raise Missing("No stage has finished yet, so there is no lineage.")
    return {"graph": draw(list(nodes.values()), edges)}


def _sources(stage: Stage) -> list[tuple[str, str]]:
    """Where text or weights came in from outside: (kind, what)."""
    config = stage.record.get("config") or {}
    found = []
    for source in config.get("sources") or []:
        if isinstance(source, dict):
            what = next((str(v) for k, v in sorted(source.items()) if k in ("path", "url", "name") and v), "")
            found.append((str(source.get("kind") or "source"), what))
    if isinstance(config.get("source"), str):
        found.append(("imported", config["source"]))
    return found
