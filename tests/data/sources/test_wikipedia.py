"""Wikipedia dumps: wikitext against mwparserfromhell, every cut of every kind of dump, and broken ones."""

import bz2
import gzip
import lzma
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.documents import Document, Reject
from gristmill.data.formats import wiki_dump
from gristmill.data.formats.wikitext import plain_text
from gristmill.data.inputs import Input, Range
from gristmill.data.sources.wikipedia import Wikipedia
from tests.shared import comes_to_an_end

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo><sitename>Wikipedia</sitename><dbname>dewiki</dbname>
    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
    <namespaces><namespace key="0" case="first-letter" /><namespace key="6" case="first-letter">Datei</namespace>
    <namespace key="14" case="first-letter">Kategorie</namespace></namespaces></siteinfo>
"""
ARTICLE = """{{Infobox person | name = Ada | born = {{birth date|1815|12|10}} }}
'''Ada Lovelace''' ({{IPA|x}}; {{lang|fr|née}} 1815<ref name="a">A {{cite web|url=http://x}} note</ref>) was an
[[England|English]] [[mathematician]]s, {{convert|5|to|10|km|mi}} from [http://x.org London]<!-- hidden -->.&nbsp;She
wrote <math>a^2 < b</math>.
[[File:Ada.jpg|thumb|A caption with a [[link]]]]
== Life ==
=== Empty ===
{{main|X}}
=== Work ===
* one
** two
{| class="wikitable"
! head
|-
| cell {{x|y}} || b
|}
<syntaxhighlight lang="python">
def f():
    return ''  # [[no link]]
</syntaxhighlight>
== References ==
{{reflist}}
[[Category:People]] [[fr:Ada]]
"""


def page(
    text: str = "Some text.", title: str = "T", number: int = 1, ns: int = 0, extra: str = "", model: str = "wikitext"
) -> str:
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>{extra}\n"
        f"    <revision><id>{number + 100}</id><timestamp>2024-01-0{number % 9 + 1}T00:00:00Z</timestamp>"
        f"<contributor><username>U</username><id>3</id></contributor><model>{model}</model>"
        f"<format>text/x-wiki</format><text>{escape(text)}</text></revision>\n  </page>\n"
    )


def read(data: bytes | str, folder: Path, ending: str = "", **options: Any) -> list[Any]:
    reader, item = source(data, folder, ending, **options)
    return list(reader.read(Range(item), "w"))


def source(data: bytes | str, folder: Path, ending: str = "", **options: Any) -> tuple[Wikipedia, Input]:
    path = folder / f"dump.xml{ending}"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    reader = Wikipedia(path=str(path), **options)
    return reader, reader.inputs()[0]


def dump(*pages: str) -> str:
    return f"{HEAD}{''.join(pages)}</mediawiki>\n"


def reasons(found: list[Any]) -> list[str]:
    return [one.reason if isinstance(one, Reject) else one.metadata["title"] for one in found]


def test_a_page_becomes_a_document_with_provenance(tmp_path):
    (document,) = read(dump(page(ARTICLE, "Ada Lovelace", 7)), tmp_path)
    assert isinstance(document, Document)
    assert (
        document.text
        == """# Ada Lovelace

Ada Lovelace (née 1815) was an
English mathematicians, 5 to 10 km from London. She
wrote $a^2 < b$.

## Life

### Work

- one
  - two

```python
def f():
    return ''  # [[no link]]
```"""
    )
    assert document.language == "de"
    assert document.domain == "dewiki"
    assert document.metadata == {
        "path": "dump.xml",
        "offset": len(HEAD) + 2,
        "license": "CC BY-SA 4.0",
        "title": "Ada Lovelace",
        "page_id": "7",
        "revision_id": "107",
        "time": "2024-01-08T00:00:00Z",
        "url": "https://de.wikipedia.org/wiki/Ada_Lovelace",
    }
    assert document.id == f"w/dump.xml@{len(HEAD) + 2}"


def test_what_is_left_out_is_counted_with_its_reason(tmp_path):
    pages = [
        page(),
        page("x", "Talk:T", ns=1),
        page("#REDIRECT [[T]]", "R", extra='<redirect title="T" />'),
        page("{{disambiguation}}\n* [[A]]", "D"),
        page("A list.", "M (disambiguation)"),
        page("* [[A]] __DISAMBIG__", "G"),
        page("a{}", "T.css", model="css"),
        page("", "E"),
        page("{{only|templates}}", "O"),
        page("[[Datei:x.jpg|thumb|cap]]text[[Kategorie:K]]", "L"),
    ]
    found = read(dump(*pages), tmp_path)
    assert reasons(found) == [
        "T",
        "namespace",
        "redirect",
        *["disambiguation"] * 3,
        "not_wikitext",
        "no_text",
        "no_text",
        "L",
    ]
    assert found[-1].text == "# L\n\ntext", "names of namespaces come from the dump"
    assert found[3].document.metadata["disambiguation"]
    listed = read(dump(*pages), tmp_path, disambiguation=True, namespaces=(1,), headings="plain")
    assert reasons(listed)[1] == "Talk:T"
    assert listed[1].text == "Talk:T\n\nx"


PAGES = st.lists(
    st.sampled_from(
        [
            page("eins <b> & 'zwei'", "A"),
            page("x" * 300, "B", 2),
            page("y", "C", 3, ns=1),
            page("ü" * 50, "D", 4),
            "<page>broken",
            page("z", "E", 5).replace("</title>", ""),
        ]
    ),
    max_size=9,
)
WHOLE = {".gz": gzip.compress, ".xz": lzma.compress}


@settings(max_examples=60, deadline=None)
@given(pages=PAGES, ending=st.sampled_from(["", ".bz2", "pieces.bz2", ".gz", ".xz"]), data=st.data())
def test_any_cut_gives_the_same_documents(tmp_path_factory, pages, ending, data):
    text = dump(*pages).encode()
    if ending == ".bz2":  # as multistream dumps are: streams of whole pages
        packed = b"".join(bz2.compress(one.encode()) for one in [HEAD, *pages, "</mediawiki>"])
    elif ending == "pieces.bz2":  # as parallel packers do it: streams that end anywhere
        packed = b"".join(bz2.compress(text[at : at + 333]) for at in range(0, len(text), 333))
    else:
        packed = WHOLE.get(ending, lambda plain: plain)(text)
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(packed) - 1))
        packed = packed[:at] + b"\xff\xfe\xfd" + packed[at + 3 :] if data.draw(st.booleans()) else packed[:at]
    reader, item = source(packed, tmp_path_factory.mktemp("w"), "." + ending.rpartition(".")[2] if ending else "")
    whole = list(reader.read(Range(item), "w"))
    edges = sorted({0, *data.draw(st.lists(st.integers(0, len(packed)), max_size=4))})
    parts = [Range(item, a, b) for a, b in zip(edges, [*edges[1:], None], strict=True)]
    assert [one for part in parts for one in reader.read(part, "w")] == whole
    ids = [(one.document if isinstance(one, Reject) else one).id for one in whole]
    assert len(set(ids)) == len(ids)


def test_ranges_of_multistream_dumps(tmp_path):
    pages = [page(f"text {n} " * 30, f"P{n}", n) for n in range(60)]
    streams = [HEAD, *("".join(pages[at : at + 5]) for at in range(0, 60, 5)), "</mediawiki>"]
    packed = b"".join(bz2.compress(one.encode()) for one in streams)
    reader, item = source(packed, tmp_path, ".bz2")
    parts = reader.ranges(item, item.size // 6)
    assert len(parts) == 6
    counts = [reasons(list(reader.read(part, "w"))) for part in parts]
    assert [title for part in counts for title in part] == [f"P{n}" for n in range(60)]
    assert sum(map(bool, counts)) > 3
    reader, item = source(bz2.compress(dump(*pages).encode()), tmp_path, ".bz2")
    assert len(reader.ranges(item, 10)) == 1


def test_a_damaged_stream_costs_its_pages_only(tmp_path):
    streams = [
        bz2.compress(one.encode())
        for one in [HEAD, page(title="A"), page("b " * 99, "B"), page(title="C"), "</mediawiki>"]
    ]
    streams[2] = streams[2][:40] + b"\0\0\0" + streams[2][43:]
    assert reasons(read(b"".join(streams), tmp_path, ".bz2")) == ["A", "damaged_stream", "C"]
    cut_off = b"".join(streams[:2]) + bz2.compress(page(title="X").encode())[:-20]
    assert reasons(read(cut_off, tmp_path, ".bz2")) == ["A", "truncated_stream"]
    whole = gzip.compress(dump(page(title="A"), page(title="B")).encode())
    assert reasons(read(whole[:-8], tmp_path, ".gz"))[:2] == ["A", "B"]
    assert reasons(read(whole[:-8], tmp_path, ".gz"))[-1] == "damaged_file"


def test_broken_xml_costs_one_page_and_says_where(tmp_path):
    broken = page("text & more", "B").replace("&amp;", "&")
    found = read(
        dump(page(title="A"), broken, page(title="C"), "<page><title>D</title>", page(title="E"), "<page>end"), tmp_path
    )
    assert reasons(found) == ["A", "broken_xml", "C", "broken_xml", "E", "truncated_page"]
    assert f"byte {len(HEAD) + len(page()) + 2}" in found[1].detail
    mended = read(dump(page("bad \x0b and \x00 characters", "A").replace("bad", "bad &#x1;")), tmp_path)
    assert mended[0].text == "# A\n\nbad � and characters"
    assert mended[0].metadata["mended"]
    wrong = read(dump(page("déjà vu", "A")).encode("latin-1"), tmp_path)
    assert wrong[0].text == "# A\n\nd�j� vu"


def test_document_types_and_entities_are_refused(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>\n' + dump(page("&b;").replace("&amp;", "&"))
    assert reasons(read(bomb, tmp_path)) == ["xml_dtd"]
    inside = dump(
        page().replace("<title>", '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><title>'), page(title="B")
    )
    assert reasons(read(inside, tmp_path)) == ["broken_xml", "B"]
    assert reasons(read("<html></html>", tmp_path)) == ["not_a_dump"]
    assert reasons(read("", tmp_path)) == ["empty_file"]


def test_huge_and_deep_pages_and_bombs(tmp_path, monkeypatch):
    deep = page(title="D").replace("<title>", "<a>" * 100_000 + "</a>" * 100_000 + "<title>")
    long = page("x " * 700_000, "L")
    found = read(dump(page(title="A"), long, deep, page(title="C")), tmp_path, longest_mb=1)
    assert reasons(found) == ["A", "too_long", "D", "C"]
    assert "more than" in found[1].detail
    bomb = bz2.compress((HEAD + page(title="A") + "<page>").encode() + b"a" * (9 << 20))
    monkeypatch.setattr(wiki_dump, "BOMB_BYTES", 4 << 20)
    found = read(bomb + bz2.compress(page(title="B").encode()), tmp_path, ".bz2")
    assert reasons(found) == ["A", "truncated_page", "zip_bomb", "B"]


WORDS = st.text("ab cé.", min_size=1, max_size=8).map(str.strip).filter(bool)
INLINE = st.one_of(
    WORDS,
    WORDS.map("[[{}]]".format),
    st.tuples(WORDS, WORDS).map(lambda p: "[[{}|{}]]".format(*p)),
    WORDS.map("'''{}'''".format),
    WORDS.map("''{}''".format),
    st.just("{{gone|x={{deep}}}}"),
    WORDS.map("<b>{}</b>".format),
    WORDS.map("[http://x.org {}]".format),
    st.just("<ref>gone</ref>"),
    st.just("<!-- gone -->"),
    st.just("&amp;"),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(INLINE, min_size=1, max_size=12))
def test_the_words_are_those_of_mwparserfromhell(parts):
    mw = pytest.importorskip("mwparserfromhell")
    source = " ".join(parts)
    parsed = mw.parse(source)
    for tag in parsed.filter_tags(matches=lambda node: node.tag == "ref"):
        parsed.remove(tag)
    ours, _ = plain_text(source)
    assert "".join(ours.split()) == "".join(parsed.strip_code().split())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "a {{val|5|u=m}} b {{circa|1900}} {{frac|1|2}} {{snd}} {{nihongo|Tokyo|東京|Tōkyō}}",
            "a 5 m b c. 1900 1/2 – Tokyo (東京, Tōkyō)",
        ),
        ("{{convert|3|x|4|m|ft}} {{as of|2020|5}}, {{uss|Maine}}", "3 × 4 m As of May 2020, USS Maine"),
        ("[[:Category:X]] [[a#b]] [[wikt:word|w]] [[x|]]y", "Category:X a w xy"),
        ("{{quote|text=To be|author=W}}", "To be"),
        ("a | b ]] c }} d [e]", "a | b  c  d [e]"),
        ("<nowiki>[[x]] ''y''</nowiki>", "[[x]] ''y''"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("{{a\n== H ==\nx", "## H\n\nx"),
        ("''a'' {| b", "a {| b"),
        ("x\n{|\n| gone\n{|\n| deep\n|}\n|}\ny", "x\n\ny"),
        ("x (, 1900) ({{gone}}) .", "x (1900)."),
        ("== A ==\n== B ==\nb\n=== C ===\n", "## B\n\nb"),
        ("<pre>\n a\n  b\n</pre>", "```\n a\n  b\n```"),
        ("== See also ==\nx\n=== y ===\nz\n== B ==\nb", "## B\n\nb"),
        ("&lt;ref&gt; &amp;amp;", "<ref> &amp;"),
        ("===== deep =====\nx", "##### deep\n\nx"),
        ("= =\nx", "x"),
        ("[[File:a.jpg|[[b]] {{c}}]]d", "d"),
    ],
)
def test_golden_wikitext(source, expected):
    text, _ = plain_text(source, leave_out={"see also"})
    assert " ".join(text.split()) == " ".join(expected.split())
    assert text.count("\n") == expected.count("\n") or "\n\n" in text


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "[[",
                "]]",
                "{{",
                "}}",
                "|",
                "{|",
                "|}",
                "\n",
                "==",
                "=",
                "<ref>",
                "</ref>",
                "<ref/>",
                "<nowiki>",
                "</nowiki>",
                "''",
                "'''",
                "a",
                " ",
                "<!--",
                "-->",
                "[http://x ",
                "]",
                "*",
                "#",
                ":",
                "&amp;",
                "<math>",
                "</math>",
                "<code>",
                "\0",
                "\x01",
                "File:",
                "__TOC__",
            ]
        ),
        max_size=40,
    ).map("".join)
)
def test_no_wikitext_breaks_the_reader(source):
    text, _ = plain_text(source)
    assert "\0" not in text
    assert text == text.strip()


@pytest.mark.parametrize(
    "mark",
    [
        "{{",
        "[[",
        "{|\n",
        "<ref>",
        "<",
        "<a",
        "'",
        "=",
        "= ",
        "(,",
        "( ",
        "[http://",
        "<!--",
        "&amp",
        "\n==",
        "== x ==\n",
        "|",
        "{{{",
        " .",
        "<nowiki>",
        "\n*",
        "[[a|",
        "{{a|",
        "]]",
        "\xa0,",
    ],
)
def test_work_grows_with_length_whatever_is_repeated(mark):
    """Counted in calls; what a regular expression does inside one has to come to its end on a long text."""
    def calls(times: int) -> int:
        counted = 0

        def count(*_: object) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count)
        try:
            plain_text(mark * times + "x" + "]]}}" * times)
        finally:
            sys.setprofile(None)
        return counted

    assert calls(4_000) < 5 * calls(1_000)
    with comes_to_an_end():
        plain_text(mark * 64_000 + "x" + "]]}}" * 64_000)
