"""Which licence a text is: by its SPDX line, or by how many of a known licence's word 5-grams it holds.

`licences.json` keeps a sample of the hashes of the 5-grams of each licence, no text. A licence file is the licence of
which it holds most, if that is `LEAST_SHARE` or more; a text of several licences gives all that it holds.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from importlib.resources import files

import numpy as np
import xxhash

LEAST_SHARE = 0.8
"""Share of a licence's 5-grams that a text must hold: names and years change, sentences do not."""
LONGEST = 400_000
"""Characters of a licence file that are looked at."""
NAMES = re.compile(r"^(?:un)?licen[cs]e(?:[-._].*)?$|^copying(?:[-._].*)?$|^(?:mit|bsd|gpl|apache)[-_]?licen[cs]e.*$"
                   r"|^.*[-_.]licen[cs]e(?:\.(?:txt|md|rst))?$", re.IGNORECASE)
"""File names that may hold a licence."""
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*\(?([A-Za-z0-9.+\-]+(?:[ \t]+(?:OR|AND|WITH|or|and|with)[ \t]+"
                   r"\(?[A-Za-z0-9.+\-]+\)?)*)")
_NOTICES = {name: re.compile(pattern.replace(" ", r"[\s,*#/]+"), re.IGNORECASE) for name, pattern in {
    "Apache-2.0": r"licensed under the apache license version 2\.0",
    "MPL-2.0": r"subject to the terms of the mozilla public license v\. 2\.0",
    "AGPL-3.0": r"gnu affero general public license .{0,80}?version 3",
    "LGPL-3.0": r"gnu lesser general public license .{0,80}?version 3",
    "LGPL-2.1": r"gnu lesser general public license .{0,80}?version 2\.1",
    "GPL-3.0": r"gnu general public license .{0,80}?version 3",
    "GPL-2.0": r"gnu general public license .{0,80}?version 2",
    "BSL-1.0": r"under the boost software license version 1\.0",
}.items()}
"""What a short notice says that refers to a licence without holding it."""
_WORDS = re.compile(r"[a-z0-9]+")


def spdx_line(text: str) -> str | None:
    """The expression of an SPDX-License-Identifier line in the first 8,000 characters."""
    match = _SPDX.search(text, 0, 8000)
    return " ".join(match[1].split()).rstrip(")") if match else None


def licence_of(text: str) -> str | None:
    """The SPDX identifier of a licence text (`A AND B` for several), None if it is none that is known."""
    text = text[:LONGEST]
    if stated := spdx_line(text):
        return stated
    held, known = grams(text), _known()
    shares = {name: float(np.isin(kept, held).mean()) for name, kept in known.items()}
    found: list[str] = []
    # What is there counts for a licence, what is missing three times against it: of BSD-2-Clause and BSD-3-Clause, or
    # MIT and MIT-0, which share most of their words, the right one wins, and the other is not meant too.
    for name in sorted(shares, key=lambda name: -(4 * shares[name] - 3) * len(known[name]) * _every(known[name])):
        if shares[name] >= LEAST_SHARE and not any(_alike(known[name], known[other]) for other in found):
            found.append(name)
    if not found:
        found = [name for name, notice in _NOTICES.items() if notice.search(text, 0, 3000)][:1]
    return " AND ".join(sorted(found)) or None


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Do two licences share many of the hashes that both could have kept?"""
    every = max(_every(one), _every(other))
    one, other = one[one % every == 0], other[other % every == 0]
    return bool(np.isin(one, other).sum() > 0.3 * min(len(one), len(other)))


def _every(kept: np.ndarray) -> int:
    return next(step for step in (8, 4, 1) if not (kept % step).any())


def grams(text: str) -> np.ndarray:
    """The sorted 32-bit hashes of a text's word 5-grams: lower-case words, punctuation left out."""
    words = _WORDS.findall(text.lower())
    found = {xxhash.xxh32_intdigest(" ".join(words[i: i + 5]).encode()) for i in range(max(1, len(words) - 4))}
    return np.array(sorted(found), dtype=np.uint32)


@cache
def _known() -> dict[str, np.ndarray]:
    data = json.loads((files(__package__) / "licences.json").read_text())
    return {name: np.frombuffer(base64.b64decode(kept), "<u4") for name, kept in data["grams"].items()}
