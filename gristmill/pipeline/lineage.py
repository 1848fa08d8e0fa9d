"""Lineage: from an artifact back through everything it was made of to the sources of its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gristmill.core.artifact import RECORD, Artifact
from gristmill.core.errors import UserError
from gristmill.core.hashing import digest_folder


def lineage(artifact: Artifact) -> dict[str, Any]:
    """{"artifact", "nodes": [...], "edges": [{"from", "to", "reference"}], "sources": [...]}; nodes come before
    what was made from them last: the artifact itself is the first node.

    A node has name, kind, version, digest, path, uses, config, metrics, seed, code, finished, and state: present,
    gone (its folder is not there any more) or changed (another payload lies where it was).
    """
    nodes: dict[str, dict[str, Any]] = {}
    edges: list[dict[str, str]] = []
    open_ = [artifact]
    nodes[_key(artifact.record)] = _node(artifact, "present")
    while open_:
        current = open_.pop(0)
        for reference, entry in current.record.get("inputs", {}).items():
            key = _key(entry)
            edges.append({"from": key, "to": _key(current.record), "reference": reference})
            if key in nodes:
                continue
            found = _input(current, entry)
            if found is None or found.digest != entry["digest"]:
                nodes[key] = {"name": _name(entry), "kind": entry["kind"], "version": entry["version"],
                              "digest": entry["digest"], "path": str((current.path / entry["path"]).resolve()),
                              "state": "gone" if found is None else "changed"}
                continue
            nodes[key] = _node(found, "present")
            open_.append(found)
    return {"artifact": artifact.name, "nodes": list(nodes.values()), "edges": edges, "sources": _sources(nodes)}


def _input(artifact: Artifact, entry: dict[str, Any]) -> Artifact | None:
    path = (artifact.path / entry["path"]).resolve()
    if not path.is_dir():
        return None
    return Artifact.open(path) if (path / RECORD).is_file() else Artifact.from_folder(path, entry["kind"])


def _key(record: Any) -> str:
    return f"{_name(record)}#{record['digest'][:12]}"


def _name(record: Any) -> str:
    return f"{record['name']}@{record['version']}" if record.get("version") else str(record["name"])


def _node(artifact: Artifact, state: str) -> dict[str, Any]:
    record = artifact.record
    return {
        "name": artifact.name,
        "kind": artifact.kind,
        "version": record.get("version", 0),
        "digest": artifact.digest,
        "path": str(artifact.path),
        "state": state,
        "uses": record.get("uses"),
        "config": record.get("config", {}),
        "metrics": record.get("metrics", {}),
        "seed": record.get("seed"),
        "code": record.get("code"),
        "finished": record.get("finished"),
    }


def _sources(nodes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Where text came in from outside: the sources of every corpus, and whatever lay outside the store."""
    found: list[dict[str, Any]] = []
    for node in nodes.values():
        sources = node.get("config", {}).get("sources")
        if isinstance(sources, list):
            found += [{"artifact": node["name"], **(s if isinstance(s, dict) else {"source": s})} for s in sources]
        elif not node["version"]:
            found.append({"artifact": node["name"], "kind": "external folder", "path": node["path"],
                          "digest": node["digest"]})
        elif isinstance(source := node.get("config", {}).get("source"), str):
            found.append({"artifact": node["name"], "kind": "imported", "source": source})
    return found


def tree_lines(value: dict[str, Any]) -> list[str]:
    """The lineage as an indented tree for a terminal; a node that was shown before is only named."""
    nodes = {f"{n['name']}#{n['digest'][:12]}": n for n in value["nodes"]}
    children: dict[str, list[str]] = {}
    for edge in value["edges"]:
        children.setdefault(edge["to"], [])
        if edge["from"] not in children[edge["to"]]:
            children[edge["to"]].append(edge["from"])
    lines: list[str] = []
    seen: set[str] = set()

    def visit(key: str, prefix: str, branch: str, below: str) -> None:
        node = nodes[key]
        state = "" if node["state"] == "present" else f"  [{node['state']}]"
        under = children.get(key, [])
        sources = [s for s in value["sources"] if s["artifact"] == node["name"] and node["version"]]
        above = "  (above)" if key in seen and (under or sources) else ""
        lines.append(f"{prefix}{branch}{node['name']}  {node['kind']}  {node['digest'][:12]}{state}{above}")
        if key in seen:
            return
        seen.add(key)
        deeper = prefix + below
        last = len(under) + len(sources) - 1
        for i, inner in enumerate(under):
            visit(inner, deeper, "└─ " if i == last else "├─ ", "   " if i == last else "│  ")
        for i, source in enumerate(sources, start=len(under)):
            said = ", ".join(f"{k}: {v}" for k, v in source.items() if k != "artifact" and v not in (None, [], {}, ""))
            lines.append(f"{deeper}{'└─ ' if i == last else '├─ '}source  {said}")

    visit(next(iter(nodes)), "", "", "")
    return lines


def verify(artifact: Artifact) -> None:
    """Read the whole payload again; UserError if it is not what the record says."""
    actual = digest_folder(Path(artifact.path))
    if actual != artifact.digest:
        raise UserError(
            f"the payload has changed since it was made (digest {actual[:12]}, recorded {artifact.digest[:12]})",
            where=str(artifact.path),
            fix="restore it from a copy, or delete the folder and run the recipe again",
        )
