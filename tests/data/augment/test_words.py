
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.augment.words import as_written, changeable, joined, lines_of, parts
from tests.shared import comes_to_an_end

MARKED = """# A Title

The mill-wheel turned, and `code words` nobody's care; see https://x.org/a_b?c=d or mail a.b@c.org.
He paid $x + y$ for camelCase snake_case x86 file.txt foo() <b class="c d">bold</b> &amp; [link](some/where) नमस्ते

```python
def f(x): return x
```

<pre>left alone</pre> <!-- and this
too --> \\[ x = y \\] \\emph{last} "quoted".
"""


@given(st.text(alphabet="ab Z.\n`$<>~-'&;\\[]()/@:_1é\u0939\u093f" , max_size=200))
def test_nothing_is_lost(text):
    assert "".join(part for part, _ in parts(text)) == text
    assert joined(lines_of(text)) == text
    assert [word for line in lines_of(text) for word in line.words] == changeable(text)


def test_what_is_a_word_and_what_is_left_alone():
    assert changeable(MARKED) == [
        "A", "Title", "The", "mill-wheel", "turned", "and", "nobody's", "care", "see", "or", "mail", "He", "paid",
        "for", "bold", "link", "नमस्ते", "last", "quoted"]


def test_an_opener_without_an_end_is_a_sign_like_any_other():
    assert changeable("one ``` two <pre three") == ["one", "two", "pre", "three"]


def test_lines_keep_their_newlines():
    assert [line.words for line in lines_of("one two\n\nthree\n")] == [("one", "two"), ("three",)]


@pytest.mark.parametrize("piece", ["<pre", "```", "$a", "`a", "<a", "a-", "a.b@", "\\[", "a@", "http://", "a/", "~~~x"])
def test_time_is_linear_in_hostile_text(piece):
    text = piece * (200_000 // len(piece))
    with comes_to_an_end():
        assert joined(lines_of(text)) == text


@pytest.mark.parametrize(("word", "like", "wanted"), [
    ("car", "Automobile", "Car"), ("car", "AUTO", "CAR"), ("car", "auto", "car"), ("car", "A", "Car")])
def test_case_is_kept(word, like, wanted):
    assert as_written(word, like) == wanted
