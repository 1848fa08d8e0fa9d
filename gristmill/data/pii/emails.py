"""E-mail addresses. Syntax: RFC 5321, section 4.1.2, without quoted local parts and address literals.

Every `@` is looked at once: the domain forwards, the local part backwards, at most 64 characters (RFC 5321, 4.5.3.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gristmill.data.pii.options import Span
from gristmill.data.pii.top_level import TOP_LEVEL

LONGEST_LOCAL = 64
_LOCAL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-"
_AT = re.compile(r"@([^\W_](?:[^\W_]|-(?!\.)){0,62}+(?:\.[^\W_](?:[^\W_]|-(?!\.)){0,62}+){1,8}+)")
"""An `@` with two or more labels behind it."""
_RESERVED = re.compile(r"(?:.*\.)?(?:example(?:\.(?:com|net|org))?|test|invalid|localhost|local)", re.IGNORECASE)
"""Domains that belong to nobody: RFC 2606, RFC 6761, RFC 6762."""
_NOT_PERSONS = frozenset({"git", "svn", "hg"})
"""User names under which version control is reached: `git@github.com:owner/name`."""


def emails(text: str) -> Iterator[Span]:
    """Addresses whose domain ends in a known top-level domain.

    Not: domains kept for examples, the user of an URL (`ftp://user@host`), version control, and programs (`a@b.T`).
    """
    end = 0
    for match in _AT.finditer(text):
        at = match.start()
        local = _local(text, max(end, at - LONGEST_LOCAL), at)
        if not local:
            continue
        stop = _domain_end(match[1])
        if not stop or _RESERVED.fullmatch(match[1], 0, stop):
            continue
        start, end_here = at - len(local), at + 1 + stop
        if _user_of_url(text, start) or local.lower() in _NOT_PERSONS:
            continue
        end = end_here
        yield Span(start, end_here, "email")


def _local(text: str, first: int, at: int) -> str:
    """The local part that ends before `at`; empty if there is none."""
    before = text[first:at]
    local = before[len(before.rstrip(_LOCAL)):]
    if first and len(local) == at - first and text[first - 1].isalnum():
        return ""  # longer than any address, or the rest of the address before
    for opening in "=/'`{|&?#":  # `?mail=a@b.org`, `'a@b.org'`: marks that stand around addresses more than in them
        cut = local.rfind(opening)
        if cut >= 0:
            local = local[cut + 1:]
    local = local.lstrip(".!#$%*+^}~-")
    if not local or local[-1] == "." or ".." in local:
        return ""
    before_local = text[at - len(local) - 1: at - len(local)]
    return "" if before_local.isalnum() and not _unspaced(before_local) else local


def _unspaced(character: str) -> bool:
    """Is this of a script that is written without spaces, so that an address may follow at once?"""
    return character >= "\u2e80"


def _domain_end(domain: str) -> int:
    """Where the longest name with a known top-level domain ends in `domain`; 0 if there is none."""
    end = len(domain)
    while (dot := domain.rfind(".", 0, end)) > 0:
        label = domain[dot + 1: end]
        if label.lower() in TOP_LEVEL or label.startswith(("xn--", "XN--")):
            return end
        if not label.isascii():  # Chinese and Japanese go on without a space after the address
            ascii_part = re.match(r"[A-Za-z]+", label)
            if ascii_part and ascii_part[0].lower() in TOP_LEVEL and _unspaced(label[ascii_part.end()]):
                return dot + 1 + ascii_part.end()
        end = dot
    return 0


def _user_of_url(text: str, start: int) -> bool:
    """Does the address stand where an URL has its user (and password)?"""
    before = text[max(0, start - 80): start]
    slashes = before.rfind("://")
    return slashes >= 0 and not re.search(r"[\s/?#=&<>\"']", before[slashes + 3:])
