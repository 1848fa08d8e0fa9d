"""Templates that stand for a few words of a sentence, as these words; all others are left out of the text.

A template is a program of its wiki, so what it prints cannot be known from a page. These few are common inside of
sentences, and leaving them out would leave holes ("a height of , first built in"). Names of the English Wikipedia,
which many others took over.
"""

from __future__ import annotations

from collections.abc import Callable

Arguments = dict[str, str]
"""Positional arguments as "1", "2", ...; named ones by their names."""

_RANGE = {"to": "to", "to(-)": "to", "and": "and", "and(-)": "and", "or": "or", "by": "by", "x": "×", "×": "×",
          "-": "–", "–": "–", "+/-": "±", "±": "±", "*": "×"}


def _take(*names: str) -> Callable[[Arguments], str]:
    """The first of these arguments that is there."""
    return lambda given: next((given[name] for name in names if given.get(name)), "")


def _fixed(text: str) -> Callable[[Arguments], str]:
    return lambda given: text


def _before(mark: str) -> Callable[[Arguments], str]:
    return lambda given: mark + given["1"] if given.get("1") else ""


def _last(given: Arguments) -> str:
    number = 1
    while str(number + 1) in given:
        number += 1
    return given.get(str(number), "")


def _convert(given: Arguments) -> str:
    words, number = [given.get("1", "")], 2
    while (mark := _RANGE.get(given.get(str(number), ""))) and str(number + 1) in given:
        words += [mark, given[str(number + 1)]]
        number += 2
    return " ".join([*words, given.get(str(number), "")]).strip()


def _fraction(given: Arguments) -> str:
    one, two, three = (given.get(name, "") for name in "123")
    return f"{one} {two}/{three}" if three else f"{one}/{two}" if two else f"1/{one}" if one else ""


def _value(given: Arguments) -> str:
    number = given.get("1", "") + (f"×10^{given['e']}" if given.get("e") else "")
    return " ".join(part for part in (number, given.get("u") or given.get("ul") or "") if part)


def _as_of(given: Arguments) -> str:
    start = "since" if given.get("since") else "as of" if given.get("lc") else "As of"
    date = [given[name] for name in ("3", "2", "1") if given.get(name)]
    months = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
              "November", "December")
    if len(date) > 1 and date[-2].isdecimal() and 1 <= int(date[-2]) <= 12:
        date[-2] = months[int(date[-2]) - 1]
    return f"{start} {' '.join(date)}" if date else ""


def _nihongo(given: Arguments) -> str:
    inside = ", ".join(given[name] for name in ("2", "3") if given.get(name))
    english = given.get("1", "")
    return f"{english} ({inside})" if english and inside else english or inside


def _ship(given: Arguments, *, navy: str) -> str:
    return f"{navy} {given['1']}" if given.get("1") else ""


_RULES: dict[str, Callable[[Arguments], str]] = {
    **dict.fromkeys(("nowrap", "nobr", "nobold", "noitalic", "abbr", "abbrlink", "tooltip", "small", "smaller", "big",
                     "larger", "em", "strong", "sc", "smallcaps", "sup", "sub", "math", "mvar", "var", "mono", "code",
                     "tt", "kbd", "samp", "var serif", "linktext", "vanchor", "visible anchor", "gaps", "resize",
                     "flag", "flagcountry", "flagu", "first word", "angbr", "grapheme", "poem", "script", "not a typo",
                     "as written", "sic", "midsize", "italics correction", "hair space"), _take("1")),
    **dict.fromkeys(("quote", "blockquote", "cquote", "quotation", "bq", "rquote", "poemquote"),
                    _take("1", "text", "quote")),
    **dict.fromkeys(("lang", "langx", "lang-x2", "text-lang", "rtl-lang", "coloredlink", "color", "fontcolor",
                     "zh-lang"), _take("2", "text")),
    **dict.fromkeys(("transl", "transliteration", "tlit"), _last),
    **dict.fromkeys(("convert", "cvt", "convinfobox"), _convert),
    **dict.fromkeys(("frac", "sfrac", "fraction"), _fraction),
    **dict.fromkeys(("nbsp", "space", "spaces", "nbs", "thin space", "thinsp"), _fixed(" ")),
    **dict.fromkeys(("snd", "spnd", "sndash", "spaced ndash", "spaced en dash", "dash"), _fixed(" – ")),
    **dict.fromkeys(("ndash", "en dash", "–", "nsndns"), _fixed("–")),
    **dict.fromkeys(("mdash", "em dash", "spaced mdash", "—"), _fixed("—")),
    **dict.fromkeys(("circa", "c.", "ca", "ca."), _before("c. ")),
    **dict.fromkeys(("ill", "interlanguage link", "link-interwiki"), _take("lt", "1", "en")),
    **dict.fromkeys(("nihongo", "nihongo2", "nihongo3"), _nihongo),
    "val": _value, "as of": _as_of, "!": _fixed("|"), "=": _fixed("="), "'": _fixed("'"), "pi": _fixed("π"),
    "us$": _before("US$"), "usd": _before("US$"), "gbp": _before("£"), "£": _before("£"), "euro": _before("€"),
    "€": _before("€"), "inr": _before("₹"), "yen": _before("¥"), "¥": _before("¥"),
    "uss": lambda given: _ship(given, navy="USS"), "hms": lambda given: _ship(given, navy="HMS"),
    "ss": lambda given: _ship(given, navy="SS"), "hmas": lambda given: _ship(given, navy="HMAS"),
}

DISAMBIGUATION = frozenset((
    "disambiguation", "disambig", "dab", "hndis", "geodis", "human name disambiguation", "place name disambiguation",
    "surname", "given name", "school disambiguation", "airport disambiguation", "station disambiguation",
    "number disambiguation", "letter-number combination disambiguation", "set index article", "mil-unit-dis",
    "begriffsklärung", "homonymie", "desambiguación", "disambigua", "desambiguação", "неоднозначность",
    "doorverwijspagina",
    "ujednoznacznienie", "förgrening", "rozcestník", "egyért", "aimai", "曖昧さ回避", "消歧义", "消歧義", "동음이의",
))
"""Names of templates by which pages say that they only list what a title may mean (twelve languages)."""


def words(name: str, given: Arguments) -> str:
    """What a template prints inside of a sentence; nothing if we do not know it."""
    rule = _RULES.get(name)
    if rule is None and name.startswith("lang-"):
        rule = _take("1")
    return rule(given).strip(" \n") or rule({}) if rule else ""
