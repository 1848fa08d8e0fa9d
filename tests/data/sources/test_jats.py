import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.documents import Document, Reject
from gristmill.data.formats import safe_xml
from gristmill.data.formats.jats_text import mathml
from gristmill.data.formats.safe_xml import parse_xml
from gristmill.data.inputs import Range
from gristmill.data.sources.jats import Jats

ARTICLE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS 1.0//EN" "http://no.such.host.invalid/JATS.dtd" [
<!ENTITY figure1 SYSTEM "f1.gif" NDATA gif>]>
<article article-type="research-article" xml:lang="en" xmlns:xlink="http://www.w3.org/1999/xlink"
 xmlns:mml="http://www.w3.org/1998/Math/MathML" xmlns:ali="http://www.niso.org/schemas/ali/1.0/">
<front><journal-meta><journal-title-group><journal-title>Journal of Mills</journal-title></journal-title-group>
</journal-meta><article-meta>
<article-id pub-id-type="pmid">123</article-id><article-id pub-id-type="pmc">456</article-id>
<article-id pub-id-type="doi">10.1000/mill.1</article-id>
<title-group><article-title>How <italic>flour</italic> is made</article-title></title-group>
<contrib-group><contrib contrib-type="author"><name><surname>Miller</surname><given-names>Ann B.</given-names></name>
</contrib><contrib contrib-type="author"><collab>The Mill Group</collab></contrib>
<contrib contrib-type="editor"><name><surname>Not</surname><given-names>Me</given-names></name></contrib>
</contrib-group><pub-date pub-type="collection"><year>2011</year></pub-date>
<pub-date pub-type="epub"><day>3</day><month>2</month><year>2011</year></pub-date>
<permissions><license license-type="open-access" xlink:href="http://creativecommons.org/licenses/by-nc/3.0/us/">
<license-p>Open.</license-p></license></permissions>
<abstract><title>Summary</title><p>We grind&nbsp;grain.</p></abstract><kwd-group><kwd>flour</kwd></kwd-group>
</article-meta></front>
<body><sec><title>Methods</title><p>As shown before <sup><xref ref-type="bibr" rid="b1">1</xref>,<xref
 ref-type="bibr" rid="b2">2</xref></sup>, and by <xref ref-type="bibr" rid="b3">Smith (2001)</xref>, see <xref
 ref-type="fig" rid="f1">Figure 1</xref>. Water is H<sub>2</sub>O.<list><list-item><p>one<list><list-item><p>inner</p>
</list-item></list></p></list-item><list-item><p>two</p></list-item></list></p>
<sec><title>Speed</title><p>The speed is <inline-formula><mml:math><mml:mi>v</mml:mi><mml:mo>=</mml:mo><mml:mfrac>
<mml:mi>s</mml:mi><mml:mi>t</mml:mi></mml:mfrac></mml:math></inline-formula>.</p>
<disp-formula><label>(1)</label><alternatives><tex-math>\\documentclass{minimal}\\begin{document}$$E = mc^2$$
\\end{document}</tex-math><graphic xlink:href="e1"/></alternatives></disp-formula></sec>
<fig id="f1"><label>Figure 1.</label><caption><title>A mill.</title><p>It turns.</p></caption><graphic/></fig>
<table-wrap><label>Table 1.</label><caption><p>Yields.</p></caption><table><tr><th>a</th><th>b</th></tr><tr><td>1</td>
<td>2</td></tr></table></table-wrap></sec></body>
<back><ack><p>Thanks.</p></ack><ref-list><ref><mixed-citation>Not this.</mixed-citation></ref></ref-list></back>
</article>"""
TEXT = """# How flour is made

## Summary

We grind grain.

## Methods

As shown before [cite], and by Smith (2001), see Figure 1. Water is H_2O.

- one inner
- two

### Speed

The speed is $v = \\frac{s}{t}$.

$$E = mc^2$$

Figure 1. A mill. It turns.

Table 1. Yields.

## Acknowledgements

Thanks."""


def read(path: Path | str, **options: object) -> tuple[list[Document], list[Reject]]:
    source = Jats(path=str(path), **options)  # type: ignore[arg-type]
    items = [item for entry in source.inputs() for part in source.ranges(entry, 1000)
             for item in source.read(part, "jats")]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


def test_an_article(tmp_path: Path) -> None:
    (tmp_path / "a.nxml").write_text(ARTICLE)
    documents, rejects = read(tmp_path)
    assert not rejects
    assert documents[0].text == TEXT
    assert (documents[0].id, documents[0].domain, documents[0].language) == ("jats/a.nxml", "Journal of Mills", "en")
    assert documents[0].metadata == {
        "path": "a.nxml", "title": "How flour is made", "journal": "Journal of Mills",
        "author": "Ann B. Miller; The Mill Group", "pmid": "123", "pmcid": "PMC456", "doi": "10.1000/mill.1",
        "url": "https://doi.org/10.1000/mill.1", "time": "2011-02-03", "license": "CC-BY-NC-3.0",
        "article_type": "research-article", "keywords": ["flour"], "group": "10.1000/mill.1",
    }


def test_parts_tables_and_math_are_options(tmp_path: Path) -> None:
    (tmp_path / "a.nxml").write_text(ARTICLE)
    assert read(tmp_path, parts="abstract")[0][0].text == TEXT.split("\n\n## Methods")[0]
    assert "Summary" not in read(tmp_path, parts="body")[0][0].text
    assert "Table 1. Yields.\n\na\tb\n1\t2" in read(tmp_path, tables="rows")[0][0].text
    without = read(tmp_path, math="drop")[0][0].text
    assert "$" not in without
    assert "The speed is." in without


def test_many_articles_in_a_file_and_in_an_archive(tmp_path: Path) -> None:
    inner = ARTICLE[ARTICLE.index("<article "):]
    (tmp_path / "set.xml").write_text(f"<pmc-articleset>{inner * 3}</pmc-articleset>".replace("&nbsp;", " "))
    with tarfile.open(tmp_path / "bulk.tar.gz", "w:gz") as archive:
        for name, data in (("PMC1/a.xml", ARTICLE.encode()), ("PMC1/readme.txt", b"no"),
                           ("PMC1/b.xml.gz", gzip.compress(ARTICLE.encode())),
                           ("PMC1/bad.xml", b"<article><p>"), ("PMC1/other.xml", b"<html/>")):
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    documents, rejects = read(tmp_path)
    assert [d.id for d in documents] == ["jats/bulk.tar.gz/PMC1/a.xml", "jats/bulk.tar.gz/PMC1/b.xml.gz",
                                         "jats/set.xml", "jats/set.xml@1", "jats/set.xml@2"]
    assert {d.text for d in documents} == {TEXT}
    assert [(r.document.id.split("/")[-1], r.reason) for r in rejects] == [("bad.xml", "broken_xml"),
                                                                          ("other.xml", "no_article")]
    source = Jats(path=str(tmp_path / "set.xml"))
    item = source.inputs()[0]
    parts = (Range(item, 0, 1), Range(item, 1, 2), Range(item, 2, None))
    cut = [document for part in parts for document in source.read(part, "jats")]
    assert cut == documents[2:]


BOMB = ('<!DOCTYPE a [<!ENTITY x "ha">' + "".join(f'<!ENTITY x{n} "&x{n - 1 if n else ""};&x{n - 1 if n else ""};">'
                                                  for n in range(40)) + "]><article>&x39;</article>")


@pytest.mark.parametrize(("data", "reason"), [
    (BOMB, "entity_declaration"),
    ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><article><body><p>&x;</p></body></article>', "no_text"),
    ('<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd">%p;]><article><body><p>a</p></body></article>', ""),
    ("<article>" * 100_000, "too_deep"),
    ("", "broken_xml"),
    ("<article><body/></article>", "no_text"),
    ("<article><body><p>one</body></article>", "broken_xml"),
    (b"\xff\xfe<\0a\0".decode("latin-1"), "broken_xml"),
    ("<article><body><p>" + "x" * 3_000_000 + "</p></body></article>", "too_large"),
])
def test_hostile_and_broken_xml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, reason: str) -> None:
    monkeypatch.setattr(safe_xml, "LARGEST_ELEMENT", 2_000_000)
    (tmp_path / "a.xml").write_bytes(data.encode("latin-1"))
    documents, rejects = read(tmp_path)
    assert [r.reason for r in rejects] == ([reason] if reason else [])
    assert all("root:" not in d.text for d in documents)


def test_what_comes_before_the_damage_is_kept(tmp_path: Path) -> None:
    good = "<article><body><p>one</p></body></article>"
    (tmp_path / "a.xml").write_text(f"<set>{good * 3}<article><body><p>cut")
    data = gzip.compress(f"<set>{good * 50_000}</set>".encode())
    (tmp_path / "b.xml.gz").write_bytes(data[: len(data) // 2])
    documents, rejects = read(tmp_path)
    assert sum(d.metadata["path"] == "a.xml" for d in documents) == 3
    assert sum(d.metadata["path"] == "b.xml.gz" for d in documents) > 100
    assert [r.reason for r in rejects] == ["broken_xml", "unreadable_file"]


def test_a_real_zip_name_collision_keeps_both(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for folder in ("x", "y"):
            archive.writestr(f"{folder}/same.xml", ARTICLE)
    assert [d.metadata["group"] for d in read(tmp_path)[0]] == ["10.1000/mill.1"] * 2


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"],
                              exclude_characters="[]#&<>"), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=5)), min_size=1, max_size=4))
def test_generated_articles_round_trip(tmp_path_factory: pytest.TempPathFactory,
                                       sections: list[tuple[str, list[str]]]) -> None:
    body = "".join(f"<sec><title>{head}</title>" + "".join(f"<p>{word}</p>" for word in words) + "</sec>"
                   for head, words in sections)
    path = tmp_path_factory.mktemp("jats") / "a.xml"
    path.write_bytes(f"<article><body>{body}</body></article>".encode())
    expected = "\n\n".join(block for head, words in sections for block in (f"## {head}", *words))
    assert read(path)[0][0].text == expected


def test_mathml() -> None:
    square = "<msup><mi>x</mi><mn>2</mn></msup>"
    source = f"<math><msqrt>{square}<mo>+</mo><msub><mi>y</mi><mn>10</mn></msub></msqrt></math>"
    assert mathml(parse_xml(source.encode())) == r"\sqrt{x^2 + y_{10}}"
