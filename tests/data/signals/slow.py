"""Our definitions of the signals once more, character by character and word by word: slow and obvious."""

import math
import re
import unicodedata
from collections import Counter

STOPS = ".!?…‼‽⁇⁈⁉⸮。！？｡．؟۔।॥։።፧។៕"
WIDE = "。！？｡．"
QUOTES = "\"'”’»」』"
CLOSERS = QUOTES + ")]}）"
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def entropy(things: object) -> float:
    counts = Counter(things)  # type: ignore[call-overload]
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if len(counts) > 1 else 0.0


def length(text: str) -> dict[str, float]:
    raw = [len(line) for line in text.split("\n") if line.strip()]
    words = text.split()
    return {
        "characters": len(text), "words": len(words), "lines": len(raw), "mean_line_length": ratio(sum(raw), len(raw)),
        "max_line_length": max(raw, default=0), "mean_word_length": ratio(sum(map(len, words)), len(words)),
    }


def symbols(text: str) -> dict[str, float]:
    words, lines = text.split(), lines_of(text)
    return {
        "hash_words": ratio(text.count("#"), len(words)),
        "ellipsis_words": ratio(text.count("...") + text.count("…"), len(words)),
        "alphabetic_words": ratio(sum(any(c.isalpha() for c in w) for w in words), len(words)),
        "bullet_lines": ratio(sum(line[0] in "-*•‣◦▪·–" for line in lines), len(lines)),
        "ellipsis_lines": ratio(sum(line.endswith(("...", "…")) for line in lines), len(lines)),
        "stop_words": len({w.lower().strip(".,;:!?\"'()") for w in words} & STOP_WORDS),
    }


def repetition(text: str) -> dict[str, float]:
    words, lines = text.split(), lines_of(text)
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    total = sum(map(len, words))
    values = {}
    for name, parts in (("line", lines), ("paragraph", paragraphs)):
        again = [part for place, part in enumerate(parts) if part in parts[:place]]
        values[f"duplicate_{name}s"] = ratio(len(again), len(parts))
        values[f"duplicate_{name}_characters"] = ratio(sum(map(len, again)), sum(map(len, parts)))
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if n < 5:
            best = 0
            for gram in {gram for gram, count in Counter(grams).items() if count > 1}:
                covered = {i + k for i, g in enumerate(grams) if g == gram for k in range(n)}
                best = max(best, sum(len(words[i]) for i in covered))
            values[f"top_{n}gram"] = ratio(best, total)
        else:
            covered = {i + k for i, gram in enumerate(grams) if gram in grams[:i] for k in range(n)}
            values[f"duplicate_{n}gram"] = ratio(sum(len(words[i]) for i in covered), total)
    return values


def unspaced(character: str) -> bool:
    return any(first <= character <= last for first, last in (
        ("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u3040", "\u30ff"), ("\u31f0", "\u31ff"),
        ("\u3400", "\u4dbf"), ("\u4e00", "\u9fff"), ("\uf900", "\ufaff"), ("\uff66", "\uff9f"),
        ("\U00020000", "\U0003ffff")))


def spoken(word: str) -> int:
    alone = sum(map(unspaced, word))
    return alone + any(c.isalnum() and not unspaced(c) for c in word) if alone else 1


def sentences(line: str) -> int:
    count, place, open_ = 0, 0, False
    while place < len(line):
        if line[place] in STOPS:
            wide = False
            while place < len(line) and line[place] in STOPS:
                wide |= line[place] in WIDE
                place += 1
            while place < len(line) and line[place] in CLOSERS:
                place += 1
            ends = wide or place == len(line) or line[place].isspace()
            count, open_ = (count + 1, False) if ends else (count, True)
        else:
            open_ |= not line[place].isspace()
            place += 1
    return count + open_


def gone(line: str, terminal: bool) -> list[str]:
    ends = (".", "!", "?", '"', "”", *(s for s in STOPS if s not in ".!?…"))
    low = line.lower()
    rules = {
        "unterminated": terminal and (not line.endswith(ends) or line.endswith("...")),
        "few_words": sum(map(spoken, line.split())) < 3, "long_word": any(len(w) > 1000 for w in line.split()),
        "javascript": "javascript" in low, "policy": any(phrase in low for phrase in POLICY),
    }
    return [name for name, yes in rules.items() if yes]


def c4(text: str) -> dict[str, float]:
    lines = lines_of(text)
    kept, any_end = ([line for line in lines if not gone(line, terminal)] for terminal in (True, False))
    names = ("unterminated", "few_words", "long_word", "javascript", "policy")
    return {
        **{f"{name}_lines": sum(name in gone(line, True) for line in lines) for name in names},
        "kept_lines": len(kept), "sentences": sum(map(sentences, kept)),
        "kept_lines_any_end": len(any_end), "sentences_any_end": sum(map(sentences, any_end)),
        "lorem_ipsum": text.lower().count("lorem ipsum"), "curly_brackets": text.count("{"),
    }


def fineweb(text: str) -> dict[str, float]:
    lines = lines_of(text)
    return {
        "punctuated_lines": ratio(sum(line.rstrip(QUOTES)[-1:] in tuple(STOPS) for line in lines), len(lines)),
        "short_lines": ratio(sum(len(line) < 30 for line in lines), len(lines)),
        "newline_words": ratio(text.count("\n"), len(text.split())),
    }


def characters(text: str) -> dict[str, float]:
    letters = [c for c in text if c.isalpha()]
    odd = [c for c in text if not c.isspace() and unicodedata.category(c)[0] not in "LNM"]
    return {
        "alphabetic": ratio(len(letters), len(text)), "digits": ratio(sum(map(str.isdecimal, text)), len(text)),
        "white_space": ratio(sum(map(str.isspace, text)), len(text)), "symbols": ratio(len(odd), len(text)),
        "upper_case": ratio(sum(map(str.isupper, letters)), len(letters)), "entropy": entropy(text),
    }


def words(text: str) -> dict[str, float]:
    found = text.split()
    return {
        "unique": ratio(len(set(found)), len(found)), "entropy": entropy(found),
        "stop_words": ratio(sum(w.lower().strip(".,;:!?\"'()") in STOP_WORDS for w in found), len(found)),
        "upper_case": ratio(sum(w.isupper() and sum(map(str.isalpha, w)) > 1 for w in found), len(found)),
        "longest": max(map(len, found), default=0),
    }


SLOW = {
    "length_v1": length, "gopher_symbols_v2": symbols, "gopher_repetition_v1": repetition, "c4_v1": c4,
    "fineweb_v1": fineweb, "characters_v1": characters, "words_v1": words,
}
