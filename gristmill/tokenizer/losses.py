"""What text loses on its way to ids and back, read from the parts of a tokenizer.json."""

from __future__ import annotations

from typing import Any

SAID = {
    "Lowercase": "capital letters", "StripAccents": "accents", "NFC": "the form of composed characters (NFC)",
    "NFD": "the form of composed characters (NFD)", "NFKC": "compatibility characters (NFKC)",
    "NFKD": "compatibility characters (NFKD)", "Nmt": "control characters and kinds of space",
    "Precompiled": "characters that its table replaces", "Strip": "white space at the ends",
}
"""Normalizers that lose something, and what."""


def losses(specification: dict[str, Any]) -> list[str]:
    """Sentences without a verb: "capital letters", "white space", ...; empty where every text comes back exactly.

    Only byte-level tokenizers whose text is not changed first promise that.
    """
    found = []
    for part in components(specification.get("normalizer")):
        kind = part.get("type")
        if kind == "BertNormalizer":
            if part.get("lowercase"):
                found.append(SAID["Lowercase"])
            if part.get("strip_accents") or (part.get("strip_accents") is None and part.get("lowercase")):
                found.append(SAID["StripAccents"])
            if part.get("clean_text"):
                found.append("control characters")
        elif kind == "Replace" and part.get("content") != "▁":
            found.append("text that its normalizer replaces")
        elif kind in SAID:
            found.append(SAID[kind])
    decoders = {part.get("type") for part in components(specification.get("decoder"))}
    splitters = {part.get("type") for part in components(specification.get("pre_tokenizer"))}
    model = specification.get("model") or {}
    if "ByteLevel" not in decoders:
        if model.get("type") in ("WordPiece", "WordLevel") or splitters & {"Whitespace", "WhitespaceSplit",
                                                                             "BertPreTokenizer"}:
            found.append("white space")
        if not model.get("byte_fallback"):
            found.append("characters that are not in the vocabulary")
        changes = {part.get("type") for part in components(specification.get("normalizer"))}
        if {"Metaspace", "Prepend"} & (splitters | changes):
            found.append("the difference between a space and ▁")
    return list(dict.fromkeys(found))


def components(part: Any) -> list[dict[str, Any]]:
    """A component of tokenizer.json, or those of a sequence, in order; [] for none."""
    if not isinstance(part, dict):
        return []
    for inside in ("normalizers", "pretokenizers", "decoders"):
        if isinstance(part.get(inside), list):
            return [one for inner in part[inside] for one in components(inner)]
    return [part]
