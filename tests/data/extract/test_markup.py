"""Segmentation: what belongs together, what is dropped, and that time grows with the length of the page."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gristmill.data.extract import main_text
from gristmill.data.extract.markup import segment
from gristmill.data.extract.tags import CONTAINERS, KINDS, RAW_TEXT, TAG_FLAGS, WORD_FLAGS
from tests.data.extract.reference import blocks
from tests.shared import comes_to_an_end


def texts(html: str) -> list[str]:
    return segment(html).texts


@pytest.mark.parametrize(("html", "expected"), [
    ("", []),
    ("plain", ["plain"]),
    ("a < b and c <3", ["a < b and c <3"]),
    ("<p>one<p>two", ["one", "two"]),
    ("<p>one <b>bold</b>\n  word</p>", ["one bold word"]),
    ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>", ["a", "b", "c", "d"]),
    ("<table><tr><td>1<td>2<tr><td>3</table>after", ["1", "2", "3", "after"]),
    ("<div><table><tr><td>in</div>still</td></tr></table>out</div>", ["in", "still", "out"]),
    ("one<br>two<br><br>three", ["one\ntwo", "three"]),
    ("one<br> <br>two", ["one", "two"]),
    ("&lt;b&gt; &amp;amp; &eacute;&#8364;&nbsp;x", ["<b> &amp; é€ x"]),
    ("<pre>\n  a\n    b &lt;<b>c</b>\n</pre>", ["  a\n    b <c"]),
    ("<pre>a<br>b<div>c</div></pre>d", ["a\nb\nc", "d"]),
    ("<div><pre>open</div>after", ["open", "after"]),
    ('<a title="a > b" href=x>link</a>', ["link"]),
    ('<p data-x="<p>inside</p>">text</p>', ["text"]),
    ("<p title='it''s'>a</p>", ["a"]),
    ('<p title="open>lost</p><p class="x">kept</p>', ["kept"]),
    ('<p>one</p><p title="never closed>two</p><p>three</p>', ["one", "two", "three"]),
    ("<!-- a > b <p>no</p> -->yes<!-->also<!--->more", ["yesalsomore"]),
    ("<!-- never closed <p>no</p>", []),
    ("<!doctype html><?xml version='1.0'?>x<![CDATA[y]]>", ["x"]),
    ("<script>if (a<b) '<p>no</p>'</SCRIPT >yes", ["yes"]),
    ("<script>never closed <p>no", []),
    ("<style>p{}</style><title>t</title><textarea><p>no</textarea>yes", ["yes"]),
    ("<noscript><p>no</p></noscript><noframes><b>no</b></noframes><iframe>no</iframe>yes", ["yes"]),
    ("<template><p>no</p></template><svg><text>no</text></svg><select><option>no</select>yes", ["yes"]),
    ("<p hidden>no</p><p aria-hidden='true'>no</p><p style='color:red; display : none'>no</p><p>yes</p>", ["yes"]),
    ("a<span hidden>n<span>o</span>n</span>b", ["ab"]),
    ("a<a href=x hidden>no</a>b<a aria-hidden=true>no</a>", ["ab"]),
    ("<div hidden><div>no</div>no</div>yes", ["yes"]),
    ("<p class='hidden-xs' data-hidden='1'>yes</p><p style='display:block'>yes</p><p aria-hidden=false>yes</p>",
     ["yes", "yes", "yes"]),
    ("<body style='display:none'><main hidden>yes</main></body>", ["yes"]),
    ("</p></div></li></td>text</ul>", ["text"]),
    ("<div", []), ("</", []), ("<", ["<"]), ("<>", ["<>"]), ("</>x", ["x"]), ("<p", []), ("x</p", ["x"]),
    ("<DIV>A</DIV><P>B", ["A", "B"]),
    ("北京<p>الرياض</p>Москва", ["北京", "الرياض", "Москва"]),
])
def test_blocks(html: str, expected: list[str]) -> None:
    assert texts(html) == expected
    assert [block.text for block in blocks(html)] == expected


def test_links_kinds_and_elements() -> None:
    page = segment('<nav class="main-menu"><a href=/>Home</a></nav><h2>Title</h2>'
                   '<div id="comments"><p>Text with <a href="x">a link</a>, and <a name=y>none</a></p></div>')
    assert page.texts == ["Home", "Title", "Text with a link, and none"]
    assert [KINDS[kind] for kind in page.kinds] == ["other", "h2", "p"]
    assert (page.linked, page.links) == ([4, 0, 6], [1, 0, 1])
    assert [page.names[number] for number in page.element] == ["nav", "h2", "p"]
    menu, _, paragraph = page.element
    assert page.own[menu] & TAG_FLAGS["nav"]
    assert page.own[menu] & WORD_FLAGS["navigation"]
    assert not page.own[paragraph]
    assert page.flags[paragraph] & WORD_FLAGS["comment"]
    assert page.names[page.parent[paragraph]] == "div"
    assert (page.first[0], page.last[0]) == (0, 3)
    assert (page.first[paragraph], page.last[paragraph]) == (2, 3)


def test_an_unclosed_link_ends_with_its_element() -> None:
    page = segment("<ul><li><a href=x>one<li>two</ul>")
    assert page.linked == [3, 0]


names = st.sampled_from([*sorted(CONTAINERS), "a", "b", "span", "br", "hr", "img", "script", "svg", "code", "x-y"])
attributes = st.sampled_from(["", ' class="nav"', " hidden", ' href="#"', ' style="display:none"', " id=x",
                              ' t="a>b<c"',
                              " t='\"'", ' t="', " t='", "/", " aria-hidden=true"])
words = st.sampled_from(["word", " ", "two words", "&amp;", "<", ">", "\n", "中文。", "كلمة", "é", "\u00a0",
                         "\u2028"])
tags = st.builds(lambda name, more: f"<{name}{more}>", names, attributes)
ends = st.builds(lambda name: f"</{name}>", names)
odd = st.sampled_from(["<!-- c -->", "<!--", "-->", "<!doctype html>", "<![CDATA[x]]>", "<?x?>", "</", "<", "</>"])
pages = st.lists(st.one_of(tags, ends, words, words, odd), max_size=40).map("".join)


@settings(deadline=None)
@given(pages)
@example("<table><td><p>a<li>b</td>c</p>")
def test_fast_equals_plain(html: str) -> None:
    """Every block with its links, its kind and the elements around it, against a character-by-character reader."""
    page = segment(html)
    assert [(text, KINDS[kind], linked, links, _path(page, number)) for text, kind, linked, links, number
            in zip(page.texts, page.kinds, page.linked, page.links, page.element, strict=True)
            ] == [(block.text, block.kind, block.linked, block.links, block.path) for block in blocks(html)]


def _path(page, number: int) -> tuple[str, ...]:
    path = []
    while number:
        path.append(page.names[number])
        number = page.parent[number]
    return tuple(reversed(path))


@settings(deadline=None)
@given(pages)
def test_elements_hold_their_blocks(html: str) -> None:
    page = segment(html)
    count = len(page.texts)
    for number, parent in enumerate(page.parent):
        assert 0 <= page.first[number] <= page.last[number] <= count
        if number:
            assert parent < number
            assert page.first[parent] <= page.first[number]
            assert page.last[number] <= page.last[parent]
            assert page.flags[number] == page.own[number] | page.flags[parent]
    for block, number in enumerate(page.element):
        assert page.first[number] <= block < page.last[number]


@settings(deadline=None)
@given(st.text(alphabet="ab <>/=\"'!-&;pscript\n", max_size=200))
def test_any_text(html: str) -> None:
    page = segment(html)
    assert all(text and text == text.strip("\n") for text in page.texts)
    assert page.texts == [block.text for block in blocks(html)]


@settings(deadline=None)
@given(pages, st.sampled_from([*sorted(RAW_TEXT - {"plaintext"}), "template", "svg", "select", "object"]))
def test_dropped_content_never_leaks(html: str, name: str) -> None:
    hostile = html.replace("secret", "")
    inner = "<p>secret</p>secret<div>secret</div>"
    assert "secret" not in "".join(texts(f"{hostile}<{name}>{inner}</{name}>"))
    assert "secret" not in "".join(texts(f"<div hidden>{inner}</div>{hostile}"))


HOSTILE = {
    "nested div": lambda size: "<div>" * size + "x",
    "nested and closed": lambda size: "<div>" * size + "x" + "</div>" * size,
    "nested inline": lambda size: "<span hidden>" * size + "x",
    "nested lists": lambda size: "<ul><li>" * size + "x",
    "nested tables": lambda size: "<table><tr><td>" * size + "x",
    "stray ends": lambda size: "<div>" * 500 + "</section></li></td></p>" * size,
    "stray ends in a cell": lambda size: "<section><table><td>" + "<div>" * size + "</section>" * size,
    "items under blocks": lambda size: "<li><section>" + "<div>" * size + "<li></li>" * size,
    "open quotes": lambda size: "<a '" * size,
    "open double quotes": lambda size: '<a b="' * size + "'",
    "mixed quotes": lambda size: "<p a=\"x\" b='>" * size,
    "open tags": lambda size: "<p " * size,
    "open comments": lambda size: "<!--" * size,
    "open scripts": lambda size: "<script>" * size,
    "scripts in scripts": lambda size: "<script></scrip" * size,
    "ampersands": lambda size: "&" * size + "&#" * size,
    "breaks": lambda size: "x<br>" * size,
    "hidden styles": lambda size: '<p style="' + " style='a" * size + '">x',
    "blocks in hidden lines": lambda size: "<span hidden>" * size + "<div></div>" * size,
    "links in hidden lines": lambda size: "<div>" * size + "<span hidden>" * size + "<a href=x>y</a>" * size,
    "frames in pre": lambda size: "<pre>" + "<div>x</div>" * size,
    "no tags": lambda size: "word " * size,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_work_grows_with_length(kind: str) -> None:
    """Pieces and elements looked at, not seconds: at most a few for every `<` of the page."""
    html = HOSTILE[kind](20_000)
    page = segment(html)
    assert page.steps <= 6 * (html.count("<") + 1) + 100


@pytest.mark.parametrize("kind", HOSTILE)
def test_time_grows_with_length(kind: str) -> None:
    """From page to text; with the square of the length it would not come to its end."""
    with comes_to_an_end():
        assert isinstance(main_text(HOSTILE[kind](60_000)), str)


def test_hundred_thousand_deep() -> None:
    page = segment("<div>" * 100_000 + "<p>deep</p>" + "</div>" * 100_000)
    assert page.texts == ["deep"]
    assert len(page.parent) == 100_002


def test_long_page_keeps_everything() -> None:
    words = random.Random(0).sample(range(10**6), 50_000)
    assert texts("".join(f"<p>{word}</p>" for word in words)) == [str(word) for word in words]
