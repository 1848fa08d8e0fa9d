import pytest

from gristmill.data.augment.prompts import PARAPHRASE, STYLES, TRANSLATE, check_template, filled, language_name


@pytest.mark.parametrize("template", [PARAPHRASE, TRANSLATE, *STYLES.values(), "{text}", "a {{b}} {text} {language}"])
def test_good_templates(template):
    check_template(template, "prompt")


@pytest.mark.parametrize("template", [
    "no text", "{text} {text}", "{text.__class__}", "{text!r}", "{text:>9}", "{0}", "{}", "{text[0]}", "{name} {text}",
    "{text", "text}", "{text:{language}}"])
def test_templates_that_are_refused(template):
    with pytest.raises(ValueError, match="prompt"):
        check_template(template, "prompt")


def test_braces_in_a_text_mean_nothing():
    assert filled("{{in}} {language}: {text}", "{language} {text.__class__} {{x}}", "German") == (
        "{in} German: {language} {text.__class__} {{x}}")


def test_names_of_languages():
    assert [language_name(code) for code in ("de", "und", "", "xx")] == [
        "German", "the language of the text", "the language of the text", "xx"]
