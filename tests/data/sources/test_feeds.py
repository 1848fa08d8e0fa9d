"""Feeds and sitemaps: golden ones of every kind, xml.etree as oracle, broken, hostile and wrongly encoded ones."""

import gzip
import json
import tracemalloc
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.documents import Document, Reject
from gristmill.data.formats import feed_formats
from gristmill.data.formats.xml_characters import allowed, mended
from gristmill.data.inputs import Input, Range
from gristmill.data.sources.feeds import Feeds

RSS = """<?xml version="1.0" encoding="utf-8"?>
<rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:media="http://search.yahoo.com/mrss/"><channel><title>News &nbsp; of</title><link>http://n.org</link>
<language>en-us</language><copyright>CC0</copyright>
<item><title>AT&T &amp; <![CDATA[<b>co</b>]]></title><link>http://www.x.org/a</link><guid>no. 7</guid>
<pubDate>Sat, 07 Sep 2002 00:00:01 GMT</pubDate><dc:creator>Ann</dc:creator><category>c1</category>
<category>c2</category>
<media:title>other</media:title><description>short</description>
<content:encoded><![CDATA[<p>Long &eacute; text</p><p>two</p>]]></content:encoded></item>
<item><title>nothing</title><guid>http://x.org/b</guid></item>
<item><title>sum</title><description>only &lt;i&gt;a&lt;/i&gt; summary</description>
<image><title>bad</title></image></item>
</channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="de"><title>A</title><author><name>Feed</name></author>
<entry><title type="html">T&amp;amp;U</title><link rel="self" href="http://no"/><link href="http://y.org/1"/><id>urn:1</id>
<updated>2020-01-02T03:04:05+02:00</updated><published>2019-01-01T00:00:00Z</published>
<author><name>Bob</name><email>b@x</email></author><category term="k"/>
<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>Hi &amp; <b>you</b></p>
<p>two</p></div></content></entry>
<entry><title>text</title><updated>2020</updated><content type="text">a &lt; b</content>
<source><title>S</title><id>q</id></source></entry></feed>"""
RDF = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><channel rdf:about="http://r.org"><title>R</title></channel>
<item rdf:about="http://r.org/1"><title>one</title><link>http://r.org/1</link><description>text</description>
<dc:date>2003-01-01</dc:date></item></rdf:RDF>"""
SITEMAP = """<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"
 xmlns:news="http://www.google.com/schemas/sitemap-news/0.9">
<url><loc>http://z.org/1</loc><lastmod>2021-05</lastmod><news:news><news:publication><news:name>Ex</news:name>
<news:language>en</news:language></news:publication><news:publication_date>2022-01-01</news:publication_date>
<news:title>Title</news:title><news:keywords>a, b</news:keywords></news:news></url>
<url><loc>http://z.org/2</loc></url></urlset>"""
INDEX = "<sitemapindex><sitemap><loc>http://z.org/b.xml</loc><lastmod>2021-01-01</lastmod></sitemap></sitemapindex>"
JSON = {
    "version": "https://jsonfeed.org/version/1.1",
    "title": "J",
    "language": "fr",
    "items": [
        {
            "id": "1",
            "url": "http://j.org/1",
            "title": "t",
            "content_html": "<p>x</p>",
            "date_published": "2020-01-01T00:00:00Z",
            "authors": [{"name": "A"}],
            "tags": ["t"],
        },
        {"id": 2, "content_text": "a<b"},
        5,
        {"id": 3, "summary": "s"},
    ],
}


def source(data: str | bytes, folder: Path, name: str = "a.xml", **options: Any) -> tuple[Feeds, Input]:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    reader = Feeds(path=str(folder / name), **options)
    return reader, reader.inputs()[0]


def read(data: str | bytes, folder: Path, name: str = "a.xml", **options: Any) -> list[Any]:
    reader, item = source(data, folder, name, **options)
    return list(reader.read(Range(item), "f"))


def texts(found: list[Any]) -> list[str]:
    return [one.reason if isinstance(one, Reject) else one.text for one in found]


def item(title: str = "t", text: str = "text") -> str:
    return f"<item><title>{title}</title><description>{text}</description></item>"


def rss(*items: str) -> str:
    return f"<rss><channel>{''.join(items)}</channel></rss>"


def test_rss(tmp_path):
    found = read(RSS, tmp_path)
    assert texts(found) == ["# AT&T & co\n\nLong é text\n\ntwo", "no_content", "# sum\n\nonly a summary"]
    first = found[0]
    assert first.language == "en"
    assert first.domain == "x.org"
    assert first.metadata | {"offset": 0} == {
        "path": "a.xml",
        "offset": 0,
        "license": "CC0",
        "url": "http://www.x.org/a",
        "title": "AT&T & co",
        "feed": "News of",
        "time": "2002-09-07T00:00:01Z",
        "author": "Ann",
        "categories": ["c1", "c2"],
        "entry_id": "no. 7",
    }
    assert found[1].document.metadata["url"] == "http://x.org/b"
    assert "neither content nor summary" in found[1].detail
    assert found[2].metadata["content"] == "summary"
    assert texts(read(RSS, tmp_path, summaries=False, titles=False)) == [
        "Long é text\n\ntwo",
        "no_content",
        "no_content",
    ]


def test_atom_rdf_and_prefixes(tmp_path):
    first, second = read(ATOM, tmp_path)
    assert first.text == "# T&U\n\nHi & you\n\ntwo"
    assert second.text == "# text\n\na < b"
    assert first.metadata["url"] == "http://y.org/1"
    assert first.metadata["time"] == "2019-01-01T00:00:00Z"
    assert first.metadata["author"] == "Bob"
    assert first.language == "de"
    assert second.metadata["title"] == "text"
    prefixed = ATOM.replace("<feed xmlns=", "<a:feed xmlns:a=").replace("</feed", "</a:feed")
    for name in ("entry", "title", "link", "id", "content"):
        prefixed = prefixed.replace(f"<{name}", f"<a:{name}").replace(f"</{name}", f"</a:{name}")
    assert texts(read(prefixed, tmp_path)) == [first.text, second.text]
    (one,) = read(RDF, tmp_path)
    assert one.text == "# one\n\ntext"
    assert one.metadata["url"] == "http://r.org/1"
    assert one.metadata["time"] == "2003-01-01T00:00:00Z"


def test_sitemaps_name_pages_that_have_to_be_crawled(tmp_path):
    found = read(SITEMAP, tmp_path, "a.xml")
    assert texts(found) == ["no_content", "no_content"]
    assert "crawl" in found[0].detail
    about = found[0].document.metadata
    assert {key: about[key] for key in ("url", "time", "title", "feed", "categories")} == {
        "url": "http://z.org/1",
        "time": "2022-01-01T00:00:00Z",
        "title": "Title",
        "feed": "Ex",
        "categories": ["a", "b"],
    }
    (index,) = read(INDEX, tmp_path)
    assert "sitemap index" in index.detail
    assert index.document.metadata["url"] == "http://z.org/b.xml"


def test_json_feeds(tmp_path):
    found = read(json.dumps(JSON), tmp_path, "a.json")
    assert texts(found) == ["# t\n\nx", "a<b", "broken_record", "s"]
    assert found[0].language == "fr"
    assert found[0].metadata["author"] == "A"
    assert texts(read("{" * 1000, tmp_path, "a.json")) == ["broken_json"]
    assert texts(read('{"a":' + "[" * 100_000, tmp_path, "a.json")) == ["broken_json"]
    assert texts(read('{"items": 3}', tmp_path, "a.json")) == ["not_a_feed"]


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff\x85"), max_size=20
)


@settings(max_examples=60, deadline=None)
@given(items=st.lists(st.tuples(TEXT, TEXT), max_size=6), data=st.data())
def test_any_cut_gives_the_entries_that_an_xml_parser_finds(tmp_path_factory, items, data):
    text = rss(*(f"<item><guid>{escape(a)}</guid><description>{escape(b)}</description></item>" for a, b in items))
    reader, input_ = source(text, tmp_path_factory.mktemp("f"))
    whole = list(reader.read(Range(input_), "f"))
    about = [(one.document if isinstance(one, Reject) else one) for one in whole]
    theirs = [(node.findtext("guid") or "").strip() for node in ElementTree.fromstring(text).iter("item")]
    assert [one.metadata.get("entry_id", "") for one in about] == theirs
    edges = sorted({0, *data.draw(st.lists(st.integers(0, input_.size), max_size=3))})
    parts = [Range(input_, a, b) for a, b in zip(edges, [*edges[1:], None], strict=True)]
    assert [one for part in parts for one in reader.read(part, "f")] == whole


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("<item><title>x</titl></item>", "broken_xml"),
        ("<item>", "broken_xml"),
        ("<a>" * 100_000, "too_deep"),
        ("<item><description>cut off", "broken_xml"),
        ("\0<<<", "broken_xml"),
    ],
)
def test_what_came_before_broken_xml_is_kept(tmp_path, broken, reason):
    found = read(f"<rss><channel>{item('a')}{item('b')}{broken}", tmp_path)
    assert texts(found) == ["# a\n\ntext", "# b\n\ntext", reason]
    assert "byte" in found[-1].detail
    assert "after the entry at" in found[-1].detail
    assert len({(one.document if isinstance(one, Reject) else one).id for one in found}) == 3


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "http://127.0.0.1/x">]>',
        '<!DOCTYPE x PUBLIC "a" "http://127.0.0.1/b">',
    ],
)
def test_document_types_are_refused(tmp_path, declaration):
    (found,) = read(f"{declaration}{rss(item('&b;'))}", tmp_path)
    assert found.reason == "xml_dtd"


def test_small_faults_are_mended(tmp_path):
    found = read(rss(item("a & b &unknown; &hearts; &LT;i", "x &#0; \x0b y &#x1F; &copy;")), tmp_path)
    assert texts(found) == ["# a & b &unknown; ♥ <i\n\nx � y � ©"]
    assert all(allowed(ord(c)) for c in mended(bytes(range(256))).decode())


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("utf-8", "utf-8"),
        ("iso-8859-1", "latin-1"),
        ("utf-8", "cp1252"),
        ("", "cp1252"),
        ("nonsense", "utf-8"),
        ("utf-16", "utf-16"),
        ("", "utf-8-sig"),
        ("windows-1251", "cp1251"),
    ],
)
def test_right_and_wrong_encodings(tmp_path, declared, encoding):
    text = "Привет, мир" if encoding == "cp1251" else "Die Größe der Bäume über dem Fluss"
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    found = read((head + rss(item("t", text))).encode(encoding), tmp_path)
    assert texts(found) == [f"# t\n\n{text}"]


def test_other_files_are_said(tmp_path):
    assert texts(read("", tmp_path)) == ["empty_file"]
    assert texts(read("<html><body/></html>", tmp_path)) == ["not_a_feed"]
    assert texts(read(bytes(range(256)) * 9, tmp_path)) == ["unreadable_bytes"]
    packed = gzip.compress(rss(item("a")).encode())
    assert texts(read(packed, tmp_path, "a.xml.gz")) == ["# a\n\ntext"]
    assert texts(read(packed[:-12], tmp_path, "a.xml.gz"))[-1] == "unreadable_file"
    reader, input_ = source(RSS, tmp_path)
    Path(input_.path).unlink()
    assert texts(list(reader.read(Range(input_), "f"))) == ["unreadable_file"]


def test_huge_texts_tags_and_bombs_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_formats, "LONGEST_TEXT", 1 << 18)
    monkeypatch.setattr(feed_formats, "LONGEST_TOKEN", 1 << 20)
    huge = rss(item("a"), item("b", "x" * (20 << 20)), item("c")).encode()
    tag = (rss(item("a"))[:-16] + "<x y='" + "z" * (20 << 20)).encode()
    tracemalloc.start()
    assert texts(read(gzip.compress(huge, 1), tmp_path, "a.xml.gz")) == ["# a\n\ntext", "too_long", "# c\n\ntext"]
    del huge
    assert texts(read(tag, tmp_path)) == ["# a\n\ntext", "too_long"]
    tracemalloc.stop()
    reader, input_ = source(
        gzip.compress(rss(item("a"), item("b", "x" * (70 << 20))).encode(), 9), tmp_path, "b.xml.gz"
    )
    assert texts(list(reader.read(Range(input_), "f"))) == ["# a\n\ntext", "zip_bomb"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "<rss>",
                "<channel>",
                "<item>",
                "</item>",
                "<title>",
                "</title>",
                "text",
                "<content type='xhtml'>",
                "</content>",
                "<div>",
                "</div>",
                "<feed>",
                "<entry>",
                "</entry>",
                "&amp;",
                "&",
                "<![CDATA[",
                "]]>",
                "<!--",
                "-->",
                "<link href='x'/>",
                "</rss>",
                "<?pi?>",
            ]
        ),
        max_size=30,
    )
)
def test_no_xml_breaks_the_reader(tmp_path_factory, parts):
    for one in read("<feed>" + "".join(parts), tmp_path_factory.mktemp("f")):
        assert isinstance(one, Document) or one.reason in ("broken_xml", "no_content", "not_a_feed", "empty_file"), one
