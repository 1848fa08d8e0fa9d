"""Conversations as token ids: the chat template, what it may do, and which tokens are the assistant's.

Three promises. Text of a message never becomes a special token. Training and serving see the same ids. A template
from a foreign model can neither reach Python nor run without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gristmill.core.errors import UserError
from gristmill.tokenizer.sandbox import Template

if TYPE_CHECKING:
    from gristmill.tokenizer.tokenizer import Tokenizer

DEFAULT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' ~ message['role'] ~ ': use system, user or assistant') }}{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Every message stands between two special tokens, with nothing else: no merge can straddle its border."""


class ChatTemplate:
    """One Jinja chat template with the special tokens that it may name.

    `strftime_now` is left undefined, so that a conversation has the same ids tomorrow; templates then take their
    fixed date. Raises UserError for a template that cannot be parsed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source, self.special_tokens = source, dict(special_tokens)
        self._template = Template(source)

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """The conversation as text. Raises UserError where the template refuses it or breaks a limit."""
        return self._template.render({
            **self.special_tokens, "messages": messages, "add_generation_prompt": add_generation_prompt,
            "tools": None, "documents": None})


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """The tokenizer's chat template; a UserError where it has none."""
    if tokenizer.chat_template is None:
        raise UserError("this tokenizer has no chat template",
                        fix="use plain completion, or add a chat_template to its tokenizer_config.json")
    return tokenizer.chat_template


def checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with plain text as content. Lists of text parts are joined; anything else is a UserError."""
    if isinstance(messages, (str, Mapping)) or not messages:
        raise UserError("a conversation needs at least one message", where="messages",
                        fix='give a list such as [{"role": "user", "content": "..."}]')
    result = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise UserError("a message is a mapping with role and content", where=where)
        role, content = message.get("role"), message.get("content")
        # The role is pasted into the names of special tokens by many templates.
        if not isinstance(role, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", role):
            raise UserError(f"{role!r} is no role", where=f"{where}.role", fix="use system, user or assistant")
        if isinstance(content, (list, tuple)):
            if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
                raise UserError("only parts of text are understood", where=f"{where}.content")
            content = "".join(part["text"] for part in content)
        if content is None and message.get("tool_calls"):
            content = ""
        if not isinstance(content, str):
            raise UserError("the content is no text", where=f"{where}.content")
        if any("\ud800" <= letter <= "\udfff" for letter in content):
            raise UserError("the content holds a lone surrogate, which is no valid Unicode", where=f"{where}.content")
        result.append({**message, "content": content})
    return result


def encode(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> list[int]:
    """See `Tokenizer.encode_chat`."""
    return _Conversation(tokenizer, checked(messages), add_generation_prompt).ids


def encode_with_mask(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """See `Tokenizer.encode_chat_with_mask`."""
    conversation = _Conversation(tokenizer, checked(messages), add_generation_prompt=False)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise UserError("the conversation has no answer of the assistant, so there is nothing to learn from it")
    mask = [0] * len(conversation.ids)
    for i in answers:
        if i not in conversation.spans:
            raise UserError(
                f"the chat template writes the text before an answer in another way once the answer is there "
                f"({conversation.unstable[i]})",
                where=f"messages[{i}]", fix="train on conversations that end with this answer, or use another template")
        start, end = (conversation.positions[position] for position in conversation.spans[i])
        end = start + _turn_length(tokenizer, conversation.ids[start:end])
        if start == end:
            raise UserError("the chat template writes nothing for this answer", where=f"messages[{i}]",
                            fix="use a template that writes the content of every message")
        mask[start:end] = [1] * (end - start)
    return conversation.ids, mask


def find_end_of_turn(tokenizer: Tokenizer) -> int | None:
    """The special token with which the template closes an answer, found by rendering a small conversation."""
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        ids, mask = encode_with_mask(tokenizer, probe)
    except UserError:
        return None
    last = [token for token, own in zip(ids, mask, strict=True) if own][-1]
    return last if last in tokenizer.special_ids else None


def _turn_length(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """Tokens of a turn up to its last special token, where only white space follows that one (as in ChatML)."""
    last = max((i for i, token in enumerate(ids) if token in tokenizer.special_ids), default=None)
    if last is None or tokenizer.decode(ids[last + 1:]).strip():
        return len(ids)
    return last + 1


class _Conversation:
    """A rendered conversation and its ids, built so that the ids up to an answer do not depend on the answer.

    spans: message number -> (start, end) of an answer in the text. positions: the same places in the ids.
    """

    def __init__(self, tokenizer: Tokenizer, messages: list[dict[str, Any]], add_generation_prompt: bool) -> None:
        self.tokenizer, self.template = tokenizer, template_of(tokenizer)
        self.mark, marked = _mark_specials(tokenizer, messages, self.template.source)
        self.text = self.template.render(marked, add_generation_prompt=add_generation_prompt)
        if self.mark and self.text.replace(self.mark, "") != self.template.render(
            messages, add_generation_prompt=add_generation_prompt
        ):
            raise UserError("a message holds the name of a special token, and the chat template treats it as such",
                            fix="remove it from the message")
        self.spans: dict[int, tuple[int, int]] = {}
        self.unstable: dict[int, str] = {}
        for i, message in enumerate(marked):
            if message["role"] == "assistant":
                self._find(marked, i)
        cuts = {cut for span in self.spans.values() for cut in span} | {len(self.text)}
        self.ids, self.positions = self._encode(sorted(cuts))

    def _find(self, messages: list[dict[str, Any]], i: int) -> None:
        try:
            before = self.template.render(messages[:i], add_generation_prompt=True)
            through = self.template.render(messages[:i + 1], add_generation_prompt=False)
        except UserError as error:
            self.unstable[i] = error.what
            return
        if self.text.startswith(through) and through.startswith(before):
            self.spans[i] = (len(before), len(through))
        else:
            self.unstable[i] = "the conversation up to there is no prefix of the whole"

    def _encode(self, cuts: list[int]) -> tuple[list[int], dict[int, int]]:
        """Ids of the text, and how many of them lie before each cut.

        Text is encoded in one piece wherever the ids before a cut come out the same without what follows; else
        it is cut there. So the ids before a cut depend on the text before it alone.
        """
        done: list[int] = []
        ids: list[int] = []
        base = last = 0
        positions = {}
        for cut in cuts:
            longer = self._encode_text(self.text[base:cut])
            if longer[:len(ids)] != ids:
                done, base, longer = done + ids, last, self._encode_text(self.text[last:cut])
            ids, last = longer, cut
            positions[cut] = len(done) + len(ids)
        return done + ids, positions

    def _encode_text(self, text: str) -> list[int]:
        backend = self.tokenizer._marked
        if not self.mark or self.mark not in text:
            return backend.encode(text, add_special_tokens=False).ids
        # Special tokens are found with the marks in the text, the rest is encoded without them.
        found = backend.encode(text, add_special_tokens=False)
        ids: list[int] = []
        last = 0
        for token, (start, end) in zip(found.ids, found.offsets, strict=True):
            if token in self.tokenizer.special_ids:
                ids += [*self.tokenizer.encode(text[last:start].replace(self.mark, "")), token]
                last = end
        return ids + self.tokenizer.encode(text[last:].replace(self.mark, ""))


def _mark_specials(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], template: str
) -> tuple[str, list[dict[str, Any]]]:
    """Break every special token's name inside a message with a character that occurs nowhere else.

    Gives the character ("" where no message holds such a name) and the messages to render.
    """
    names = [name for name in (tokenizer.token_name(i) for i in sorted(tokenizer.special_ids)) if name]
    if not names:
        return "", messages
    begins = re.compile(f"(?=(?:{'|'.join(map(re.escape, names))}))(.)", re.DOTALL)
    texts = list(_texts(messages))
    if not any(begins.search(text) for text in texts):
        return "", messages
    if any(len(name) == 1 and name in text for name in names for text in texts):
        raise UserError("a message holds a character that is a special token of this tokenizer")
    used = set().union(template, *texts)
    mark = next(chr(code) for code in (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE)) if chr(code) not in used)
    return mark, [
        {key: value if key == "role" else _replace(value, lambda t: begins.sub(lambda m: m[1] + mark, t))
         for key, value in message.items()}
        for message in messages
    ]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _replace(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _replace(item, change) for key, item in value.items()}
    return [_replace(item, change) for item in value] if isinstance(value, (list, tuple)) else value
