"""Which licence a text or web page says it is under, and signal `license_v1`: what that licence allows.

Read: SPDX lines (`formats.licences`), links to Creative Commons deeds, `rel="license"` and metadata of HTML, and
sentences such as "licensed under CC BY 4.0". A licence that is only talked about is not stated. Identifiers: SPDX
licence list; open: Open Definition 2.1. No legal advice: what a page says may be wrong, and hold for parts of it
only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

import numpy as np

from gristmill.data.formats.licences import spdx_line
from gristmill.data.signals.batch import Batch
from gristmill.data.signals.signal import signal

PUBLIC_DOMAIN = "LicenseRef-public-domain"
RESERVED = "LicenseRef-all-rights-reserved"
_PORTS = frozenset(["CC-BY-2.5-AU", "CC-BY-3.0-AT", "CC-BY-3.0-AU", "CC-BY-3.0-DE", "CC-BY-3.0-IGO", "CC-BY-3.0-NL",
                    "CC-BY-3.0-US", "CC-BY-NC-3.0-DE", "CC-BY-NC-ND-3.0-DE", "CC-BY-NC-ND-3.0-IGO",
                    "CC-BY-NC-SA-2.0-DE", "CC-BY-NC-SA-2.0-FR", "CC-BY-NC-SA-2.0-UK", "CC-BY-NC-SA-3.0-DE",
                    "CC-BY-NC-SA-3.0-IGO", "CC-BY-ND-3.0-DE", "CC-BY-SA-2.0-UK", "CC-BY-SA-2.1-JP", "CC-BY-SA-3.0-AT",
                    "CC-BY-SA-3.0-DE", "CC-BY-SA-3.0-IGO"])
"""Versions of single countries that SPDX lists; others are named like the general one."""

_DEED = re.compile(
    r"creativecommons\.org/(?:licen[sc]es/(?P<kind>by(?:-nc)?(?:-nd|-sa)?)(?:/(?P<version>[1-4]\.[0-9]))?"
    r"(?:/(?P<port>[a-z]{2}|igo)(?![a-z.]))?|publicdomain/(?P<public>zero|mark)/1\.0)", re.IGNORECASE)
_NAMED = re.compile(
    r"(?<![\w-])(?:(?P<cc>CC[- ]BY(?:[- ]NC)?(?:[- ](?:ND|SA))?)(?![\w]|-[A-Z])"
    r"|Creative Commons[\s,:-]{1,3}(?:licen[cs]e\s)?(?P<words>Attribution(?:\W{1,3}(?:Non-?\s?Commercial|"
    r"No\W?Derivatives|No\W?Derivs|Share\W?Alike)){0,2}))(?:[\s,]{1,2}(?:International|Unported|licen[cs]e)?"
    r"[\s,]{0,2}\(?(?:v\.?|version)?\s?"
    r"(?P<version>[1-4]\.[0-9]))?|(?<![\w-])(?P<zero>CC[- ]?0)(?:[- ]1\.0)?(?!\w|\.[0-9])", re.IGNORECASE)
_OTHERS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in {
    "GFDL-1.3": r"GNU Free Documentation Licen[cs]e,?\s(?:v|version)?\s?1\.3",
    "GFDL-1.2": r"GNU Free Documentation Licen[cs]e,?\s(?:v|version)?\s?1\.2",
    "Apache-2.0": r"Apache(?: Software)? Licen[cs]e,?\s(?:v|version)?\s?2\.0|Apache[- ]2\.0",
    "MIT": r"\bMIT[- ]licen[cs]e", "BSD-3-Clause": r"3-clause BSD|BSD[- ]3-clause",
    "BSD-2-Clause": r"2-clause BSD|BSD[- ]2-clause",
    "AGPL-3.0": r"(?:GNU )?(?:Affero General Public Licen[cs]e|AGPL),?\s?(?:v|version)?\s?3",
    "GPL-3.0": r"(?:GNU General Public Licen[cs]e|\bGPL),?\s?(?:v|version)?\s?3",
    "GPL-2.0": r"(?:GNU General Public Licen[cs]e|\bGPL),?\s?(?:v|version)?\s?2",
    "MPL-2.0": r"Mozilla Public Licen[cs]e,?\s(?:v|version)?\s?2\.0",
    "ODC-By-1.0": r"Open Data Commons Attribution|ODC[- ]BY", "ODbL-1.0": r"Open Database Licen[cs]e|\bODbL\b",
    "OGL-UK-3.0": r"Open Government Licen[cs]e,?\s(?:v|version)\s?3\.0",
}.items()}
_STATING = re.compile(
    r"(?:licen[sc]ed|available|released|distributed|published|shared|provided|offered|covered|used|reused)"
    r"(?:\s[\w,-]+){0,6}?\s(?:under|by|via|with)\b|(?:under|subject to) (?:a|an|the)(?: terms of)?\b|"
    r"(?:licen[sc]e|licen[sc]ing|rights|copyright|lizenz|licence|licencia|licenza)\s?[:=]|©|\(c\)|copyright\s[0-9]{4}|"
    r"lizenz(?:iert)? (?:unter|nach)|unter (?:der|einer) [\w-]*\s?lizenz|sous licen[cs]e|bajo (?:una )?licencia|"
    r"sotto licenza|under en\b", re.IGNORECASE)
_PUBLIC = re.compile(
    r"(?:(?:this|the) (?:work|book|text|e?book|image|file|document|material|page)s? (?:is|are) (?:now )?in|"
    r"(?:released|dedicated|placed|put) (?:in)?to) the public domain", re.IGNORECASE)
_ALL_RIGHTS = re.compile(r"all rights(?: are)? reserved|alle rechte vorbehalten|tous droits réservés|"
                         r"todos los derechos reservados|tutti i diritti riservati|"
                         r"todos os direitos reservados",
                         re.IGNORECASE)
_MARKED = re.compile(
    r"<(?:a|link|meta|span|img)\b[^<>]{0,400}?(?:rel\s?=\s?[\"']?[\w\s]{0,40}\blicense\b|"
    r"(?:name|property|itemprop)\s?=\s?[\"']?(?:dc\.|dcterms\.|og:|cc:)?(?:rights|license)\b)[^<>]{0,400}>|"
    r"\"license\"\s?:\s?\"[^\"]{1,200}\"", re.IGNORECASE)
"""HTML (and JSON-LD in it) that states a licence for machines."""
_SIGNS = ("creativecommons.org", "creative commons", "cc by", "cc-by", "cc0", "cc-0", "cc 0", "licen", "lizenz",
          "public domain",
          "spdx-")
MOST_NAMES = 200
"""Names and links of licences that are looked at: no page states more, and lists of works do not count."""
_STATING_RANGE = 120
"""Characters before a name in which the words must stand that make it a statement."""


def stated_license(text: str) -> str:
    """The SPDX identifier of the licence that a text or HTML page states for itself; empty if it states none.

    Also `LicenseRef-public-domain` and `LicenseRef-all-rights-reserved`, and `LicenseRef-CC-BY` and its like where no
    version is given. What is stated for machines (SPDX line, rel="license", metadata) goes before sentences, and these
    before bare links. Empty too if the best of these name several: none can be said to hold.
    """
    lower = text.lower()
    if any(sign in lower for sign in _SIGNS):
        if "spdx-license-identifier" in lower and (line := spdx_line(text)):
            return line
        marked = {found for match in _MARKED.finditer(text) for found, _,
                  _ in _licences(match[0])} if "<" in text else set()
        stated, bare = set(), set()
        for found, start, linked in itertools.islice(_licences(text), MOST_NAMES):
            before = text[max(0, start - _STATING_RANGE): start]
            if _STATING.search(before):
                stated.add(found)
            elif linked:
                bare.add(found)
        for several in (marked, stated, bare):
            several = _versioned(several)
            if several:
                return several.pop() if len(several) == 1 else ""
        if "public domain" in lower and _PUBLIC.search(text):
            return PUBLIC_DOMAIN
    if ("reserv" in lower or "vorbehalten" in lower or "riservati" in lower) and _ALL_RIGHTS.search(text):
        return RESERVED
    return ""


def _licences(text: str) -> Iterator[tuple[str, int, bool]]:
    """(identifier, where, is it a link?) of every licence that is named."""
    for match in _DEED.finditer(text):
        if match["public"]:
            yield "CC0-1.0" if match["public"].lower() == "zero" else "CC-PDM-1.0", match.start(), True
        else:
            yield _creative_commons(match["kind"], match["version"], match["port"]), match.start(), True
    for match in _NAMED.finditer(text):
        if match["zero"]:
            yield "CC0-1.0", match.start(), False
        elif match["cc"]:
            yield _creative_commons(match["cc"][3:], match["version"]), match.start(), False
        else:
            words = re.sub(r"\W", "", match["words"].lower())
            parts = (("noncommercial", "-nc"), ("noderiv", "-nd"), ("sharealike", "-sa"))
            kind = "by" + "".join(short for long, short in parts if long in words)
            yield _creative_commons(kind, match["version"]), match.start(), False
    for name, pattern in _OTHERS.items():
        for match in pattern.finditer(text):
            yield name, match.start(), False


def _creative_commons(kind: str, version: str | None, port: str | None = None) -> str:
    name = f"CC-{kind.upper().replace(' ', '-')}"
    if not version:
        return f"LicenseRef-{name}"
    ported = f"{name}-{version}-{port.upper()}" if port else ""
    return ported if ported in _PORTS else f"{name}-{version}"


def _versioned(names: set[str]) -> set[str]:
    """Without names that say no version, or no country, where another says it: pages have both name and link."""
    return {name for name in names if not any(
        other != name and ((name.startswith("LicenseRef-") and re.fullmatch(
            re.escape(name.removeprefix("LicenseRef-")) + r"-[0-9].*",
            other)) or (other.startswith(f"{name}-") and other in _PORTS))
        for other in names)}


_OPEN = re.compile(r"CC0-|CC-PDM|CC-BY-(?:SA-)?[0-9]|CC-BY(?:-SA)?$|(?:A|L)?GPL-|GFDL-|MIT|Apache-|BSD-|0BSD|ISC|MPL-|"
                   r"Unlicense|BSL-1\.0|Zlib|PostgreSQL|Python-|PSF-|ODC-By|ODbL|OGL-|EPL-|EUPL-|CDDL|Artistic-2|WTFPL|"
                   r"public-domain")


def is_open(license: str) -> bool:
    """Is an SPDX expression open by the Open Definition: may everybody use, change and share it, for any purpose? Of
    `A OR B` one, of `A AND B` both."""
    return bool(license) and any(all(_OPEN.match(name.strip("() ").removeprefix("LicenseRef-"))
                                     for name in re.split(r"\s+(?:AND|WITH)\s+",
                                                          part) if "-exception" not in name)
                                 for part in re.split(r"\s+OR\s+", license))


@signal
def license_v1(batch: Batch) -> dict[str, np.ndarray]:
    """stated: does the text state a licence (`stated_license`)? open: is it open? non_commercial, no_derivatives,
    share_alike: does its Creative Commons licence say so? reserved: does it say that all rights are reserved, and no
    licence? Each 0 or 1."""
    found = [stated_license(text) for text in batch.texts]
    tests: dict[str, Callable[[str], bool]] = {
        "stated": bool, "open": is_open,
        "non_commercial": lambda name: "CC-BY-NC" in name,
        "no_derivatives": lambda name: "CC-BY" in name and "-ND" in name,
        "share_alike": lambda name: "CC-BY" in name and "-SA" in name,
        "reserved": lambda name: name == RESERVED,
    }
    return {name: np.fromiter(map(test, found), np.int64, len(found)) for name, test in tests.items()}
