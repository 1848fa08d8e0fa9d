import gzip
import itertools
import mailbox
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats.mail_text import parse_message, unflowed, without_quotes, without_signature
from gristmill.data.inputs import Range
from gristmill.data.sources import mail
from gristmill.data.sources.mail import Mail
from tests.shared import comes_to_an_end


def read(path: Path | str, size: int = 1 << 20, **options: object) -> tuple[list[Document], list[Reject]]:
    source = Mail(path=str(path), **options)  # type: ignore[arg-type]
    items = [item for entry in source.inputs() for part in source.ranges(entry, size)
             for item in source.read(part, "mail")]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


def letter(text: str, **headers: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Jöhn Doe <john@example.org>"
    message["Date"] = "Mon, 01 Jan 2001 12:00:00 +0100"
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(text)
    return message


FIRST = """From john@example.org Mon Jan  1 12:00:00 2001
From: =?iso-8859-1?q?J=F6hn?= Doe <john@example.org>
To: mill@example.org
Subject: Re: =?utf-8?b?TcO8aGxl?=
 wheel
Date: Mon, 01 Jan 2001 12:00:00 +0100
Message-ID: <b@example.org>
References: <a@example.org> <x@example.org>
In-Reply-To: <x@example.org>
List-Id: Mill talk <mill.example.org>

On Sun, Dec 31, 2000, Ann wrote:
> Does it turn?
> Really?

It turns.
>From here on it is fast.

--\x20
John
"""
SECOND = """From ann at example.org  Mon Jan  1 13:00:00 2001
From: ann@example.org
Subject: none

From what I know, it does.

From here: there.
Next line.
"""


def test_an_mbox(tmp_path: Path) -> None:
    (tmp_path / "a.mbox").write_text(f"{FIRST}\n{SECOND}")
    documents, rejects = read(tmp_path)
    assert not rejects
    assert [d.text for d in documents] == ["It turns.\nFrom here on it is fast.",
                                           "From what I know, it does.\n\nFrom here: there.\nNext line."]
    assert documents[0].id == "mail/a.mbox@0"
    assert documents[0].domain == "mill.example.org"
    assert documents[0].metadata == {
        "path": "a.mbox", "offset": 0, "license": "unknown", "title": "Re: Mühle wheel", "author": "Jöhn Doe",
        "time": "2001-01-01T11:00:00Z", "message_id": "b@example.org", "group": "a@example.org",
        "list": "mill.example.org",
    }
    assert documents[1].metadata["offset"] == len(FIRST) + 1
    kept = read(tmp_path, drop_quotes=False, drop_signatures=False)[0][0].text
    assert kept.startswith("On Sun, Dec 31")
    assert kept.endswith("-- \nJohn")


LINES = st.lists(st.sampled_from(["", "From x Mon Jan  1 12:00:00 2001", "From me to you", "Subject: a", "text",
                                  ">From y", "\r", "From: b", "x" * 50]), max_size=25)


@settings(max_examples=40, deadline=None)
@given(LINES, st.integers(1, 80))
def test_any_cut_gives_the_same_messages(tmp_path_factory: pytest.TempPathFactory, body: list[str], size: int) -> None:
    path = tmp_path_factory.mktemp("mail") / "a.mbox"
    path.write_text("From a Mon Jan  1 12:00:00 2001\nSubject: s\n\n" + "\n".join(body))
    source = Mail(path=str(path))
    item = source.inputs()[0]
    whole = list(source.read(Range(item), "mail"))
    edges = [*range(0, item.size, size), None]
    parts = [Range(item, start or 0, stop) for start, stop in itertools.pairwise(edges)]
    assert [d for part in parts for d in source.read(part, "mail")] == whole


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab\n>F rom"), max_size=60), min_size=1, max_size=5))
def test_what_the_standard_library_writes_is_read(tmp_path_factory: pytest.TempPathFactory, bodies: list[str]) -> None:
    path = tmp_path_factory.mktemp("mail") / "a.mbox"
    box = mailbox.mbox(path)
    for body in bodies:
        box.add(letter(f"{body}."))
    box.close()
    documents, rejects = read(path, drop_quotes=False, drop_signatures=False)
    assert not rejects
    plain = [body.replace("\n>From ", "\nFrom ") for body in bodies]
    assert [d.text for d in documents] == [
        f"{body.removeprefix('>') if body.startswith('>From ') else body}.".strip("\n") for body in plain]


def test_eml_files_maildirs_and_compressed_boxes(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "123.M5P6.host:2,S").write_bytes(bytes(letter("In a Maildir.")))
    (tmp_path / "one.eml").write_bytes(bytes(letter("Alone.")))
    (tmp_path / "notes.txt").write_text("no mail")
    (tmp_path / "b.mbox.gz").write_bytes(gzip.compress(f"{FIRST}\n{SECOND}".encode()))
    documents, rejects = read(tmp_path)
    assert not rejects
    assert [d.id for d in documents] == ["mail/b.mbox.gz@0", f"mail/b.mbox.gz@{len(FIRST) + 1}",
                                         "mail/new/123.M5P6.host:2,S", "mail/one.eml"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.txt").write_text("a")
    (tmp_path / "sub" / "y.txt").write_text("b")
    with pytest.raises(UserError, match="no mail here"):
        read(tmp_path / "sub")


def test_parts_attachments_and_charsets() -> None:
    message = letter("The plain one.", Subject="x")
    message.add_alternative("<p>The <b>marked</b> one.</p>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="a.pdf")
    message.add_attachment("notes", filename="a.txt")
    parsed = parse_message(bytes(message))
    assert (parsed.text.strip(), parsed.attachments) == ("The plain one.", 2)
    only = EmailMessage()
    only["From"] = "a@b.c"
    only.set_content("<html><body><p>One &amp;</p><p>two.</p></body></html>", subtype="html")
    assert parse_message(bytes(only)).text == "One &\n\ntwo."
    wrong = b"From: a\nContent-Type: text/plain; charset=%s\n\nGr\xfc\xdfe aus dem B\xe4rental, sch\xf6n hier."
    for charset in (b"utf-8", b"no-such", b"us-ascii", b"iso-8859-1", b'"'):
        assert parse_message(wrong % charset).text == "Grüße aus dem Bärental, schön hier."


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "no_header"), (b"just text\nmore", "no_header"), (b"\x00\x01\xff" * 50, "no_header"),
    (b"Subject: x\n\n", "no_text"),
    (b"Subject: x\nContent-Type: text/plain\n\n> only quoted\n", "no_text"),
    (b"Subject: x\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0K\n", "no_text"),
    (b"Subject: x\n\n\x00\x01\x02\x00 binary \xff", "unreadable_bytes"),
    (b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\nContent-Type: text/plain\n\n\n" * 2000,
     "too_many_parts"),
])
def test_broken_mail_is_told(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.eml").write_bytes(data)
    documents, rejects = read(tmp_path / "a.eml")
    assert not documents
    assert [r.reason for r in rejects] == [reason]


def test_parts_nested_without_end_and_long_headers_come_to_an_end(tmp_path: Path) -> None:
    nested = "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(2_000))
    (tmp_path / "nested.eml").write_text(f"From: a\n{nested}\nend")
    (tmp_path / "type.eml").write_text(f"From: a\nContent-Type: text/plain; {'a=b; ' * 20_000}\n\nhello")
    (tmp_path / "to.eml").write_text(f"From: {'a@b.c, ' * 20_000}\nReferences: {'<x@y> ' * 20_000}\n\nhello")
    with comes_to_an_end(100):
        documents, rejects = read(tmp_path)
    assert len(documents) + len(rejects) == 3


def test_a_message_beyond_the_limit_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "LARGEST_MESSAGE", 10_000)
    big = FIRST.replace("It turns.", "x" * 20_000)
    (tmp_path / "a.mbox").write_text(f"{big}\n{SECOND}\n{FIRST}")
    documents, rejects = read(tmp_path)
    assert len(documents) == 2
    assert [(r.document.metadata["offset"], r.reason) for r in rejects] == [(0, "too_large")]


def test_boxes_without_messages_and_cut_ones(tmp_path: Path) -> None:
    (tmp_path / "empty.mbox").write_bytes(b"")
    (tmp_path / "text.mbox").write_text("nothing of the kind\n")
    data = gzip.compress("\n".join([FIRST, SECOND] * 500).encode())
    (tmp_path / "z.mbox.gz").write_bytes(data[: len(data) // 2])
    documents, rejects = read(tmp_path)
    assert len(documents) > 10
    assert [r.reason for r in rejects] == ["no_messages", "no_messages", "unreadable_file"]


def test_quotes_and_signatures() -> None:
    assert without_quotes("Hi.\n\nOn Monday,\nAnn Miller <a@b.c> wrote:\n\n> a\n> b\n\nYes.") == "Hi.\n\nYes."
    assert without_quotes("Yes.\n\n-----Original Message-----\nFrom: x\n\nold") == "Yes."
    assert without_quotes("a > b\nShe wrote: no\nx") == "a > b\nShe wrote: no\nx"
    assert without_signature("Text.\n\n-- \nJohn\nMill Ltd.") == "Text."
    assert without_signature("Text.\n_____________________________\nmill mailing list\nmill@b.c") == "Text."
    signed = ("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA1\n\nText.\n-----BEGIN PGP SIGNATURE-----\nabc\n"
              "-----END PGP SIGNATURE-----\n")
    assert without_signature(signed) == "Text."


def test_flowed_text_is_joined() -> None:
    part = EmailMessage()
    part["Content-Type"] = "text/plain; format=flowed"
    assert unflowed("A long \nline. \n> quoted \n> on\n-- \nme", part) == "A long line. \n> quoted on\n-- \nme"
