"""One turn on the page: the question, the shown answer, and what can be done with them."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING

from nicegui import events, ui

from gristmill.serving.studio.conversation import Turn
from gristmill.serving.studio.markup import render, render_question
from gristmill.serving.studio.widgets import button, tag, text, text_area

if TYPE_CHECKING:
    from gristmill.serving.studio.page import ChatPage


class TurnView:
    """Draws `turn`; every action is the page's."""

    def __init__(self, page: ChatPage, turn: Turn) -> None:
        self.page, self.turn = page, turn
        self.root = tag("article", "turn")
        with self.root:
            self.question = tag("div", "question")
            self.answer = tag("div", "answer", aria_label="Answer")
            with self.answer:
                self.body = ui.html("", sanitize=True).classes("prose")
                self.foot = tag("div", "foot")
        self.show_question()
        self.show_answer()

    def show_question(self) -> None:
        self.question.clear()
        with self.question:
            ui.html(render_question(self.turn.question), sanitize=True).classes("bubble")
            with tag("div", "question-actions"):
                button("Edit this message and ask again", "edit", self.edit, classes="quiet")
                button("Copy this message", "copy", lambda: copy(self.turn.question), classes="quiet")

    def edit(self) -> None:
        """Replace the bubble by an editor; sending it forgets what came after."""
        if self.page.busy:
            return
        self.question.clear()
        with self.question, tag("div", "editor"):
            area = text_area(self.turn.question, "input", aria_label="Edit your message", rows="3")
            area.on("keydown", self._edited, js_handler="(e) => gristmill.submitKey(e, emit)")
            with tag("div", "editor-actions"):
                button("Cancel", on_click=self.show_question, caption="Cancel", classes="plain")
                button("Send the edited message", on_click=self._edited, caption="Send", classes="primary",
                       js="(e) => emit(e.currentTarget.closest('.editor').querySelector('textarea').value)")
        self.page.client.run_javascript("setTimeout(() => gristmill.focusEditor(), 50)")

    def _edited(self, event: events.GenericEventArguments) -> None:
        question = str(event.args).strip()
        if question and not self.page.busy:
            self.page.edit(self.turn, question)

    def show_answer(self) -> None:
        """Draw the shown reply and what can be done with it."""
        self.paint()
        reply = self.turn.reply
        self.foot.clear()
        if reply.state in ("waiting", "writing"):
            return
        with self.foot:
            with tag("div", "actions"):
                if len(self.turn.replies) > 1:
                    button("Previous answer", "back", lambda: self.turn_to(-1), classes="quiet")
                    text(f"{self.turn.shown + 1}/{len(self.turn.replies)}", "count")
                    button("Next answer", "next", lambda: self.turn_to(1), classes="quiet")
                button("Copy this answer", "copy", lambda: copy(self.turn.reply.text), classes="quiet")
                button("Answer again", "again", lambda: self.page.regenerate(self.turn), classes="quiet")
                for rating, name, label in ((1, "up", "Good answer"), (-1, "down", "Bad answer")):
                    chosen = reply.rating == rating
                    look = "quiet chosen" if chosen else "quiet"
                    made = button(f"{label} (saves this conversation as feedback)", name,
                                  lambda r=rating: self.page.rate(self, r), classes=look)
                    made.props["aria-pressed"] = "true" if chosen else "false"
            text(self._measure(), "measure")

    def turn_to(self, step: int) -> None:
        if not self.page.busy:
            self.turn.shown = (self.turn.shown + step) % len(self.turn.replies)
            self.show_answer()

    def paint(self) -> None:
        """The answer's text as it is now."""
        reply = self.turn.reply
        self.answer.classes(replace=f"answer {reply.state}")
        if reply.problem:
            self.body.set_content(f'<p class="problem" role="alert">{html.escape(reply.problem)}</p>')
        elif reply.state == "waiting":
            self.body.set_content('<p class="dots" aria-label="The model is thinking"><i></i><i></i><i></i></p>')
        elif not reply.text.strip() and reply.state in ("done", "stopped"):
            self.body.set_content('<p class="empty-answer">The model ended its answer without a word.</p>')
        else:
            self.body.set_content(render(reply.text))

    def _measure(self) -> str:
        reply = self.turn.reply
        if reply.state == "failed":
            return ""
        parts = [f"{reply.tokens} token{'s' if reply.tokens != 1 else ''}"]
        if reply.rate:
            parts.append(f"{reply.rate:.{0 if reply.rate >= 10 else 1}f} tokens/s")
        if reply.first_token:
            wait = reply.first_token
            parts.append(f"first after {wait:.1f} s" if wait >= 1 else f"first after {wait * 1000:.0f} ms")
        if reply.state == "stopped":
            parts.append("stopped")
        elif reply.finish == "length":
            parts.append("cut at the length limit")
        if reply.left_out:
            parts.append(f"{reply.left_out} earlier turn{'s' if reply.left_out > 1 else ''} did not fit")
        return " · ".join(parts)


def copy(content: str) -> None:
    ui.run_javascript(f"gristmill.copy({json.dumps(content)})")
