"""What a model answered: the text in it, and whether it is one."""

from __future__ import annotations

import re

from gristmill.core.writer import Answer

_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>\s*", re.DOTALL)
_PREFACE = re.compile(r"\A(?:sure|certainly|of course|okay|ok|here(?:'s| is| are))\b[^\n]{0,160}:[ \t]*\n+",
                      re.IGNORECASE)
_FENCE = re.compile(r"\A```[a-z]*\n(.*)\n```\Z", re.DOTALL)
_REFUSALS = re.compile(
    r"\A\W{0,3}(?:i(?:'m| am) (?:very |really )?sorry,? but|sorry,? (?:but )?i|i (?:can(?:no|')t|can not|am unable to|"
    r"won't|will not) (?:help|assist|comply|fulfil|provide|create|generate|do|paraphrase|rewrite|translate|continue)|"
    r"i(?:'m| am) (?:not able|unable) to|as an ai\b|unfortunately, i can(?:no|')t)", re.IGNORECASE)


def text_of(answer: str) -> str:
    """The answer without a thought before it, without a phrase like `Here is the text:`, and out of a code fence."""
    text = _THOUGHT.sub("", answer).strip()
    text = _PREFACE.sub("", text).strip()
    fenced = _FENCE.match(text)
    return fenced[1].strip() if fenced and "```" not in fenced[1] else text


def problem(answer: Answer, original: str) -> tuple[str, str] | None:
    """(reason, detail) if the answer holds no text to go on with. original: the text that was asked about."""
    if answer.finish == "failed":
        return "no_answer", answer.detail
    if answer.finish == "does_not_fit":
        return "does_not_fit", answer.detail or "the prompt is too long for the model"
    if answer.finish == "refused":
        return "refused", answer.detail
    if answer.finish == "length":
        return "cut_off", f"the answer was cut after {answer.completion_tokens} tokens; raise max_tokens"
    text = text_of(answer.text)
    if not text:
        return "empty", "the model answered nothing"
    if _REFUSALS.match(text.replace("’", "'")) and not _REFUSALS.match(original.strip().replace("’", "'")):
        return "refused", text[:200]
    return None
