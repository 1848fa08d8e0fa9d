"""YAML that every reader understands the same way."""

from __future__ import annotations

import re
from typing import Any

import yaml

_PLAIN = re.compile(r"[A-Za-z][A-Za-z_./-]+\Z")


class _Dumper(yaml.SafeDumper):
    """Quotes every text that is not a plain word: readers disagree on whether 1e3, 0o7 or y are texts."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    words = re.fullmatch(_PLAIN, value) and dumper.resolve(yaml.ScalarNode, value, (True, False)).endswith(":str")
    block = "\n" in value and all(each.isprintable() for each in value.split("\n"))  # \x85 and others break lines too
    style = None if words else "|" if block else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(*documents: dict[str, Any]) -> str:
    """`documents` as one YAML text."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6,
                         explicit_start=len(documents) > 1)
