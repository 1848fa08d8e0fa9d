"""Addresses that lead to the same page, brought to one form (RFC 3986 section 6, and what trackers add)."""

from __future__ import annotations

import contextlib
import re
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import xxhash

TRACKING = re.compile(
    r"utm_\w*|[gdwmy]?clid|gclsrc|[gw]braid|fbclid|msclkid|yclid|ysclid|twclid|ttclid|li_fat_id|igshid|igsh|mc_[ce]id|_hs\w+"
    r"|hsctatracking|_ga|_gl|mkt_tok|vero_\w+|oly_(enc|anon)_id|s_cid|sc_campaign|_openstat|phpsessid|jsessionid|aspsessionid\w*",
    re.IGNORECASE,
)
"""Names of query parameters that say where a visitor came from or who it is, never what is shown."""
_PORTS = {"http": "80", "https": "443"}
_INDEX = re.compile(r"/(index|default)\.(html?|php|aspx?)$", re.IGNORECASE)
_SESSION = re.compile(r";(jsessionid|phpsessid)=[^/;]*", re.IGNORECASE)
_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_BARE = _UNRESERVED | frozenset("!$'()*,:;@/%&=+")


def canonical_url(url: str) -> str:
    """One form for all the addresses of a page, without its scheme; "" if this is no http(s) address.

    Equal become: http and https; `www.`; upper and lower case of host; default ports; user names; fragments (but for
    `#!`, which scripts once used as paths); `.` and `..`; `/index.html` and the like; a last slash; ways of escaping
    the same character; the order of parameters; parameters that only track (`TRACKING`).
    """
    cleaned = re.sub(r"[\x00-\x20\x7f]+", "", url)
    try:
        parts = urlsplit(cleaned if "://" in cleaned else f"http:{cleaned}" if cleaned.startswith("//") else cleaned)
        host, port = parts.hostname or "", str(parts.port or "")
    except ValueError:
        return ""
    if parts.scheme.lower() not in _PORTS or not host:
        return ""
    host = _host(host)
    address = host if port in ("", _PORTS[parts.scheme.lower()]) else f"{host}:{port}"
    fragment = f"#{parts.fragment}" if parts.fragment.startswith("!") else ""
    query = _query(parts)
    return address + _path(parts.path) + (f"?{query}" if query else "") + fragment


def url_hash(url: str) -> bytes:
    """16 bytes (XXH3-128) of the canonical form, b"" if there is none: such documents equal nobody."""
    canonical = canonical_url(url)
    return xxhash.xxh3_128_digest(canonical.encode("utf-8", "surrogatepass")) if canonical else b""


def _host(host: str) -> str:
    host = host.lower().rstrip(".")
    if not host.isascii():
        with contextlib.suppress(UnicodeError):  # no valid name still equals itself
            host = host.encode("idna").decode("ascii")
    bare = re.sub(r"^www\d?\.", "", host)
    return bare if "." in bare else host


def _path(path: str) -> str:
    kept: list[str] = []
    for piece in _escaped(_SESSION.sub("", path)).split("/"):
        if piece == "..":
            kept = kept[:-1] or [""]
        elif piece != ".":
            kept.append(piece)
    return _INDEX.sub("/", "/".join(kept)).rstrip("/")


def _query(parts: SplitResult) -> str:
    found = [piece for piece in parts.query.split("&") if piece]
    return "&".join(sorted(_escaped(p) for p in found if not TRACKING.fullmatch(p.partition("=")[0])))


def _escaped(text: str) -> str:
    """Every character either as it is or as %XX, always the same way; what is broken stays."""
    pieces = re.split(r"((?:%[0-9a-fA-F]{2})+)", text)
    return "".join(_unescape(piece) if number % 2 else _escape(piece.encode("utf-8", "surrogatepass"))
                   for number, piece in enumerate(pieces))


def _unescape(piece: str) -> str:
    # A delimiter that was escaped means something else than a bare one, so it stays escaped.
    return "".join(chr(b) if chr(b) in _UNRESERVED else f"%{b:02X}" for b in unquote_to_bytes(piece))


def _escape(piece: bytes) -> str:
    return "".join(chr(b) if chr(b) in _BARE else f"%{b:02X}" for b in piece)
