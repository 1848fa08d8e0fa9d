"""Keys and passwords in source code: found by their form, replaced by a placeholder, counted."""

from __future__ import annotations

import math
import re
from collections import Counter

_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "private_key": ((r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]{40,8000}?)"
                    r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"), ("PRIVATE KEY",)),
    "aws_key": (r"(?<![A-Za-z0-9])(?:AKIA|ASIA|AROA|AIDA)[A-Z2-7]{16}(?![A-Za-z0-9])",
                ("AKIA", "ASIA", "AROA", "AIDA")),
    "github_token": (r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})\b", ("gh", "github_pat_")),
    "gitlab_token": (r"\bglpat-[A-Za-z0-9_-]{20,}", ("glpat-",)),
    "slack_token": (r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|https://hooks\.slack\.com/services/T\w+/B\w+/\w{20,}",
                    ("xox", "hooks.slack")),
    "google_key": (r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])|\bGOCSPX-[A-Za-z0-9_-]{28}", ("AIza", "GOCSPX-")),
    "stripe_key": (r"\b(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}|\bwhsec_[A-Za-z0-9]{24,}", ("k_live_", "k_test_",
                                                                                           "whsec_")),
    "openai_key": (r"\bsk-(?:proj-|ant-|or-)?[A-Za-z0-9_-]{32,}", ("sk-",)),
    "hugging_face_token": (r"\bhf_[A-Za-z]{34}\b", ("hf_",)),
    "npm_token": (r"\bnpm_[A-Za-z0-9]{36}\b", ("npm_",)),
    "pypi_token": (r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}", ("pypi-",)),
    "sendgrid_key": (r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}", ("SG.",)),
    "jwt": (r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}", ("eyJ",)),
    "url_password": (r"(?<=://)[^\s:/@'\"<>{}$%()\[\]]{1,64}:[^\s:/@'\"<>{}$%()\[\]]{6,128}(?=@[\w.-]+)", ("://",)),
}
"""Kind -> its form, and what a text must hold for the form to be looked for at all."""
_PATTERNS = {kind: (re.compile(pattern), signs) for kind, (pattern, signs) in _KINDS.items()}
_ASSIGNED = re.compile(
    r"""(?i)(?:secret|token|passw(?:or)?d|api[_-]?key|auth[_-]?key|access[_-]?key|private[_-]?key|credential)"""
    r"""[\w-]{0,20}["']?\s{0,8}(?:=>|:=|[:=])\s{0,8}["'](?P<value>[^\s"'\\]{16,200})["']""")
_PLAIN = re.compile(r"(?i)example|placeholder|changeme|your[_-]|dummy|xxx|test|sample|foobar|secret|passw|token|\.\.\.|"
                    r"1234567|abcdef|^[a-z]+(?:[_.:/-][a-z]+)*$|^[A-Z][A-Z_]+$|^[./]|[<>{}()$%\[\]]|://|^\w+\.\w+$")
_EXAMPLE = re.compile(r"(?i)passw(?:or)?d|pass(?:phrase)?|secret|passwd|pwd|token|my\w*|your\w*|example|x+|\*+|hidden")
LEAST_ENTROPY = 3.5
"""Bits a character of a value that counts as random: hexadecimal has at most 4, Base64 6, words of 16 letters 3."""


def scrub(text: str) -> tuple[str, Counter[str]]:
    """The text with `<secret:KIND>` in the place of each secret, and how many of each kind there were."""
    found: Counter[str] = Counter()
    for kind, (pattern, signs) in _PATTERNS.items():
        if any(sign in text for sign in signs):
            def replaced(match: re.Match[str], kind: str = kind) -> str:
                if kind == "url_password" and _EXAMPLE.fullmatch(match[0].partition(":")[2]):
                    return match[0]
                found[kind] += 1
                return f"<secret:{kind}>"

            text = pattern.sub(replaced, text)

    def value(match: re.Match[str]) -> str:
        held = match["value"]
        if not _random(held):
            return match[0]
        found["assigned"] += 1
        at = match.start("value") - match.start()
        return match[0][:at] + "<secret:assigned>" + match[0][at + len(held):]

    return _ASSIGNED.sub(value, text), found


def _random(value: str) -> bool:
    """Does this look like no word, name, path or example?"""
    if _PLAIN.search(value) or not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)):
        return False
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values()) >= LEAST_ENTROPY
