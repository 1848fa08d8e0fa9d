"""StackExchange dumps: rows against xml.etree, the join against a plain one, every cut, and broken rows."""

import gzip
import html
import io
import tracemalloc
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.documents import Document, Reject
from gristmill.data.formats import stackexchange_posts
from gristmill.data.formats.html_fragment import fragment_text
from gristmill.data.formats.stackexchange_posts import BrokenRow, attributes, rows
from gristmill.data.inputs import Input, Range
from gristmill.data.sources.stackexchange import StackExchange

SITE = "cooking.stackexchange.com"
BODY = (
    '<p>How do I <em>boil</em> an <code>egg</code>?</p>\n\n<pre class="lang-py s-code-block"><code>def f(x):\n'
    "    return x &lt; 3\n</code></pre>\n<ul>\n<li>one</li>\n<li>two<ol><li>a</li></ol></li>\n</ul>\n"
    "<blockquote>\n<p>said</p>\n</blockquote>\n<h2>End</h2><p>x<br>y &amp; z</p>"
)


def row(**fields: Any) -> str:
    return "  <row " + " ".join(f'{name}="{html.escape(str(value))}"' for name, value in fields.items()) + " />\n"


def question(number: int, **fields: Any) -> str:
    return row(
        **{
            "Id": number,
            "PostTypeId": 1,
            "CreationDate": "2012-01-02T03:04:05.678",
            "Score": 3,
            "Body": f"<p>question {number}</p>",
            "Title": f"Title {number}",
            **fields,
        }
    )


def answer(number: int, parent: int, **fields: Any) -> str:
    return row(
        **{
            "Id": number,
            "PostTypeId": 2,
            "ParentId": parent,
            "CreationDate": "2012-01-03T00:00:00.000",
            "Score": 1,
            "Body": f"<p>answer {number}</p>",
            **fields,
        }
    )


def posts(*lines: str) -> str:
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n{"".join(lines)}</posts>'


def source(data: str | bytes, folder: Path, ending: str = "", **options: Any) -> tuple[StackExchange, Input]:
    (folder / SITE).mkdir(exist_ok=True)
    packed = data.encode() if isinstance(data, str) else data
    (folder / SITE / f"Posts.xml{ending}").write_bytes(gzip.compress(packed) if ending else packed)
    (folder / SITE / "Users.xml").write_text("<users/>")
    reader = StackExchange(path=str(folder), **options)
    (item,) = reader.inputs()
    return reader, item


def read(data: str | bytes, folder: Path, ending: str = "", **options: Any) -> list[Any]:
    reader, item = source(data, folder, ending, **options)
    return list(reader.read(Range(item), "se"))


def reasons(found: list[Any]) -> list[str]:
    return [one.reason if isinstance(one, Reject) else one.metadata["title"] for one in found]


def test_a_question_and_its_answers_are_one_document(tmp_path):
    data = posts(
        question(
            1,
            Body=BODY,
            Title='Eggs & "co"',
            Tags="<eggs><hard-boil>",
            AcceptedAnswerId=4,
            OwnerUserId=9,
            CreationDate="2010-07-09T19:05:36.117",
        ),
        question(2),
        answer(3, 1, Score=7),
        answer(4, 1, OwnerDisplayName="Ann"),
        answer(5, 1, Score=-2),
        answer(6, 1, Score=2),
    )
    found = read(data, tmp_path, answers=3)
    document = found[0]
    assert isinstance(document, Document)
    assert (
        document.text
        == """# Eggs & "co"

How do I boil an `egg`?

```py
def f(x):
    return x < 3
```

- one
- two
  1. a

> said

## End

x
y & z

## Accepted answer

answer 4

## Answer

answer 3

## Answer

answer 6"""
    )
    assert document.domain == SITE
    assert document.id == f"se/{SITE}/Posts.xml@{data.encode().index(b'<row')}"
    assert document.metadata | {"offset": 0} == {
        "path": f"{SITE}/Posts.xml",
        "offset": 0,
        "license": "CC BY-SA 2.5",
        "post_id": 1,
        "group": f"{SITE}/Posts.xml:1",
        "title": 'Eggs & "co"',
        "score": 3,
        "tags": ["eggs", "hard-boil"],
        "time": "2010-07-09T19:05:36Z",
        "author": "9",
        "url": f"https://{SITE}/questions/1",
        "answers": [
            {
                "id": 4,
                "score": 1,
                "accepted": True,
                "time": "2012-01-03T00:00:00Z",
                "author": "Ann",
                "license": "CC BY-SA 3.0",
            },
            {"id": 3, "score": 7, "time": "2012-01-03T00:00:00Z", "license": "CC BY-SA 3.0"},
            {"id": 6, "score": 2, "time": "2012-01-03T00:00:00Z", "license": "CC BY-SA 3.0"},
        ],
    }
    assert reasons(found) == ['Eggs & "co"', "unanswered"]


def test_pairs_stay_together_and_say_where_the_answer_begins(tmp_path):
    found = read(posts(question(1, AcceptedAnswerId=3), answer(2, 1, Score=9), answer(3, 1)), tmp_path, form="pairs")
    assert [one.text[one.metadata["answer_start"] :] for one in found] == ["answer 3", "answer 2"]
    assert [one.text[: one.metadata["answer_start"]] for one in found] == [
        "# Title 1\n\nquestion 1\n\n## Answer\n\n"
    ] * 2
    assert len({one.metadata["group"] for one in found}) == 1
    assert [one.id.rpartition("#")[2] for one in found] == ["3", "2"]


def test_licences_follow_the_date_unless_they_are_stated(tmp_path):
    dates = ["2011-04-07T23:59:59", "2011-04-08T00:00:00", "2018-05-01T00:00:00", "2018-05-02T00:00:00"]
    lines = [question(n, CreationDate=date) for n, date in enumerate(dates, 1)] + [
        question(9, ContentLicense="CC BY-SA 4.0")
    ]
    found = read(posts(*lines), tmp_path, unanswered=True)
    assert [one.metadata["license"] for one in found] == [f"CC BY-SA {n}" for n in ("2.5", "3.0", "3.0", "4.0", "4.0")]
    assert read(posts(*lines), tmp_path, unanswered=True, license="own")[0].metadata["license"] == "own"


def test_what_is_left_out_is_counted(tmp_path):
    data = posts(
        question(1, Score=-1),
        question(2),
        question(3),
        question(3),
        answer(4, 77),
        answer(5, 2, Score=-4),
        answer(6, 3),
        "  <row Id='8' PostTypeId='1' Body='never ends\n",
        row(Id=9, PostTypeId=5, Body="wiki"),
        question(10, Body=""),
        question(11, Body="x" * 3000),
        question(12),
        answer(13, 12, Body="bad &#x1; end"),
    )
    found = read(data.replace("&amp;#x1;", "&#x1;"), tmp_path, longest_kb=2)
    assert reasons(found) == [
        "low_score",
        "unanswered",
        "Title 3",
        "duplicate_id",
        "no_question",
        "broken_xml",
        "no_text",
        "too_long",
        "Title 12",
    ]
    assert "byte" in found[5].detail
    assert "longest_kb" in found[7].detail
    assert found[-1].text.endswith("bad � end")
    assert read(data, tmp_path, answer_score=-9)[1].metadata["title"] == "Title 2"


def test_an_answer_that_comes_twice_is_taken_once(tmp_path):
    text = posts(question(2), answer(1, 2, Score=1), answer(1, 2, Score=1))
    for form in ("threads", "pairs"):
        reader, item = source(text, tmp_path, form=form, answers=3)
        repeated, kept = reader.read(Range(item), "se")
        assert (repeated.reason, repeated.detail) == ("duplicate_id", "answer 1 to question 2 is there already")
        assert [one["id"] for one in kept.metadata["answers"]] == [1]


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.one_of(
            st.builds(question, st.integers(1, 6), AcceptedAnswerId=st.integers(0, 20)),
            st.just("junk <row broken\n"),
            st.builds(answer, st.integers(1, 20), st.integers(1, 7), Score=st.integers(-2, 5)),
        ),
        max_size=25,
    ),
    data=st.data(),
    form=st.sampled_from(["threads", "pairs"]),
)
def test_any_cut_gives_the_same_documents_and_those_of_a_plain_join(tmp_path_factory, lines, form, data):
    text = posts(*lines)
    reader, item = source(text, tmp_path_factory.mktemp("se"), form=form, answers=2)
    whole = list(reader.read(Range(item), "se"))
    edges = sorted({0, *data.draw(st.lists(st.integers(0, item.size), max_size=3))})
    parts = [Range(item, a, b) for a, b in zip(edges, [*edges[1:], None], strict=True)]
    assert [one for part in parts for one in reader.read(part, "se")] == whole
    ids = [(one.document if isinstance(one, Reject) else one).id for one in whole]
    assert len(set(ids)) == len(ids)
    # the slow way
    expected, seen = [], set()
    found = [dict(one.attrib) for line in lines if "Id" in line for one in [ElementTree.fromstring(line)]]
    for one in found:
        if one["PostTypeId"] == "1" and one["Id"] not in seen:
            seen.add(one["Id"])
            answers = [
                (a["Id"] != one["AcceptedAnswerId"], -int(a["Score"]), int(a["Id"]), place)
                for place, a in enumerate(found)
                if a["PostTypeId"] == "2" and a["ParentId"] == one["Id"]
            ]
            taken = list(dict.fromkeys(n for worse, score, n, _ in sorted(answers)[:2] if score <= 0 or not worse))
            expected += [[n] for n in taken] if form == "pairs" else [taken] if taken else []
    assert [[a["id"] for a in one.metadata["answers"]] for one in whole if isinstance(one, Document)] == expected


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["Id", "Body", "Title", "x-y"]),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")),
    )
)
def test_rows_are_those_of_an_xml_parser(fields):
    line = row(**fields).strip()
    assert attributes(line.encode()) == ElementTree.fromstring(line).attrib == fields


@pytest.mark.parametrize(
    "line", ["<row", "<row Id", "<row Id=", "<row Id='1", "<row Id=1 />", "<row Id='1'", "<row 'x' />"]
)
def test_broken_rows_are_said(line):
    with pytest.raises(BrokenRow):
        attributes(line.encode())


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(["<row a='1'/>", "<row", "<", "x", "<row " + "y" * 40, "\n", "</posts>", "<ro"]), max_size=12
    ),
    block=st.integers(1, 9),
    longest=st.integers(5, 60),
)
def test_rows_do_not_depend_on_the_blocks_that_are_read(parts, block, longest):
    text = "".join(parts).encode()
    expected = list(rows(io.BytesIO(text), 0, longest))
    chunk, stackexchange_posts._CHUNK = stackexchange_posts._CHUNK, block
    try:
        assert list(rows(io.BytesIO(text), 0, longest)) == expected
    finally:
        stackexchange_posts._CHUNK = chunk
    starts = [n for n in range(len(text)) if text.startswith(b"<row", n)]
    assert [offset for offset, _ in expected] == starts


def test_memory_does_not_grow_with_the_answers(tmp_path):
    def peak(number: int) -> int:
        lines = [question(n) for n in range(1, 21)] + [
            answer(100 + n, n % 20 + 1, Body="<p>" + "word " * 400) for n in range(number)
        ]
        reader, item = source(posts(*lines), tmp_path)
        del lines
        tracemalloc.start()
        assert sum(isinstance(one, Document) for one in reader.read(Range(item), "se")) == 20
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(2000) < 1.3 * peak(500)  # 4 MB and 1 MB of answers


def test_long_rows_compressed_and_cut_off_files(tmp_path):
    huge = posts(question(1), answer(2, 1), question(3, Body="x" * (40 << 20)), question(4), answer(5, 4))
    reader, item = source(huge, tmp_path)
    del huge
    tracemalloc.start()
    assert reasons(list(reader.read(Range(item), "se"))) == ["Title 1", "too_long", "Title 4"]
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    small = posts(*[question(n) + answer(n + 100, n) for n in range(1, 60)])
    (tmp_path / SITE / "Posts.xml").unlink()
    reader, item = source(small, tmp_path, ".gz")
    assert len(reader.ranges(item, 10)) == 1
    assert len(list(reader.read(Range(item), "se"))) == 59
    Path(item.path).write_bytes(Path(item.path).read_bytes()[:-9])
    assert reasons(list(reader.read(Range(item), "se")))[-1] == "unreadable_file"
    Path(item.path).unlink()
    cut_off = read(small[: len(small) // 2], tmp_path)
    assert reasons(cut_off)[-1] in ("broken_xml", "unanswered", "Title 29", "Title 30")
    assert len(cut_off) > 25


def test_what_is_not_a_dump_is_said(tmp_path):
    with pytest.raises(UserError, match="unpacked first"):
        StackExchange(path=str(tmp_path / "x.7z")).inputs()
    with pytest.raises(ValueError, match="no meaning for pairs"):
        StackExchange(path="x", form="pairs", unanswered=True)
    (tmp_path / "a.xml").write_text("<users/>")
    (tmp_path / "b.xml").write_text("<users/>")
    with pytest.raises(UserError, match="no Posts"):
        StackExchange(path=str(tmp_path)).inputs()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain &amp; simple", "plain & simple"),
        ("<p>a</p><p>b<br>c</p>", "a\n\nb\nc"),
        ("<b>x</b> <i>y</i>", "x y"),
        ("<pre><code>a\n\n  b</code></pre>", "```\na\n\n  b\n```"),
        ("<ol><li>a<li>b</ol>", "1. a\n2. b"),
        ("a<!-- x > -->b", "ab"),
        ("<script>x()</script>a<style>y</style>", "a"),
        ("<script>never ends", "never ends"),
        ("a < b <c", "a < b <c"),
        ('<a href="x>y">t</a>', "t"),
        ("<ul><li><pre>x\ny</pre></li></ul>", "- ```\n  x\n  y\n  ```"),
        ("<blockquote><blockquote><p>a</p></blockquote>b</blockquote>c", "> > a\n>\n> b\n\nc"),
        ("<h3>T</h3>x", "### T\n\nx"),
        ("<p>a</p><hr><table><tr><td>1</td><td>2</td></tr></table>", "a\n\n1 2"),
        ("</ul></li></blockquote>x", "x"),
        ("", ""),
    ],
)
def test_golden_fragments(source, expected):
    assert fragment_text(source) == expected


@pytest.mark.parametrize(
    "mark", ["<div>", "<ul><li>", "<blockquote>", "<pre>", "<", "<a ", '<a b="', "<!--", "<script>", "&amp"]
)
def test_deep_and_broken_fragments_are_read(mark):
    assert isinstance(fragment_text(mark * 100_000 + "x"), str)
