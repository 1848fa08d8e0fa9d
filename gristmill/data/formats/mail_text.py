"""What a mail says: its headers, the text of its parts, and what in it is quoted or a signature."""

from __future__ import annotations

import contextlib
import email
import email.policy
import re
from dataclasses import dataclass
from email.errors import HeaderParseError, MessageError
from email.header import decode_header
from email.message import Message as Mime
from email.utils import parseaddr

from gristmill.data.formats.damaged import Damaged
from gristmill.data.formats.dates import utc_time
from gristmill.data.formats.text import Unreadable, decode, whole_characters

LONGEST_HEADER = 16 << 10
"""Bytes of one header with its continuations that are looked at; RFC 5322 has lines of at most 998."""
MOST_PARTS = 500
"""MIME parts of a message that are looked at."""
_MESSAGE_ID = re.compile(r"<([^<>\s]{1,250})>")
_LONG_CONTENT = re.compile(rb"^content-[\w-]{1,40}:(?:[^\n]|\n[ \t]){8192}", re.IGNORECASE | re.MULTILINE)
_WROTE = re.compile(
    r"^(?:on|am|le|el|il|op|em)\b.{4,300}"
    r"(?:wrote|writes|schrieb|a écrit|escribió|ha scritto|schreef|escreveu)\b.{0,60}:\s*$"
    r"|^[^\n>]{1,120}\b(?:wrote|writes|schrieb|a écrit)(?:\s+(?:on|in)\b[^\n]{0,80})?\s*:\s*$",
    re.IGNORECASE | re.DOTALL)
_FORWARD = re.compile(r"^[>\s]*-{3,}\s*(?:original message|forwarded message|ursprüngliche nachricht|message d'origine)"
                      r"\s*-{3,}\s*$|^_{20,}\s*\n\s*from:", re.IGNORECASE | re.MULTILINE)
_LIST_FOOTER = re.compile(r"^_{20,}\s*\n.{0,200}(?:mailing list|@)", re.IGNORECASE | re.MULTILINE)
_PGP_HEAD = re.compile(r"^-----BEGIN PGP SIGNED MESSAGE-----\s*\n(?:Hash:[^\n]*\n)?\s*\n?", re.MULTILINE)
_PGP_FOOT = re.compile(r"^-----BEGIN PGP SIGNATURE-----.*?(?:^-----END PGP SIGNATURE-----[^\n]*\n?|\Z)",
                       re.MULTILINE | re.DOTALL)


@dataclass(slots=True)
class Message:
    """A mail: thread is the id of its first message as far as its headers know it; attachments are counted."""

    text: str = ""
    subject: str = ""
    author: str = ""
    time: str = ""
    id: str = ""
    thread: str = ""
    list: str = ""
    attachments: int = 0


def parse_message(data: bytes) -> Message:
    """A message from its bytes. Raises Damaged: no_header, too_many_parts, unreadable_bytes, unreadable_html.

    Parsed under the policy `compat32`: the newer ones take quadratic time for a long header (80 kB of Content-Type:
    8 s) and raise errors of many types for broken ones.
    """
    head, _, _ = data.partition(b"\n\n") if b"\n\n" in data else data.partition(b"\r\n\r\n")
    if not re.match(rb"(?:>?From [^\n]*\n)?[A-Za-z][\w-]*[ \t]*:", head):
        raise Damaged("no_header", "it does not begin with the header of a mail")
    if _LONG_CONTENT.search(data):
        raise Damaged("broken_mime", "a header of more than 8 KiB")
    try:
        mime = email.message_from_bytes(data, policy=email.policy.compat32)
        message = Message()
        message.subject = " ".join(header(mime, "Subject").split())
        message.author = _author(header(mime, "From"))
        message.time = utc_time(header(mime, "Date"))
        message.list = _list_name(header(mime, "List-Id"))
        ids = [_ids(header(mime, name)) for name in ("References", "In-Reply-To", "Message-ID")]
        message.id = ids[2][0] if ids[2] else ""
        message.thread = next((found[0] for found in ids if found), "")
        plain, marked = _texts(mime, message)
    except RecursionError:
        raise Damaged("too_deep", "its parts are nested too deep") from None
    except (MessageError, LookupError, ValueError, AssertionError, TypeError, AttributeError) as error:
        raise Damaged("broken_mime", f"{type(error).__name__}: {error}") from error
    message.text = whole_characters("\n\n".join(plain or marked).replace("\r\n", "\n").replace("\r", "\n"))
    return message


def header(mime: Mime, name: str) -> str:
    """A header as text, its encoded words decoded; "" if it is missing."""
    raw = mime.get(name)
    if raw is None:
        return ""
    text = str(raw)[:LONGEST_HEADER].replace("\r", "").replace("\n", " ")
    if "=?" in text:
        with contextlib.suppress(HeaderParseError, ValueError, LookupError):
            text = "".join(piece.decode(_known(charset), "replace") if isinstance(piece, bytes) else piece
                           for piece, charset in decode_header(text))
    return whole_characters(text).strip()


def _texts(mime: Mime, message: Message) -> tuple[list[str], list[str]]:
    """The text parts and, where a message or an alternative has none, the text of its HTML parts."""
    plain: list[str] = []
    marked: list[str] = []
    for number, part in enumerate(mime.walk()):
        if number > MOST_PARTS:
            raise Damaged("too_many_parts", f"more than {MOST_PARTS} parts")
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        named = part.get_content_disposition() == "attachment" or part.get_filename()
        if named or kind not in ("text/plain", "text/html"):
            message.attachments += kind not in ("application/pgp-signature", "application/pkcs7-signature")
            continue
        text = _decoded(part)
        if kind == "text/html":
            from gristmill.data.formats.epub import html_text

            marked.append(html_text(text))
        elif text.strip():
            plain.append(unflowed(text, part) if part.get_param("format") == "flowed" else text)
    return plain, marked


def _decoded(part: Mime) -> str:
    """The text of a part in the charset that it names, if that can be, else in what the bytes suggest."""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    charset = _known(part.get_content_charset())
    for encoding in dict.fromkeys((charset, "utf-8")):
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            pass
    try:
        return decode(data, html=part.get_content_type() == "text/html")[0]
    except Unreadable as problem:
        raise Damaged("unreadable_bytes", str(problem)) from problem


def _known(charset: str | None) -> str:
    """A charset as Python calls it; those of mail programs that name a subset of what they send are widened."""
    name = (charset or "utf-8").strip("\"' ").lower()
    return {"us-ascii": "utf-8", "ascii": "utf-8", "iso-8859-1": "cp1252", "latin1": "cp1252", "gb2312": "gb18030",
            "gbk": "gb18030", "ks_c_5601-1987": "cp949", "x-unknown": "utf-8", "unknown-8bit": "utf-8",
            "utf-7": "utf-8"}.get(name, name)


def unflowed(text: str, part: Mime) -> str:
    """Paragraphs of `format=flowed` text (RFC 3676): a line that ends with a space goes on in the next one."""
    joined: list[str] = []
    delete = str(part.get_param("delsp", "no")).lower() == "yes"
    open_depth = -1
    for line in text.replace("\r\n", "\n").split("\n"):
        depth = len(line) - len(line.lstrip(">"))
        content = line[depth:].removeprefix(" ")
        if open_depth == depth and content != "-- ":
            joined[-1] += content
        else:
            joined.append(f"{'>' * depth} {content}" if depth else content)
        flows = content.endswith(" ") and content != "-- "
        open_depth = depth if flows else -1
        if flows and delete:
            joined[-1] = joined[-1][:-1]
    return "\n".join(joined)


def without_quotes(text: str) -> str:
    """The text without lines that begin with `>`, the line above that says whose they are, and what follows a line
    `-----Original Message-----`."""
    if match := _FORWARD.search(text):
        text = text[: match.start()]
    kept: list[str] = []
    for line in text.split("\n"):
        if line.lstrip(" |").startswith(">"):
            while kept and not kept[-1].strip():
                kept.pop()
            for count in (1, 2):  # the attribution may be folded
                if len(kept) >= count and _WROTE.match("\n".join(kept[-count:]).strip()):
                    del kept[-count:]
                    break
            kept.append("")
        else:
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")


def without_signature(text: str) -> str:
    """The text without what stands below `-- `, below the line of a mailing list, and PGP armour."""
    if "-----BEGIN PGP" in text:
        text = _PGP_FOOT.sub("", _PGP_HEAD.sub("", text))
    if match := _LIST_FOOTER.search(text, max(0, len(text) - 3000)):
        text = text[: match.start()]
    at = max(text.rfind("\n-- \n"), text.rfind("\n--\n"))
    if at >= 0 and text.count("\n", at) <= 25 and "\n>" not in text[at:]:
        text = text[:at]
    elif text.startswith("-- \n") and text.count("\n") <= 25:
        text = ""
    return text.rstrip("\n")


def _author(text: str) -> str:
    """The name of a sender; addresses are personal data and are left out."""
    name = parseaddr(text)[0]
    return name if name and "@" not in name else ""


def _list_name(text: str) -> str:
    match = re.search(r"<([^<>@]{1,200})>", text)
    return match[1].lower() if match else ""


def _ids(text: str) -> list[str]:
    return _MESSAGE_ID.findall(text)
