"""Features and classifier against the same things written as plain loops over blocks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.data.extract import classifier as classifiers
from gristmill.data.extract.classifier import FAR, NEAR, Classifier, load, save
from gristmill.data.extract.features import NAMES, PENALTIES, PHRASES, features
from gristmill.data.extract.markup import Page, segment
from gristmill.data.extract.tags import FLAGS, KINDS

PUNCTUATION = set(",;.:!?、。，；：！？…،؛؟।՞։")
TERMINAL = set(".!?:;。！？…؟।։\"”»’)")


def plain(page: Page) -> list[dict[str, float]]:
    """Every feature by its name, block by block."""
    size = [len(text) for text in page.texts]
    linked = [min(chars, found) for chars, found in zip(size, page.linked, strict=True)]
    marks = [sum(letter in PUNCTUATION for letter in text) for text in page.texts]
    good = [chars - link if mark >= 2 or chars >= 80 else 0
            for chars, link, mark in zip(size, linked, marks, strict=True)]
    stray = [0 if well else min(chars - link, 40) + 20 for well, chars, link in zip(good, size, linked, strict=True)]
    total, total_good = max(sum(size), 1), max(sum(good), 1)
    h1 = [at for at, kind in enumerate(page.kinds) if KINDS[kind] == "h1"]
    ranges = []
    for penalty in PENALTIES:
        value = [sum(good[a:b]) - penalty * (sum(linked[a:b]) + sum(stray[a:b]))
                 for a, b in zip(page.first, page.last, strict=True)]
        top = max(range(len(value)), key=lambda at: (value[at], at))
        ranges.append((page.first[top], page.last[top]))
    ranges.append(best_run([well - link - (0 if well else 20) for well, link in zip(good, linked, strict=True)]))
    out = []
    for block, text in enumerate(page.texts):
        one: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        chars, mark, free, words = size[block], marks[block], size[block] - linked[block], text.count(" ") + 1
        one["chars"], one["words"] = math.log1p(chars), math.log1p(words)
        one["word length"] = min(chars / words, 30) / 10
        one["punctuation"], one["punctuation share"] = math.log1p(mark), 10 * mark / chars
        one["link share"], one["links"] = linked[block] / chars, math.log1p(page.links[block])
        one["digit share"] = sum(letter.isdecimal() for letter in text) / chars if chars < 200 else 0
        one["ends a sentence"], one["starts upper"] = text[-1] in TERMINAL, text[0].isupper()
        one["phrase"] = chars < 200 and any(phrase in text.lower() for phrase in PHRASES)
        one["lines"], one["no chars in links"] = math.log1p(text.count("\n")), math.log1p(free)
        one["position"], one["text before"] = block / len(size), sum(good[:block]) / total_good
        if h1:
            one["after the first h1"], one["before any h1"] = block >= h1[0], block < h1[0]
            one["blocks after the first h1"] = math.log1p(max(block - h1[0], 0))
        here = page.element[block]
        above = page.parent[here]
        for where, number in (("element", here), ("parent", above), ("grandparent", page.parent[above])):
            a, b = page.first[number], page.last[number]
            one[f"chars of {where}"] = math.log1p(sum(size[a:b]))
            one[f"link share of {where}"] = sum(linked[a:b]) / max(sum(size[a:b]), 1)
            one[f"blocks of {where}"] = math.log1p(max(b - a, 1))
            one[f"chars a block of {where}"] = math.log1p(sum(size[a:b]) / max(b - a, 1))
            one[f"share of the page's text of {where}"] = sum(good[a:b]) / total_good
        for where, (a, b) in zip(("the densest element", "the strictly densest element", "the best run"), ranges,
                                 strict=True):
            one[f"in {where}"] = a <= block < b
            one[f"before {where}"] = math.log1p(max(a - block, 0))
            one[f"after {where}"] = math.log1p(max(block - b + 1, 0))
            one[f"share of {where}"] = sum(good[a:b]) / total_good
        one["page chars"], one["page blocks"] = math.log1p(total), math.log1p(len(size))
        one["page link share"], one["page text share"] = sum(linked) / total, total_good / total
        for name, other in (("before", block - 1), ("after", block + 1)):
            if 0 <= other < len(size):
                one[f"same element as {name}"] = page.element[other] == here
                one[f"same parent as {name}"] = page.parent[page.element[other]] == above
        one[f"kind {KINDS[page.kinds[block]]}"] = 1
        for number, flag in enumerate(FLAGS):
            one[f"{flag} on element"] = page.own[here] >> number & 1
            one[f"{flag} on parents"] = (page.own[above] | page.own[page.parent[above]]) >> number & 1
            one[f"{flag} on ancestors"] = page.flags[here] >> number & 1
        out.append(one)
    return out


def best_run(gain: list[float]) -> tuple[int, int]:
    """The first run of blocks with the greatest sum; of starts that give the same, the first."""
    sums = [sum(gain[:at]) for at in range(len(gain) + 1)]
    best = max(sums[end] - min(sums[:end + 1]) for end in range(len(sums)))
    end = next(end for end in range(len(sums)) if sums[end] - min(sums[:end + 1]) == best)
    return sums.index(min(sums[:end + 1])), end


sentences = st.sampled_from(["Home", "Read more »", "A sentence, with a comma, and an end.",
                             "日本語の文章です、読点もある。",
                             "Es folgt ein langer Absatz ohne viel Sinn, der aber, wie man sieht, lang genug ist. " * 3,
                             "12.03.2024", "© 2024 All rights reserved", "x", "a\u00a0b", "line<br>line"])
boxes = st.sampled_from(["div", "p", "h1", "h2", "li", "nav", "article class=content", "div id=comments", "td", "pre"])
bodies = st.lists(st.tuples(boxes, sentences, st.booleans(), st.booleans()), min_size=1, max_size=30)


def build(body: list[tuple[str, str, bool, bool]]) -> str:
    return "".join(f"<{box}>" + (f"<a href=x>{text}</a>" if link else text) + (f"</{box.split()[0]}>" if close else "")
                   for box, text, link, close in body)


@settings(deadline=None)
@given(bodies)
def test_features_equal_plain_loops(body: list[tuple[str, str, bool, bool]]) -> None:
    page = segment(build(body))
    fast = features(page, [len(text) for text in page.texts])
    assert fast.dtype == np.float32
    for row, slow in zip(fast, plain(page), strict=True):
        for name, value in zip(NAMES, row, strict=True):
            assert value == pytest.approx(float(slow[name]), rel=1e-5, abs=1e-5), name


@settings(deadline=None, max_examples=25)
@given(bodies)
def test_classifier_equals_plain_loops(body: list[tuple[str, str, bool, bool]]) -> None:
    page = segment(build(body))
    x = features(page, [len(text) for text in page.texts])
    chosen = load()
    assert chosen(x) == pytest.approx(
        1 / (1 + np.exp(-np.mean([slowly(layers, x) for layers in chosen.members], axis=0))), abs=1e-4)


def test_pages_longer_than_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    page = segment("<h1>Title</h1>" + "".join(f"<p>{'word ' * (number % 17)}, and an end.</p>" for number in range(80)))
    x = features(page, [len(text) for text in page.texts])
    whole = load()(x)
    assert len(x) > 2 * classifiers.ROWS
    assert whole == pytest.approx(
        1 / (1 + np.exp(-np.mean([slowly(layers, x) for layers in load().members], axis=0))), abs=1e-4)
    monkeypatch.setattr(classifiers, "ROWS", 1)
    assert load()(x) == pytest.approx(whole, abs=1e-5)


def slowly(layers: classifiers.Layers, x: np.ndarray) -> list[float]:
    """The formulas of `classifier.py`, one block and one unit at a time."""
    def layer(rows: list[list[float]], weights: np.ndarray, bias: np.ndarray) -> list[list[float]]:
        return [[max(0.0, float(np.dot(row, column)) + float(b)) for column, b in zip(weights.T, bias, strict=True)]
                for row in rows]

    def around(rows: list[list[float]], at: int, offsets: tuple[int, ...]) -> list[float]:
        empty = [0.0] * len(rows[0])
        return [value for offset in offsets
                for value in (rows[at + offset] if 0 <= at + offset < len(rows) else empty)]

    first = layer(x.tolist(), layers.w1, layers.b1)
    mean = np.mean(first, axis=0).tolist()
    second = layer([around(first, at, NEAR) + mean for at in range(len(x))], layers.w2, layers.b2)
    third = layer([around(second, at, FAR) for at in range(len(x))], layers.w3, layers.b3)
    return [float(np.dot(row, layers.w) + layers.b) for row in third]


def test_weights_are_saved_and_belong_to_their_features(tmp_path) -> None:
    path = tmp_path / "weights.json"
    save(load(), path, {"about": "a copy"})
    again = load(path)
    assert isinstance(again, Classifier)
    assert again.threshold == load().threshold
    assert all(np.array_equal(mine.w1, theirs.w1) for mine, theirs in zip(again.members, load().members, strict=True))
    other = tmp_path / "other.json"
    other.write_text(path.read_text().replace(f'"{NAMES[0]}"', '"another"', 1))
    with pytest.raises(UserError, match="other features"):
        load(other)


@pytest.mark.slow
def test_fit_learns_and_repeats() -> None:
    from gristmill.data.extract.fit import Labelled, fit

    pages = []
    for number in range(24):
        page = segment("<nav>" + "<li><a href=x>Home page</a></li>" * (number % 5 + 2) + "</nav><div>"
                       + "<p>A sentence, with a comma, and an end that comes late.</p>" * (number % 3 + 1) + "</div>")
        wanted = np.array([text.startswith("A") for text in page.texts], dtype=np.float32)
        pages.append(Labelled(features(page, [len(text) for text in page.texts]), wanted, np.ones_like(wanted)))
    chosen = fit(pages, epochs=25, seed=3, members=1)
    assert all(((chosen(page.features) > 0.5) == (page.wanted > 0.5)).all() for page in pages)
    assert np.array_equal(chosen.members[0].w1, fit(pages, epochs=25, seed=3, members=1).members[0].w1)
