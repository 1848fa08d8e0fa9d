"""Documents for the tests of signals: hand-made ones that meet every rule, and real ones where the data is there."""

import gzip
import json
import tarfile

import pytest

from tests.shared import DATA

PROSE = (
    "The old mill stood by the river, and nobody had worked in it for years. People said that the wheel still turned "
    "on windy nights! Do you believe them? Mr. Brown, who can't sleep well, says he'll have seen it. \"It was a very "
    "strange thing to look at,\" he told us. We went with him to the place one evening, but nothing happened at all."
)

MADE = [
    "", " \n\t\n", "word", "One line without an end", "\n\n\n",
    PROSE, PROSE + "\n", f"{PROSE}\n\n{PROSE.upper()}\n\nA third paragraph with its own words ends here.",
    "\n".join(f"- point number {i} of the list" for i in range(40)),
    "\n".join(f"• item {i} and more...  " for i in range(30)) + "\n" + PROSE,
    PROSE + " #tag" * 40, PROSE.replace(",", " ...") * 2,
    "\n".join([PROSE, "Read more", "Read more", "Read more", "Share this", "Share this"]),
    (f"{PROSE}\nYou need to enable JavaScript to read this page.\nWe use cookies on this site to serve you.\n"
     "Too short.\nThis line has no end\nA citation follows [1] here [citation needed].  [2]\nSo it ends."),
    f"{PROSE}\nLorem ipsum dolor sit amet, as they say everywhere.\nfunction f() {{ return 1; }} is code.",
    f"{PROSE}\nThe code if (x) {{ y }} stands in this line.\nLorem ipsum dolor sit amet.",
    f"{PROSE}\nLorem ipsum without an end", "x" * 1200 + " and the long word ends here.\n" + PROSE,
    "The cat sat on the mat and " * 30, "a b c d e f g h i j " * 12, "go go go go go go go go go go go go",
    "The same five words again. " * 3 + PROSE + " The same five words again.",
    "1 2 3 4 5 6 7 8 9 10 " * 8, "...\n…\nwait...\nthe end…\n" * 5,
    "\n\n".join([PROSE, "A paragraph that is here twice, with enough words to count."] * 2),
    "The river was wide.\x85It ran to the sea.\u2028Ships came with it. That is all of it.\x0bOr is it? Yes! No.",
    "Cafe\u0301 et Thé: «Ça va?» 😀 👩‍👩‍👧 e\u0301t\u0301e\u0301. " * 6,
    "这是一个没有空格的句子。它有两句话。\n" * 6, "สวัสดีชาวโลก ยินดีต้อนรับ\n" * 4, "عربي نص قصير؟ نعم. لا!\n" * 6,
    "\n".join("word " * 3 for _ in range(30)), "\n".join(f"{PROSE[i:i + 60]}" for i in range(0, 300, 20)),
    "He said.  \"Hello.\"  [1]\nIt ended.\" [2] [3]\nWell... \"no!\" he cried?! (Really.) Yes.\n" * 2 + PROSE,
    "U.S. troops, e.g. the 3rd, weren't there at 5p.m. :) they'd've gone; I'm sure (it's $5.00/kg)... " * 3,
    "\n".join(f"Antidisestablishmentarianism{chr(97 + i)} electroencephalographs." for i in range(26)) + "\n",
    "short\nlines\nof one\nword or two\nand the end\n" * 8 + PROSE,
]


def real_documents(count: int) -> list[str]:
    """`count` pieces of about 3 kB from 60 novels, and up to as many web pages; skips without the data."""
    novels, pages = DATA / "text" / "novels_60.tar.xz", DATA / "text" / "c4_demo_300.jsonl.gz"
    if not novels.exists() or not pages.exists():
        pytest.skip(f"the shared test data is not at {DATA} (set GRISTMILL_TEST_DATA)")
    found = []
    with tarfile.open(novels) as archive:
        for member in archive:
            if member.isfile() and len(found) < count:
                file = archive.extractfile(member)
                assert file is not None
                text = file.read(200_000).decode("utf-8-sig", "ignore").replace("\r\n", "\n")
                parts = pieces(text)[2:-1]
                wanted = -(-count // 60)
                found += parts[:: max(len(parts) // wanted, 1)][:wanted]
    with gzip.open(pages, "rt", encoding="utf-8", newline="\n") as lines:
        web = [json.loads(line)["text"] for line in lines]
    return found[:count] + web[:count]


def pieces(text: str, size: int = 2400) -> list[str]:
    """A long text cut at the first blank line after every `size` characters."""
    found, start = [], 0
    while start < len(text):
        end = text.find("\n\n", start + size)
        end = len(text) if end < 0 else end
        found.append(text[start:end].strip("\n") + "\n")
        start = end + 2
    return found
