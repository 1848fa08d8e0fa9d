"""Markdown to HTML that cannot act: raw HTML is shown as text, images and script links are dropped.

It is the first of three walls; the browser sanitises again, and the page's content security policy forbids
inline handlers and foreign hosts.
"""

from __future__ import annotations

import html
import re
from functools import lru_cache

from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

_CODE_LINE = re.compile(
    r"^(\s{2,}\S|(async\s+)?def \w|class \w|return\b|import \w|from \S+ import |@\w|if .+:$|for .+:$|while .+:$"
    r"|else:|try:|except\b.*:$|with .+:$|raise\b|assert\b|self\.|[\w.\[\]]+ [-+*/|&]?= |[\w.]+\(.*\)$|\"\"\")"
)


def looks_like_code(text: str) -> bool:
    """Whether unfenced `text` is mostly Python: small models answer with bare code."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or "```" in text:
        return False
    return sum(bool(_CODE_LINE.match(line)) for line in lines) > 0.6 * len(lines)


def code_block(text: str, language: str = "python") -> str:
    """`text` as a highlighted block with a copy button."""
    try:
        inner = highlight(text, get_lexer_by_name(language, stripnl=False), _formatter()).rstrip("\n")
    except ClassNotFound:
        inner = html.escape(text)
    label = html.escape(language[:20] or "text")
    return (f'<div class="code"><div class="code-head"><span>{label}</span>'
            '<button class="copy-code" type="button" aria-label="Copy this code">Copy</button></div>'
            f'<pre tabindex="0"><code>{inner}</code></pre></div>')


def render(text: str) -> str:
    """HTML of an answer."""
    if looks_like_code(text):
        return code_block(text.strip("\n"))
    return _markdown().render(text)


def render_question(text: str) -> str:
    """HTML of what a person wrote: exactly their words, paragraphs of code in a fixed-width face."""
    shown = []
    for paragraph in re.split(r"\n\s*\n", text):
        name = "code" if looks_like_code(paragraph) else "p"
        shown.append(f"<{name}>{html.escape(paragraph)}</{name}>")
    return "".join(shown)


def highlight_css() -> str:
    """Colours of highlighted code, for both themes."""
    light = HtmlFormatter(style="friendly", nobackground=True).get_style_defs(".code code")
    dark = HtmlFormatter(style="github-dark", nobackground=True).get_style_defs('[data-theme="dark"] .code code')
    return light + "\n" + dark


@lru_cache(maxsize=1)
def _formatter() -> HtmlFormatter:
    return HtmlFormatter(nowrap=True)


@lru_cache(maxsize=1)
def _markdown() -> MarkdownIt:
    """CommonMark without raw HTML and images; markdown-it itself refuses javascript: and data: links."""
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    markdown.disable(["image"])
    markdown.add_render_rule("fence", lambda self, tokens, i, options, env: code_block(
        tokens[i].content.rstrip("\n"), tokens[i].info.strip().split(" ")[0] or "text"))
    markdown.add_render_rule("code_block", lambda self, tokens, i, options, env: code_block(
        tokens[i].content.rstrip("\n")))
    return markdown
