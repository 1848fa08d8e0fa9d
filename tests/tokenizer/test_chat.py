"""Conversations: exact masks, no injection, the same ids in training and serving, templates that cannot misbehave."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.core.errors import UserError
from gristmill.tokenizer import Tokenizer
from gristmill.tokenizer.train import SPECIAL_TOKENS
from tests.shared import comes_to_an_end

CONTENT = st.lists(
    st.one_of(st.sampled_from([*SPECIAL_TOKENS, "<|", "\n", "\n\n", " ", "|>", "{{ x }}", "hello", "\ue000"]),
              st.text(st.characters(codec="utf-8"), max_size=5)),
    max_size=6,
).map("".join)
TURNS = st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3)

CHATML = (
    "{% for message in messages %}{{'<|user|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
"""The form of ChatML: a role in plain text, new lines beside the content, one after the end of a turn."""


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return Tokenizer(tokenizer._marked.to_str(), {**tokenizer.config, "chat_template": template})


def conversation(turns):
    return [{"role": role, "content": content} for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)]


@pytest.mark.parametrize("template", [None, CHATML])
@settings(max_examples=150, deadline=None)
@given(turns=TURNS)
def test_mask_is_the_answers_and_prompts_are_prefixes(tokenizer, template, turns):
    if template:
        tokenizer = with_template(tokenizer, template)
    messages = conversation(turns)
    ids, mask = tokenizer.encode_chat_with_mask(messages)
    assert ids == tokenizer.encode_chat(messages, add_generation_prompt=False)
    assert tokenizer.decode(ids) == tokenizer.render_chat(messages, add_generation_prompt=False)
    learnt = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if own])
    assert learnt == "".join(answer + "<|end|>" for _, answer in turns)
    assert ids.count(tokenizer.end_of_turn_id) == len(messages)  # none comes from what a message says
    if template is None:
        assert ids.count(tokenizer.bos_id) == 1
        assert ids[0] == tokenizer.bos_id
        assert set(ids) & tokenizer.special_ids == {1, 4, 5, 6}
    for i in range(1, len(messages), 2):  # serving asks with exactly the ids that training had before the answer
        prompt = tokenizer.encode_chat(messages[:i], add_generation_prompt=True)
        assert ids[:len(prompt)] == prompt
        assert not any(mask[len(prompt) - 1:len(prompt)])
        assert mask[len(prompt)]


def test_a_template_that_rewrites_history_cannot_be_trained_on(tokenizer):
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}"
        "<|assistant|>{{ m.content.split('>')[-1] }}<|end|>{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}")
    tokenizer = with_template(tokenizer, template)
    messages = conversation([("a", "thought>b"), ("c", "d")])
    with pytest.raises(UserError, match=r"messages\[1\].*no prefix"):
        tokenizer.encode_chat_with_mask(messages)
    assert tokenizer.decode(tokenizer.encode_chat(messages[:3], add_generation_prompt=True)) == (
        "<|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>")
    assert tokenizer.encode_chat_with_mask(messages[:2])[1][-1] == 1


def test_a_template_that_reads_special_names_is_refused_rather_than_fooled(tokenizer):
    template = ("{% for m in messages %}{{ '<|' + m.role + '|>' }}"
                "{{ 'X' if '<|eos|>' in m.content else m.content }}<|end|>{% endfor %}")
    tokenizer = with_template(tokenizer, template)
    with pytest.raises(UserError, match="name of a special token"):
        tokenizer.encode_chat([{"role": "user", "content": "<|eos|>"}], add_generation_prompt=False)


def test_the_generation_tag_and_json_of_public_templates(tokenizer):
    template = ("{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}<|end|>"
                "{% if loop.first %}{% continue %}{% endif %}{% endfor %}{{ strftime_now is defined }}")
    text = with_template(tokenizer, template).render_chat(
        [{"role": "user", "content": "<é>"}], add_generation_prompt=False)
    assert text == '{"role": "user", "content": "<é>"}<|end|>False'


@pytest.mark.parametrize("template", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in messages %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
    "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{{ 'a' * 1000000000 }}",
    "{{ 9 ** 99999999 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{% set n = namespace(s='abcdefgh') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s='abcdefgh') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s.replace('a', n.s) %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s|replace('a', n.s) %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s|join(n.s) %}{% endfor %}",
    "{{ messages | tojson(indent=100000000) }}",
    "{{ 'a\n' | indent(1000000000) }}",
    "{{ raise_exception('no') }}",
    "{{ messages[5]['content'] }}",
    "{% include 'secret' %}",
])
def test_a_hostile_template_ends_with_an_error(tokenizer, template):
    broken = with_template(tokenizer, template)
    with comes_to_an_end(), pytest.raises(UserError, match="chat template"):
        broken.render_chat([{"role": "user", "content": "x"}], add_generation_prompt=False)


@pytest.mark.parametrize("template", ["{% for %}", "{{ lipsum() | random }}", "x" * 300_000, "{{ 'a' | center(9) }}"])
def test_a_template_that_is_no_template_is_refused(tokenizer, template):
    with pytest.raises(UserError, match="chat template"):
        with_template(tokenizer, template).render_chat([{"role": "user", "content": "x"}], add_generation_prompt=False)


@pytest.mark.parametrize(("messages", "message"), [
    ([], "at least one message"),
    ("hello", "at least one message"),
    ([{"content": "x"}], r"messages\[0\].role"),
    ([{"role": "user|><|end", "content": "x"}], "is no role"),
    ([{"role": "wizard", "content": "x"}], "unknown role wizard"),
    ([{"role": "user", "content": "x"}, {"role": "user"}], r"messages\[1\].content"),
    ([{"role": "user", "content": "\ud800"}], "surrogate"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "only parts of text"),
])
def test_messages_that_are_none(tokenizer, messages, message):
    with pytest.raises(UserError, match=message):
        tokenizer.encode_chat(messages, add_generation_prompt=True)


def test_parts_of_text_are_joined(tokenizer):
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    whole = [{"role": "user", "content": "ab"}]
    assert tokenizer.encode_chat(parts, add_generation_prompt=True) == tokenizer.encode_chat(
        whole, add_generation_prompt=True)


def test_no_answer_or_no_template_is_an_error(tokenizer):
    with pytest.raises(UserError, match="no answer"):
        tokenizer.encode_chat_with_mask([{"role": "user", "content": "x"}])
    bare = Tokenizer(tokenizer._marked.to_str(), {k: v for k, v in tokenizer.config.items() if k != "chat_template"})
    assert bare.end_of_turn_id is None
    with pytest.raises(UserError, match="no chat template"):
        bare.render_chat([{"role": "user", "content": "x"}], add_generation_prompt=True)
