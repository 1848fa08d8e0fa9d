"""What a page says of itself: title, language, date of publication."""

from __future__ import annotations

import re
from html import unescape

# Heads are short; a page that hides its title behind this much script keeps it.
SEEN = 500_000
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,2000})", re.I)
_META = re.compile(r"<meta\s[^>]{0,2000}>", re.I)
_ATTRIBUTE = re.compile(r"""([\w:-]{1,40})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_LANGUAGE = re.compile(r"""<html\b[^>]{0,1000}?\slang\s*=\s*["']?([a-zA-Z]{2,3}(?:[-_][a-zA-Z0-9]{1,8}){0,2})""", re.I)
_DATE = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::(\d{2}))?(?:\.\d{1,9})?\s?(Z|[+-]\d{2}:?\d{2})?)?")
_TIME = re.compile(r"""<time\b[^>]{0,400}?\bdatetime\s*=\s*["']?([^"'>]{8,40})""", re.I)
_STATED = re.compile(r'"datePublished"\s{0,4}:\s{0,4}"([^"]{8,40})"')
_PUBLISHED = ("article:published_time", "datepublished", "date", "dc.date", "dc.date.issued", "dcterms.created",
              "pubdate", "publishdate", "sailthru.date", "parsely-pub-date", "citation_publication_date")


def metadata(html: str) -> tuple[str, str, str]:
    """Title, language tag and date of publication (ISO 8601, as stated), each empty where the page does not say."""
    head = html[:SEEN]
    named: dict[str, str] = {}
    for meta in _META.findall(head):
        values = {name.lower(): one or two or three for name, one, two, three in _ATTRIBUTE.findall(meta)}
        name = values.get("property") or values.get("name") or values.get("itemprop") or ""
        if name and values.get("content"):
            named.setdefault(name.lower(), values["content"])
    found = _TITLE.search(head)
    title = named.get("og:title") or (found[1] if found else "")
    language = found[1] if (found := _LANGUAGE.search(head)) else ""
    stated = [named[name] for name in _PUBLISHED if name in named]
    stated += [match[1] for pattern in (_STATED, _TIME) if (match := pattern.search(head))]
    date = next((iso for text in stated if (iso := _iso(text))), "")
    return " ".join(unescape(title).split()), language.replace("_", "-"), date


def _iso(text: str) -> str:
    found = _DATE.search(text)
    if found is None or not ("01" <= found[2] <= "12" and "01" <= found[3] <= "31"):
        return ""
    day = f"{found[1]}-{found[2]}-{found[3]}"
    if found[4] is None or found[4] > "23" or found[5] > "59" or (found[6] or "00") > "59":
        return day
    zone = found[7] or ""
    if zone and zone != "Z" and ":" not in zone:
        zone = zone[:3] + ":" + zone[3:]
    return f"{day}T{found[4]}:{found[5]}:{found[6] or '00'}{zone}"
