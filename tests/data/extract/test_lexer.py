"""Tags read in short against tags read in full."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gristmill.data.extract import tags
from gristmill.data.extract.lexer import NOTHING, Tags, inline_tag
from gristmill.data.extract.tags import CONTAINERS, DROPPED, RAW_TEXT, VOID, WORD_FLAGS, word_flags

NAMES = sorted({*CONTAINERS, *DROPPED, *RAW_TEXT, *VOID, "a", "b", "span", "button", "br", "hr", "code", "body", "html",
                "option", "x-y", "P", "Div"})
ATTRIBUTES = st.sampled_from([
    "", "/", ' class="nav side"', " class='comment'", " CLASS=footer", ' id="x" class="main-menu item-12"', ' href="#"',
    " hidden", " HIDDEN", ' data-hidden="1"', ' style="display:none"', ' style="display: block"', ' title="a > b"',
    " title='it''s'", ' onclick="f(\'x\')"', ' data-id="widget"', ' xclass="nav"', ' role="navigation"', ' t="',
    " t='", '"', "'", "\nclass=nav", ' class = "nav"', ' hidden="until-found"', ' aria-hidden="true"'])


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(NAMES), st.lists(ATTRIBUTES, max_size=3).map("".join), st.booleans())
@example("a", ' href="x" title=\'a"b\'', False)
def test_quick_equals_read(name: str, attributes: str, ending: bool) -> None:
    head = ("/" if ending else "") + name + attributes
    if ">" in head:
        head = head.partition(">")[0]
    quick = Tags("").quick(head)
    tag, seen, text, at = Tags("").read(head + ">text", 0)
    if quick is not None:
        assert (tag, seen, text, at) == (quick, head, "text", 0)
    if tag is NOTHING:
        assert inline_tag(head)[2] not in CONTAINERS
    assert Tags("").known.get(head, tag) == tag


@settings(deadline=None)
@given(st.lists(st.sampled_from(["nav", "ads", "ad", "menu", "item", "12", "side", "Bar", "-", "_", " ", "bio", "é"]),
                max_size=8).map("".join))
def test_what_names_say_is_remembered_rightly(names: str) -> None:
    """Whatever was read before, a name says what it says in a fresh process."""
    tags.forget()
    fresh = word_flags(f' class="{names.lower()}"')
    assert word_flags(f" class='{names.lower()}' id=\"zzz\"") == fresh
    for one in names.split():
        word_flags(f' id="{one.lower()}-2"')
    assert word_flags(f' class="{names.lower()}"') == fresh


def test_names_stand_as_words_or_inside() -> None:
    def flags(names: str) -> set[str]:
        return {name for name, bit in WORD_FLAGS.items() if word_flags(f' class="{names}"') & bit}

    assert flags("sidebar") == {"side"}
    assert flags("menu-item-7") == flags("menu-item-1234") == {"navigation"}
    assert flags("ads") == flags("x-ad-2") == {"advert"}
    assert not flags("shadow") | flags("ads2") | flags("biology")
    assert flags("author-bio") == {"meta"}
    assert not word_flags(' data-subclass="nav" title="nav"')
    assert word_flags(' data-id="nav"') == WORD_FLAGS["navigation"]
