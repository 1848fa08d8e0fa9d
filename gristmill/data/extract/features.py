"""What the classifier sees of each block: its own text, the elements around it, and where the page is densest.

Everything is counted in characters, punctuation of all scripts and element names; nothing depends on a language except
one small list of phrases that sites repeat around their text.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gristmill.data.extract.markup import Page
from gristmill.data.extract.tags import FLAGS, KIND, KINDS

Floats = npt.NDArray[np.float32]

# What lies beyond the basic plane (rare letters, emoji) is of no kind.
_BEYOND = 0xFFFF
_PUNCTUATION = ",;.:!?、。，；：！？…،؛؟।՞։"
_ENDS = ".!?:;。！？…؟।։\"”»’)"
# What sites say around their text, in the languages that the web is mostly written in.
PHRASES = (
    "©", "cookie", "copyright", "all rights reserved", "privacy", "datenschutz", "impressum", "newsletter",
    "subscribe", "sign up", "signup", "log in", "login", "share", "comment", "reply", "read more", "weiterlesen",
    "mehr", "posted", "published", "veröffentlicht", "updated", "author", "related", "tag:", "tags:", "categor",
    "kategorie", "previous", "next", "zurück", "follow", "facebook", "twitter", "instagram", "e-mail", "email",
    "print", "drucken", "teilen", "kommentar", "alle rechte", "advert", "anzeige", "sponsor", "download", "search",
    "suche", "menu", "home", "contact", "kontakt", "powered by", "lire aussi", "partager", "commentaire", "abonne",
    "leer más", "compartir", "comentario", "suscr", "leggi anche", "condividi", "подпис", "коммент", "поделиться",
    "czytaj", "udostępnij", "komentarz")
_SHORT = 200
# Two counts in one number: a text of 4 GB is longer than any page.
_HIGH = 32
_LOW = (1 << _HIGH) - 1


@dataclass(frozen=True)
class Characters:
    """Tables over the basic plane: what each character counts for, what it is, and its lower case."""

    marks_digits: npt.NDArray[np.int64]
    spaces_lines: npt.NDArray[np.int64]
    upper: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.bool_]
    lower: npt.NDArray[np.uint16]


@lru_cache(maxsize=1)
def _characters() -> Characters:
    marks, spaces = (np.zeros(_BEYOND + 1, dtype=np.int64) for _ in range(2))
    upper, ends = (np.zeros(_BEYOND + 1, dtype=np.bool_) for _ in range(2))
    lower = np.arange(_BEYOND + 1, dtype=np.uint16)
    for code in range(_BEYOND):
        letter = chr(code)
        marks[code] = int(letter in _PUNCTUATION) + (int(letter.isdecimal()) << _HIGH)
        upper[code] = letter.isupper()
        ends[code] = letter in _ENDS
        small = letter.lower()
        lower[code] = ord(small) if len(small) == 1 and not "\ud800" <= letter <= "\udfff" else _BEYOND
    spaces[ord(" ")], spaces[ord("\n")] = 1, 1 << _HIGH
    return Characters(marks, spaces, upper, ends, lower)


# Phrases are looked for where their first four characters stand, known by a number of 16 bits that the four give.
_GRAM = 4
_SINGLE = tuple(phrase for phrase in PHRASES if len(phrase) < _GRAM)
_BY_START = {start: tuple(phrase for phrase in PHRASES if phrase.startswith(start))
             for start in {phrase[:_GRAM] for phrase in PHRASES}}


def _grams(lower: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """For each but the last three characters the number of it and the next three."""
    pairs = lower[:-1] * np.uint16(257)
    pairs += lower[1:]
    grams = pairs[:-2] * np.uint16(40_503)
    grams += pairs[2:]
    return grams


@lru_cache(maxsize=1)
def _phrase_grams() -> npt.NDArray[np.bool_]:
    """Which of those numbers begin a phrase."""
    table = np.zeros(1 << 16, dtype=np.bool_)
    for start in _BY_START:
        if len(start) == _GRAM:
            table[_grams(np.array(list(map(ord, start)), dtype=np.uint16))] = True
    return table


def _with_phrase(codes: npt.NDArray[np.uint32], bounds: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(blocks,) which of the texts that `bounds` cuts `codes` into hold one of the phrases."""
    lower = _characters().lower.take(codes, mode="clip")
    found = np.zeros(len(bounds) - 1, dtype=np.bool_)
    if len(lower) >= _GRAM:
        at = np.flatnonzero(_phrase_grams().take(_grams(lower)))
        text = lower.tobytes().decode("utf-16-le" if sys.byteorder == "little" else "utf-16-be")
        at = at[[text.startswith(_BY_START.get(text[here:here + _GRAM], ()), here) for here in at.tolist()]]
        found[np.searchsorted(bounds, at, side="right") - 1] = True
    for letter in _SINGLE:
        found[np.searchsorted(bounds, np.flatnonzero(lower == ord(letter)), side="right") - 1] = True
    return found


_WHERE = ("element", "parent", "grandparent")
_RANGES = ("the densest element", "the strictly densest element", "the best run")
# Numbers without a bound, of which the logarithm is taken, and all others.
_LOGGED = (
    "chars", "words", "punctuation", "links", "lines", "no chars in links", "blocks after the first h1", "page chars",
    "page blocks", *(f"{what} of {where}" for what in ("chars", "blocks", "chars a block") for where in _WHERE),
    *(f"{what} {where}" for what in ("before", "after") for where in _RANGES))
_OTHERS = (
    "word length", "punctuation share", "link share", "digit share", "ends a sentence", "starts upper", "phrase",
    "position", "text before", "after the first h1", "before any h1", "page link share", "page text share",
    *(f"{what} of {where}" for what in ("link share", "share of the page's text") for where in _WHERE),
    *(f"{what} {where}" for what in ("in", "share of") for where in _RANGES),
    *(f"same {what} as {which}" for which in ("before", "after") for what in ("element", "parent")))
NAMES: tuple[str, ...] = (
    *_LOGGED, *_OTHERS, *(f"kind {kind}" for kind in KINDS),
    *(f"{flag} on {where}" for where in ("element", "parents", "ancestors") for flag in FLAGS))
_ROW = {name: number for number, name in enumerate(NAMES)}
_H1 = KIND["h1"]
# A character of text against one of links or of stray lines, when the densest element is sought.
PENALTIES = (1.0, 3.0)
_PENALTIES = np.array(PENALTIES, dtype=np.float32)[:, None]
_STRAY = 20.0


def features(page: Page, chars: list[int]) -> Floats:
    """(blocks, len(NAMES)) of what is known of every block; `chars` holds the length of each text.

    One row a feature while they are measured, and several rows a step: pages are small, so that steps cost more than
    numbers.
    """
    count = len(chars)
    numbers = np.array(chars + page.linked + page.links + page.element + page.kinds, dtype=np.int64).reshape(5, count)
    lengths, element, kinds = numbers[0], numbers[3], numbers[4]
    parents, first, last, own, flags = np.array(
        page.parent + page.first + page.last + page.own + page.flags, dtype=np.int64).reshape(5, -1)
    # All characters in one row, a zero behind each text but the last; every count is a sum over a stretch of it.
    codes = np.frombuffer("\0".join(page.texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    table = _characters()
    bounds = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(lengths + 1, out=bounds[1:])
    starts = bounds[:-1]
    marks_digits = np.add.reduceat(table.marks_digits.take(codes, mode="clip"), starts)
    spaces_lines = np.add.reduceat(table.spaces_lines.take(codes, mode="clip"), starts)
    short = lengths < _SHORT
    order = np.arange(count, dtype=np.float32)

    out = np.zeros((len(NAMES), count), dtype=np.float32)
    size, linked, links = numbers[:3].astype(np.float32)
    linked = np.minimum(linked, size)
    free = size - linked
    words = out[_ROW["words"]]
    words[:] = (spaces_lines & _LOW) + 1
    punctuation = out[_ROW["punctuation"]]
    punctuation[:] = marks_digits & _LOW
    out[_ROW["chars"]] = size
    out[_ROW["links"]] = links
    out[_ROW["lines"]] = spaces_lines >> _HIGH
    out[_ROW["no chars in links"]] = free
    out[_ROW["word length"]] = np.minimum(size / words, 30) / 10
    out[_ROW["punctuation share"]] = punctuation / size * 10
    out[_ROW["link share"]] = linked / size
    out[_ROW["digit share"]] = (marks_digits >> _HIGH) * short / size
    out[_ROW["ends a sentence"]] = table.ends.take(codes[bounds[1:] - 2], mode="clip")
    out[_ROW["starts upper"]] = table.upper.take(codes[starts], mode="clip")
    out[_ROW["phrase"]] = _with_phrase(codes, bounds) & short

    # Good text: free of links, and either long or with the punctuation of sentences.
    well = (punctuation >= 2) | (size >= 80)
    good = free * well
    well &= good > 0
    stray = np.where(well, 0, np.minimum(free, 40) + _STRAY)
    gain = good - linked - np.where(well, 0, _STRAY)
    sums = np.zeros((5, count + 1), dtype=np.float32)
    np.cumsum((size, linked, good, stray, gain), axis=1, out=sums[:, 1:])
    total, total_good = np.maximum(sums[[0, 2], -1], 1).tolist()
    out[_ROW["page chars"]] = total
    out[_ROW["page blocks"]] = count
    out[_ROW["page link share"]] = sums[1, -1] / total
    out[_ROW["page text share"]] = total_good / total
    out[_ROW["position"]] = order / count
    out[_ROW["text before"]] = sums[2, :-1] / total_good
    heads = np.flatnonzero(kinds == _H1)
    if len(heads):
        out[_ROW["after the first h1"], heads[0]:] = 1
        out[_ROW["before any h1"], :heads[0]] = 1
        out[_ROW["blocks after the first h1"]] = np.maximum(order - heads[0], 0)

    parent = parents[element]
    grandparent = parents[parent]
    where = np.concatenate((element, parent, grandparent))
    inside = sums[:4].take(last, axis=1) - sums[:4].take(first, axis=1)
    blocks = np.maximum(last - first, 1).astype(np.float32)[where]
    there = inside.take(where, axis=1)
    around = _ROW["chars of element"]
    out[around:around + 9] = np.concatenate((there[0], blocks, there[0] / blocks)).reshape(9, count)
    around = _ROW["link share of element"]
    out[around:around + 6] = np.concatenate(
        (there[1] / np.maximum(there[0], 1), there[2] / total_good)).reshape(6, count)

    # Of equals the innermost, which starts last.
    values = inside[2] - _PENALTIES * (inside[1] + inside[3])
    top = values.shape[1] - 1 - np.argmax(values[:, ::-1], axis=1)
    end = int(np.argmax(sums[4] - np.minimum.accumulate(sums[4])))
    begin = int(np.argmin(sums[4, :end + 1]))
    begins = np.array([*first[top].tolist(), begin])
    ends = np.array([*last[top].tolist(), end])
    before = begins[:, None] - order
    after = order - (ends[:, None] - 1)
    ranges = _ROW["before the densest element"]
    np.maximum(before, 0, out=out[ranges:ranges + 3], casting="unsafe")
    np.maximum(after, 0, out=out[ranges + 3:ranges + 6], casting="unsafe")
    ranges = _ROW["in the densest element"]
    out[ranges:ranges + 3] = (before <= 0) & (after <= 0)
    out[ranges + 3:ranges + 6] = ((sums[2, ends] - sums[2, begins]) / total_good)[:, None]

    if count > 1:
        same = _ROW["same element as before"]
        pairs = np.stack((element, parent))
        out[same:same + 2, 1:] = out[same + 2:same + 4, :-1] = pairs[:, 1:] == pairs[:, :-1]
    out[_ROW[f"kind {KINDS[0]}"] + kinds, np.arange(count)] = 1
    bits = np.stack((own[element], own[parent] | own[grandparent], flags[element]), 1).astype("<u4")
    single = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little").reshape(count, 3, 32)[:, :, :len(FLAGS)]
    out[-3 * len(FLAGS):] = single.reshape(count, -1).T
    logged = out[:len(_LOGGED)]
    np.log1p(logged, out=logged)
    return out.T
