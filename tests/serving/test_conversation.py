from __future__ import annotations

import pytest

from gristmill.serving.studio.conversation import Conversation, Reply, Turn


def letters(messages: list[dict[str, str]]) -> list[int]:
    return [0] * sum(len(m["content"]) for m in messages)


def talk(*pairs: tuple[str, str]) -> Conversation:
    conversation = Conversation()
    for question, answer in pairs:
        conversation.turns.append(Turn(question, [Reply(answer)] if answer else []))
    return conversation


def test_the_oldest_turns_go_first_and_the_system_prompt_stays() -> None:
    conversation = talk(("a" * 30, "b" * 30), ("c" * 30, "d" * 30), ("e" * 10, ""))
    conversation.options.system = "s" * 5
    messages, ids, left_out = conversation.fitted(conversation.turns[-1], letters, 110)
    assert left_out == 1
    assert [m["content"][0] for m in messages] == ["s", "c", "d", "e"]
    assert len(ids) == 75
    assert conversation.fitted(conversation.turns[-1], letters, 500)[2] == 0


def test_a_question_that_cannot_fit_is_refused() -> None:
    conversation = talk(("a" * 100, ""))
    with pytest.raises(ValueError, match="100 tokens"):
        conversation.fitted(conversation.turns[0], letters, 110)


def test_only_the_shown_answer_is_remembered() -> None:
    conversation = talk(("a", "first"), ("b", ""))
    turn = conversation.turns[0]
    turn.ask_again().text = "second"
    assert conversation.messages(conversation.turns[1])[1]["content"] == "second"
    turn.shown = 0
    assert conversation.messages(conversation.turns[1])[1]["content"] == "first"
