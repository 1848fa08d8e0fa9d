from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.serving.studio.markup import looks_like_code, render, render_question

ATTACKS = ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "[x](javascript:alert(1))",
           "![x](http://evil/a.png)",
           "<svg/onload=alert(1)>", "```\n</code></pre><img src=x onerror=alert(1)>\n```",
           "[x](data:text/html,<script>)",
           '```"><img src=x onerror=alert(1)>\ncode\n```', "<a href='javascript:alert(1)'>x</a>",
           "<JAVASCRIPT:alert(1)>",
           "def f():\n    return '<img src=x onerror=alert(1)>'", "[a]: javascript:alert(1)\n\n[a]"]
TAGS = {"p", "div", "span", "pre", "code", "button", "em", "strong", "a", "ul", "ol", "li", "br", "hr", "blockquote",
        "s", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"class", "type", "aria-label", "tabindex", "href", "title", "style", "start"}


class Walls(HTMLParser):
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            assert name != "href" or not re.match(r"\s*(javascript|data|vbscript|file):", value or "", re.I), value
            assert name != "style" or re.fullmatch(r"text-align:(left|right|center)", value or ""), value


def check(html: str) -> None:
    walls = Walls(convert_charrefs=True)
    walls.feed(html)
    walls.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_known_attacks_are_inert(attack: str) -> None:
    check(render(attack))
    check(render_question(attack))


@given(st.lists(st.sampled_from([
    "<img src=x onerror=a()>", "```", "`", "[", "](", ")", "\n", "\n\n", "    ", "*", "_", "|", "-", "javascript:", "<",
    ">", '"', "'", "&", "def f():", "&#106;", "\x00", "a"]), max_size=25).map("".join))
def test_no_text_becomes_an_active_element(text: str) -> None:
    check(render(text))
    check(render_question(text))


def test_bare_code_is_shown_as_code_and_prose_is_not() -> None:
    assert looks_like_code("    if path is None:\n        return ''\n    return path.read_text()")
    assert looks_like_code("def f(x):")
    assert not looks_like_code("Return the text of the file, decoded.")
    assert not looks_like_code("Use it so:\n\n```python\nx = f()\n```")
    assert 'class="code"' in render("    return self._value")
    assert "__init__" in re.sub(r"<[^>]*>", "", render("    def __init__(self, name):\n        self.name = name"))
