"""Signal `language_v1`: the natural language of a text, by the eldc detector (its models are in its wheel)."""

from __future__ import annotations

from gristmill.core.errors import MachineError

UNDETERMINED = "und"
_SAMPLE = 4000
_ready = False


def language_v1(text: str) -> str:
    """ISO 639-1 code of the language, judged by the first 4000 characters; "und" if there is nothing to judge by.

    Raises MachineError if the detector is not installed.
    """
    global _ready
    try:
        import eldc
    except ImportError as error:
        raise MachineError(
            "the language detector `eldc` is not installed", where="languages: detect",
            fix="pip install eldc, or set `languages: none` in the data stage, or `language:` on each source",
        ) from error
    if not _ready:
        eldc.init()
        _ready = True
    return eldc.detect(text[:_SAMPLE]) or UNDETERMINED
