"""Prompts: templates with `{text}` and `{language}` and nothing else, names of languages, the built-in styles."""

from __future__ import annotations

import string

from gristmill.core.config import require

FIELDS = ("text", "language")

PARAPHRASE = ("Say the following text in other words, in {language}. Keep what it means and every fact, name and "
              "number in it; change the wording and the build of the sentences. Answer with the new text and nothing "
              "else.\n\n{text}")
TRANSLATE = ("Translate the following text into {language}. Keep its meaning, its tone and its paragraphs. Answer with "
             "the translation and nothing else.\n\n{text}")
STYLES = {
    "encyclopedia": "Write the content of the following text as an article of an encyclopedia such as Wikipedia would "
                    "put it: factual, neutral, well ordered, in {language}. Add nothing that the text does not say. "
                    "Answer with the article and nothing else.\n\n{text}",
    "question_answer": "Turn the following text into questions and answers that together hold all that it says, in "
                       "{language}. Write each as a line that begins with `Question:` and a line that begins with "
                       "`Answer:`. Answer with them and nothing else.\n\n{text}",
    "easy": "Write the content of the following text for a child: short sentences, simple words, in {language}. Leave "
            "no fact out. Answer with the new text and nothing else.\n\n{text}",
    "textbook": "Write a section of a textbook in {language} that teaches what the following text is about: explain "
                "the terms, go from the simple to the difficult, give an example. Answer with the section and nothing "
                "else.\n\n{text}",
    "story": "Write a short story in {language} in which the content of the following text comes up naturally. Answer "
             "with the story and nothing else.\n\n{text}",
}
"""After WRAP (Maini et al. 2024, "Rephrasing the Web", styles `wikipedia`, `question and answer`, `easy`) and
Cosmopedia (Ben Allal et al. 2024: textbooks and stories with a web text as seed)."""

LANGUAGES = {
    "af": "Afrikaans", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali",
    "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "ga": "Irish", "gl": "Galician", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian",
    "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese",
    "ka": "Georgian", "kk": "Kazakh", "ko": "Korean", "la": "Latin", "lt": "Lithuanian", "lv": "Latvian",
    "mk": "Macedonian", "mr": "Marathi", "ms": "Malay", "nb": "Norwegian", "nl": "Dutch", "no": "Norwegian",
    "pa": "Punjabi", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovene", "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil",
    "te": "Telugu", "th": "Thai", "tl": "Tagalog", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu",
    "vi": "Vietnamese", "zh": "Chinese",
}
"""ISO 639-1 codes -> names as a prompt says them."""


def language_name(code: str) -> str:
    """The language's English name; what is undetermined is "the language of the text"."""
    return LANGUAGES.get(code, "the language of the text" if code in ("und", "") else code)


def check_template(template: str, field: str) -> None:
    """ValueError unless the template has {text} once, and besides it nothing in braces but {language}."""
    try:
        found = [(name, form, conversion) for _, name, form, conversion in string.Formatter().parse(template)
                 if name is not None]
    except ValueError as error:
        raise ValueError(f"{field}: {error}; write braces that are meant as such twice") from None
    names = [name for name, _, _ in found]
    require(all(name in FIELDS and not form and not conversion for name, form, conversion in found), field,
            "may hold {text} and {language} only; write braces that are meant as such twice")
    require(names.count("text") == 1, field, "needs {text} once")


def filled(template: str, text: str, language: str) -> str:
    """The prompt: values are put in once, so braces in a text mean nothing."""
    values = {"text": text, "language": language}
    return "".join(literal + (values[name] if name else "")
                   for literal, name, _, _ in string.Formatter().parse(template))
