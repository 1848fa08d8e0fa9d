"""Texts of Project Gutenberg: what is the book, what its header says, where its chapters begin, which lines belong
together. Pure functions; the source kind `books` uses them.
"""

from __future__ import annotations

import re
from typing import Any

from gristmill.data.formats.dates import iso_date

SHORTEST_CHAPTER = 300
"""Characters; a heading with less below it is a line of a table of contents or a title page, and goes to the next."""

LONGEST_HEADER = 20_000
"""Characters before the "small print" of an old text, if that is in front of the book."""

_GUTENBERG = r"project\s+gutenberg"
_START = re.compile(
    rf"""^[ \t]*(?:
        \*{{2,4}}\s*start\s+of\s+(?:the|this)\s+(?:copyrighted\s+)?{_GUTENBERG}(?:[^*\n]|\n(?!\s*\n))*(?:\*{{2,4}}|$)
      | \*?\**\s*end\s*\*?\s*the\s+small\s+print!?[^\n]*
      | \*{{2,4}}\s*beginning\s+of\s+(?:the|this)\s+{_GUTENBERG}[^\n]*
    )[ \t]*\**[ \t]*$""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_END = re.compile(
    rf"""^[ \t]*(?:
        \*{{2,4}}\s*end\s+of\s+(?:the|this)\s+(?:copyrighted\s+)?{_GUTENBERG}
      | \*{{2,4}}\s*start:?\s+full\s+license
      | \*{{2,4}}\s*start\s*\*+\s*the\s+small\s+print
    )""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_SMALL_PRINT = re.compile(r"^[ \t]*\*+\s*start\s*\*+\s*the\s+small\s+print", re.IGNORECASE | re.MULTILINE)
_WEAK_END = re.compile(
    rf"""^[ \t]*\**\s*(?:(?:the\s+)?end\s+of\s+(?:the\s+|this\s+)?{_GUTENBERG}
      | (?:ende?|fin)\s+(?:dieses|de|du|van)\s+(?:cette\s+|ce\s+|le\s+|dit\s+)?proje[ck]t\s+gutenberg)""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_CREDIT = re.compile(
    r"^\W*(?:produced\s+by|e-?text\s+(?:was\s+)?(?:prepared|produced|scanned)|(?:this|the)\s+(?:e-?text|e-?book)\s+was"
    r"|(?:prepared|transcribed|scanned|typed|digitized|proofed)\s+(?:and\s+\w+\s+)?(?:by|from)\b"
    r"|html\s+version\s+by|\(?this\s+file\s+was|.{0,80}distributed\s+proofread)", re.IGNORECASE | re.DOTALL)
_NOTE = re.compile(r"^[\W_]*transcriber[’']?s?[’']?\s+(?:end\s+)?notes?\b", re.IGNORECASE)
_FIELD = re.compile(r"^(Title|Subtitle|Author|Authors|Translator|Editor|Illustrator|Release Date|Posting Date|Language"
                    r"|Character set encoding|Original publication|Credits|Produced by)\s*:[ \t]*(\S.*)$",
                    re.IGNORECASE)
_NUMBER = re.compile(r"\[\s*(?:e-?book|e-?text)\s*#\s*(\d{1,6})\s*\]", re.IGNORECASE)
_OLD_TITLE = re.compile(rf"{_GUTENBERG}(?:['’]s)?\s+"
                        r"e-?(?:text|book)\s+(?:of|,)\s+(.{1,200}?)(?:,?\s+by\s+(.{1,100}?))?\**[ \r]{0,9}$",
                        re.IGNORECASE | re.MULTILINE)
_OLD_DATE = re.compile(r"^\s*([A-Z][a-z]+,?\s+(?:\d+,\s+)?\d{4})\s+\[", re.MULTILINE)
_CHARSET = re.compile(rb"^Character set encoding:\s*([\w .-]+)", re.IGNORECASE | re.MULTILINE)
LANGUAGES = {
    "english": "en", "french": "fr", "german": "de", "spanish": "es", "italian": "it", "portuguese": "pt",
    "dutch": "nl", "latin": "la", "finnish": "fi", "swedish": "sv", "danish": "da", "norwegian": "no", "greek": "el",
    "esperanto": "eo", "chinese": "zh", "japanese": "ja", "russian": "ru", "polish": "pl", "hungarian": "hu",
    "czech": "cs", "catalan": "ca", "tagalog": "tl", "welsh": "cy", "hebrew": "he", "icelandic": "is",
}
"""ISO 639-1 of the names in headers."""


def body(text: str) -> tuple[int, int, str]:
    """[start, stop) of the book inside a Project Gutenberg text, and which marks were found: both, start, end, none.

    The START and END lines in their many spellings, the "small print" of the oldest texts at either end, and the
    licence behind. A text without them is all book.
    """
    start, stop = 0, len(text)
    head = _window(text)
    for match in _START.finditer(text, 0, head):
        begun = _SMALL_PRINT.search(text, start, match.start()) if "small" in match[0].lower() else None
        if begun is None or (start == 0 and begun.start() < LONGEST_HEADER):  # else it stands behind the book
            start = match.end()
    ends = [match.start() for match in _END.finditer(text, start)]
    if ends:
        licence = text.find("\n", ends[0])
        # a book about the project, or several in one file, may say such a thing inside: the last plain END counts
        plain = [at for at in ends if re.match(r"[ \t]*\*+\s*end", text[at: at + 40], re.IGNORECASE)]
        stop = plain[-1] if plain else (ends[0] if licence >= 0 else stop)
    weak = [match.start() for match in _WEAK_END.finditer(text, start, stop)]
    if weak and (stop - weak[-1] < 1500 or (not ends and len(text) - weak[-1] < 40_000)):
        stop = weak[-1]
    found = {(True, True): "both", (True, False): "start", (False, True): "end", (False, False): "none"}
    return start, stop, found[start > 0, stop < len(text)]


def _window(text: str) -> int:
    """Where to stop looking for the START: after 1,500 lines, which holds the longest header with its small print."""
    at = 0
    for _ in range(1500):
        at = text.find("\n", at) + 1
        if at == 0:
            return len(text)
    return at


def header(text: str) -> dict[str, Any]:
    """What the header of a Project Gutenberg text says: title, author, translator, editor, illustrator, time,
    language, ebook (the number). Empty for other texts."""
    head = text[:LONGEST_HEADER]
    if not re.search(_GUTENBERG, head, re.IGNORECASE):
        return {}
    fields: dict[str, str] = {}
    lines = head.split("\n")
    for at, line in enumerate(lines[:400]):
        if match := _FIELD.match(line.strip()):
            name, value = match[1].lower(), match[2].strip()
            while at + 1 < len(lines) and re.match(r"\s{2,}\S", lines[at + 1]) and len(value) < 500:
                at += 1  # a long title goes on, indented
                value += " " + lines[at].strip()
            fields.setdefault(name, value)
        elif _START.match(line):
            break
    found: dict[str, Any] = {}
    for name in ("title", "author", "translator", "editor", "illustrator"):
        value = fields.get(name) or (fields.get("authors") if name == "author" else "")
        if value:
            found[name] = value
    if "title" not in found and (match := _OLD_TITLE.search(head)):
        found["title"] = match[1].strip(" *")
        if match[2] and "author" not in found:
            found["author"] = match[2].strip(" *")
    released = fields.get("release date") or fields.get("posting date") or ""
    old = _OLD_DATE.search(head)
    if time := iso_date(_NUMBER.sub("", released)) or (iso_date(old[1]) if old else ""):
        found["time"] = time
    if match := _NUMBER.search(head):
        found["ebook"] = int(match[1])
    if "language" in fields:
        found["language"] = LANGUAGES.get(fields["language"].lower(), fields["language"])
    copyrighted = re.search(rf"copyrighted\s+{_GUTENBERG}|copyright\s+protected\s+e", head, re.IGNORECASE)
    found["license"] = "Project Gutenberg License (copyrighted)" if copyrighted else "public domain in the USA"
    return found


def declared_encoding(data: bytes) -> str:
    """The encoding that the header names, as Python calls it; "" if it names none."""
    match = _CHARSET.search(data[:20_000])
    if not match:
        return ""
    name = match[1].decode("ascii", "replace").strip().lower().replace("iso latin-1", "iso-8859-1")
    return "cp1252" if name.startswith(("iso-8859-1", "latin")) and not name.startswith("iso-8859-15") else name


def without_credits(text: str) -> str:
    """The book without the lines that say who typed it: credits in its first paragraphs, transcriber's notes at both
    ends."""
    paragraphs = re.split(r"(\n[ \t]*\n\s*)", text)
    kept, seen, after_note = [], 0, False
    for at in range(0, len(paragraphs), 2):
        paragraph, gap = paragraphs[at], "".join(paragraphs[at + 1: at + 2])
        if seen < 12 and paragraph.strip():
            seen += 1
            note = _NOTE.match(paragraph)
            lone = note is not None and len(paragraph.strip()) < 40  # a heading: the note is the paragraph after it
            if note or after_note or (len(paragraph) < 1500 and _CREDIT.match(paragraph)):
                after_note = lone
                continue
        kept += [paragraph, gap]
    text = "".join(kept)
    last = len(text) - max(6000, len(text) // 20)
    ends = [match.start() for match in re.finditer(r"^.*$", text[max(last, 0):], re.MULTILINE) if _NOTE.match(match[0])]
    if ends and last + ends[0] > len(text) // 2:
        text = text[: max(last, 0) + ends[0]].rstrip(" \n-+|*_=[")
    return text.strip("\n")


def join_lines(text: str) -> str:
    """Hard-wrapped lines joined to paragraphs; only white space changes.

    A line is joined to the next one when the first word of that would not have fitted into it, so verse, tables,
    headings and the ends of paragraphs stay. Text that is not hard-wrapped (lines beyond 100 characters) stays.
    """
    lines = text.split("\n")
    lengths = sorted(len(line) for line in lines if line.strip())
    if not lengths or lengths[len(lengths) * 19 // 20] > 100:
        return text
    width = lengths[len(lengths) * 9 // 10]
    if width < 40:
        return text
    joined: list[str] = [lines[0]]
    last = lines[0]
    for line in lines[1:]:
        word = line.split(maxsplit=1)[:1]
        room = len(last.rstrip()) + 1 + (len(word[0]) if word else 0)
        indented = len(line) - len(line.lstrip()) > len(last) - len(last.lstrip())
        if word and last.strip() and room > width - 12 and not indented:
            before = joined[-1].rstrip()
            dash = before.endswith(("--", "—")) or line.lstrip().startswith(("--", "—"))
            joined[-1] = before + ("" if dash else " ") + line.strip()
        else:
            joined.append(line)
        last = line
    return "\n".join(joined)


_NUMERAL = (r"(?:[IVXLC]+|\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|(?:the\s+)?"
            r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last))")
_HEADING = re.compile(
    rf"""^[ \t]*(?:
        (?:chapter|book|part|volume|letter|canto|act|stave|kapitel|chapitre|capitolo|cap[ií]tulo|hoofdstuk|luku)
            \s+{_NUMERAL}\b[^\n]{{0,80}}
      | (?:prologue|epilogue|preface|foreword|introduction|conclusion|appendix|afterword)\.?
      | [IVXLC]{{1,7}}\.?
    )[ \t]*$""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


def chapters(text: str) -> list[tuple[str, str]]:
    """(heading, text with its heading) of the chapters; together they are the text. What stands before the first
    heading is the first, with the heading ""; a text without headings is one."""
    cuts = [(0, "")]
    for match in _HEADING.finditer(text):
        heading = match[0].strip()
        if heading.lower() in ("i", "i.") and text[match.end(): match.end() + 1] != "\n":
            continue
        if not re.search(r"\n[ \t]*\n?\Z|\A\Z", text[max(0, match.start() - 40): match.start()]):
            continue
        if match.start() - cuts[-1][0] < SHORTEST_CHAPTER and text[cuts[-1][0]: match.start()].strip():
            if cuts[-1][1]:  # the entry before was only a line of a table of contents
                cuts[-1] = (cuts[-1][0], heading)
                continue
        elif not text[cuts[-1][0]: match.start()].strip():
            cuts[-1] = (cuts[-1][0], heading)
            continue
        cuts.append((match.start(), heading))
    if len(cuts) > 1 and len(text) - cuts[-1][0] < SHORTEST_CHAPTER:
        cuts.pop()
    stops = [at for at, _ in cuts[1:]] + [len(text)]
    return [(heading, text[at:stop]) for (at, heading), stop in zip(cuts, stops, strict=True) if text[at:stop].strip()]
