"""What the classifier sees of each block: its own text, the elements around it, and where the page is densest.

Everything is counted in characters, punctuation of all scripts and element names; nothing depends on a language except
one small list of phrases that sites repeat around their text.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gristmill.data.extract.markup import Page
from gristmill.data.extract.tags import FLAGS, KIND, KINDS, by_first_letter

Floats = npt.NDArray[np.float32]

# Kinds of character, as bits. What lies beyond the basic plane (rare letters, emoji) is none of them.
_MARK, _SPACE, _DIGIT, _UPPER, _TERMINAL, _LINE = (1 << number for number in range(6))
_BEYOND = 0xFFFF
_PUNCTUATION = ",;.:!?、。，；：！？…،؛؟।՞։"
_ENDS = ".!?:;。！？…؟।։\"”»’)"
# What sites say around their text, in the languages that the web is mostly written in.
PHRASES = by_first_letter((
    "©", "cookie", "copyright", "all rights reserved", "privacy", "datenschutz", "impressum", "newsletter",
    "subscribe", "sign ?up", "log ?in", "share", "comment", "reply", "read more", "weiterlesen", "mehr", "posted",
    "published", "veröffentlicht", "updated", "author", "related", "tags?:", "categor", "kategorie", "previous",
    "next", "zurück", "follow", "facebook", "twitter", "instagram", "e-?mail", "print", "drucken", "teilen",
    "kommentar", "alle rechte", "advert", "anzeige", "sponsor", "download", "search", "suche", "menu", "home",
    "contact", "kontakt", "powered by", "lire aussi", "partager", "commentaire", "abonne", "leer más", "compartir",
    "comentario", "suscr", "leggi anche", "condividi", "подпис", "коммент", "поделиться", "czytaj", "udostępnij",
    "komentarz"))
_find_phrase = PHRASES.search
_SHORT = 200



@lru_cache(maxsize=1)
def _character_kinds() -> npt.NDArray[np.uint8]:
    """The bits of each character of the basic plane."""
    table = np.zeros(_BEYOND + 1, dtype=np.uint8)
    for code in range(_BEYOND):
        letter = chr(code)
        table[code] = (_DIGIT if letter.isdecimal() else 0) | (_UPPER if letter.isupper() else 0)
    for letters, bit in ((_PUNCTUATION, _MARK), (" ", _SPACE), (_ENDS, _TERMINAL), ("\n", _LINE)):
        for letter in letters:
            table[ord(letter)] |= bit
    return table


_LENGTHS = ("chars", "words", "word length", "punctuation", "punctuation share", "link share", "links", "digit share",
            "ends a sentence", "starts upper", "phrase", "lines", "no chars in links")
_PLACES = ("position", "text before", "after the first h1", "blocks after the first h1", "before any h1")
_AROUND = tuple(f"{what} of {where}" for where in ("element", "parent", "grandparent")
                for what in ("chars", "link share", "blocks", "chars a block", "share of the page's text"))
_DENSE = tuple(f"{what} {where}" for where in ("the densest element", "the strictly densest element", "the best run")
               for what in ("in", "before", "after", "share of"))
_PAGE = ("page chars", "page blocks", "page link share", "page text share")
_SAME = ("same element as before", "same element as after", "same parent as before", "same parent as after")
NAMES: tuple[str, ...] = (
    *_LENGTHS, *_PLACES, *_AROUND, *_DENSE, *_PAGE, *_SAME, *(f"kind {kind}" for kind in KINDS),
    *(f"{flag} on {where}" for where in ("element", "parents", "ancestors") for flag in FLAGS))
_BITS = np.arange(len(FLAGS), dtype=np.int64)
_H1, _HEADINGS = KIND["h1"], tuple(KIND[f"h{level}"] for level in range(1, 7))
# A character of text against one of links or of stray lines, when the densest element is sought.
PENALTIES = (1.0, 3.0)
_STRAY = 20.0


def features(page: Page, chars: list[int]) -> Floats:
    """(blocks, len(NAMES)) of what is known of every block; `chars` holds the length of each text."""
    texts = page.texts
    count = len(texts)
    size = np.array(chars, dtype=np.float32)
    linked = np.array(page.linked, dtype=np.float32)
    links = np.array(page.links, dtype=np.float32)
    # All characters in one row; every count is a sum over the stretch of a block.
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    letters = _character_kinds().take(np.minimum(codes, _BEYOND))
    bounds = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(chars, out=bounds[1:])
    starts = bounds[:-1]
    spaces, punctuation, digits, lines = (
        np.diff(np.searchsorted(np.flatnonzero(letters & bit), bounds)).astype(np.float32)
        for bit in (_SPACE, _MARK, _DIGIT, _LINE))
    words = spaces + 1
    digits = np.where(size < _SHORT, digits, 0)
    ends = (letters[bounds[1:] - 1] & _TERMINAL) != 0
    upper = (letters[starts] & _UPPER) != 0
    phrase = [length < _SHORT and _find_phrase(text.lower()) is not None
              for text, length in zip(texts, chars, strict=True)]
    linked = np.minimum(linked, size)
    free = size - linked
    kinds = np.array(page.kinds)
    out = np.zeros((count, len(NAMES)), dtype=np.float32)
    out[:, 0] = np.log1p(size)
    out[:, 1] = np.log1p(words)
    out[:, 2] = np.minimum(size / words, 30) / 10
    out[:, 3] = np.log1p(punctuation)
    out[:, 4] = punctuation / size * 10
    out[:, 5] = linked / size
    out[:, 6] = np.log1p(links)
    out[:, 7] = digits / size
    out[:, 8], out[:, 9], out[:, 10] = ends, upper, phrase
    out[:, 11] = np.log1p(lines)
    out[:, 12] = np.log1p(free)
    column = len(_LENGTHS)

    # Good text: free of links, and either long or with the punctuation of sentences.
    good = np.where((punctuation >= 2) | (size >= 80), free, 0).astype(np.float32)
    sums = np.zeros((count + 1, 4), dtype=np.float32)
    stray = np.where(good > 0, 0, np.minimum(free, 40) + _STRAY)
    np.cumsum(np.stack((size, linked, good, stray), 1), axis=0, out=sums[1:])
    total = max(float(sums[-1, 0]), 1.0)
    total_good = max(float(sums[-1, 2]), 1.0)
    order = np.arange(count, dtype=np.float32)
    out[:, column] = order / count
    out[:, column + 1] = sums[:-1, 2] / total_good
    heads = np.flatnonzero(kinds == _H1)
    if len(heads):
        out[:, column + 2] = order >= heads[0]
        out[:, column + 3] = np.log1p(np.maximum(order - heads[0], 0))
        out[:, column + 4] = order < heads[0]
    column += len(_PLACES)

    element = np.array(page.element)
    parents = np.array(page.parent)
    span = np.array((page.first, page.last))
    inside = sums[span[1]] - sums[span[0]]
    blocks = np.maximum(span[1] - span[0], 1).astype(np.float32)
    about = np.stack((np.log1p(inside[:, 0]), inside[:, 1] / np.maximum(inside[:, 0], 1), np.log1p(blocks),
                      np.log1p(inside[:, 0] / blocks), inside[:, 2] / total_good), 1)
    parent = parents[element]
    grandparent = parents[parent]
    for where in (element, parent, grandparent):
        out[:, column:column + 5] = about[where]
        column += 5

    for penalty in PENALTIES:
        value = inside[:, 2] - penalty * (inside[:, 1] + inside[:, 3])
        # Of equals the innermost, which starts last.
        top = len(value) - 1 - int(np.argmax(value[::-1]))
        _place(out, column, order, int(span[0, top]), int(span[1, top]), inside[top, 2] / total_good)
        column += 4
    gain = np.zeros(count + 1, dtype=np.float32)
    np.cumsum(good - linked - np.where(good > 0, 0, _STRAY), out=gain[1:])
    lowest = np.minimum.accumulate(gain)
    end = int(np.argmax(gain - lowest))
    begin = int(np.argmin(gain[:end + 1]))
    _place(out, column, order, begin, end, (sums[end, 2] - sums[begin, 2]) / total_good)
    column += 4

    out[:, column] = np.log1p(total)
    out[:, column + 1] = np.log1p(count)
    out[:, column + 2] = sums[-1, 1] / total
    out[:, column + 3] = total_good / total
    column += len(_PAGE)
    if count > 1:
        out[1:, column] = out[:-1, column + 1] = element[1:] == element[:-1]
        out[1:, column + 2] = out[:-1, column + 3] = parent[1:] == parent[:-1]
    column += len(_SAME)
    out[np.arange(count), column + kinds] = 1
    column += len(KINDS)
    own = np.array(page.own)
    inherited = np.array(page.flags)
    for bits in (own[element], own[parent] | own[grandparent], inherited[element]):
        out[:, column:column + len(FLAGS)] = (bits[:, None] >> _BITS) & 1
        column += len(FLAGS)
    return out


def _place(out: Floats, column: int, order: Floats, begin: int, end: int, share: float) -> None:
    """Where each block stands to the blocks `begin` to `end`."""
    out[begin:end, column] = 1
    out[:, column + 1] = np.log1p(np.maximum(begin - order, 0))
    out[:, column + 2] = np.log1p(np.maximum(order - (end - 1), 0))
    out[:, column + 3] = share
