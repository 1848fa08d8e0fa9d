"""The chat page itself: layout, and the way from a question to a streamed answer."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from nicegui import app as nicegui_app
from nicegui import background_tasks, events, ui

from gristmill.core.errors import GristmillError
from gristmill.data.python_pairs import COMPLETE, EXPLAIN
from gristmill.serving.access import PAGE
from gristmill.serving.api import tokenise
from gristmill.serving.engine_thread import Answer, EngineThread
from gristmill.serving.errors import ApiError
from gristmill.serving.settings import Settings
from gristmill.serving.studio.conversation import Conversation, Options, Reply, Turn
from gristmill.serving.studio.feedback import Feedback, record
from gristmill.serving.studio.icons import FAVICON, icon
from gristmill.serving.studio.markup import highlight_css
from gristmill.serving.studio.panel import Panel
from gristmill.serving.studio.turn_view import TurnView
from gristmill.serving.studio.widgets import button, tag, text

log = logging.getLogger("gristmill.serving")

PAINT_SECONDS = 0.06
"""Between two repaints of a growing answer: smooth to the eye, cheap on the wire."""
RETURN_SECONDS = 2.0
"""How long an answer goes on for a tab that lost its connection."""
KEPT_SECONDS = 24 * 3600.0
"""How long the server remembers the conversation of a tab, in memory: reloading the page keeps it."""
app_storage = nicegui_app.storage
EXAMPLES = (
    ("explain", "Explain a function",
     "def read_text(path):\n    with open(path, encoding=\"utf-8\") as file:\n        return file.read()"),
    ("complete", "Write a body", 'def is_empty(self):\n    """Return True if the queue is empty."""'),
    ("complete", "Write a constructor", 'def __init__(self, name, value=None):\n    """Initialize the object."""'),
    ("explain", "Explain a method", "def close(self):\n    self.file.close()\n    self.file = None"),
)
"""What the welcome page offers: kind, title, code. The wording around it is the one that fine-tuning teaches."""


def mount(app: FastAPI, engine: EngineThread, settings: Settings) -> None:
    """Put the chat page at /chat/ of `app`; one app a process, as NiceGUI has it."""
    @ui.page("/", title="Gristmill", favicon=FAVICON)
    async def chat() -> None:
        page = ChatPage(engine, settings)
        page.build()
        await page.client.connected()
        page.restore(app_storage.tab)

    app_storage.max_tab_storage_age = KEPT_SECONDS
    ui.run_with(app, mount_path=PAGE, title="Gristmill", favicon=FAVICON, tailwind=False, show_welcome_message=False,
                reconnect_timeout=10.0)


class ChatPage:
    """One browser tab's page and conversation."""

    def __init__(self, engine: EngineThread, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        self.conversation = Conversation(Options(system=settings.system_prompt))
        self.client = ui.context.client
        self.running: Answer | None = None
        self.busy = False
        self.stopping = False
        self.views: dict[int, TurnView] = {}

    def build(self) -> None:
        """Draw the page; without a model yet, a waiting note that gives way to it."""
        ui.add_head_html(_head())
        self.client.content.classes("shell")
        self.client.on_disconnect(self._gone)
        self.client.on_delete(self.stop)
        with self.client.content:
            self.root = tag("div", "app")
            with self.root:
                self._loading()
        if self.engine.state == "loading":
            timer = ui.timer(0.3, lambda: self._ready_after(timer))
        else:
            self._ready()

    def restore(self, storage: MutableMapping[str, Any]) -> None:
        """Take up the conversation that this tab had before it was reloaded, and remember this one there."""
        earlier = storage.get("conversation")
        storage["conversation"] = earlier or self.conversation
        if earlier is None or self.conversation.turns:
            return
        self.conversation = earlier
        if self.engine.state != "loading":
            self._ready()

    def _follow(self, view: TurnView) -> None:
        """An answer that began before the page was reloaded: show it grow and end."""
        self.busy = True
        self.root.classes(add="busy")

        def look() -> None:
            if view.turn.reply.state in ("waiting", "writing"):
                view.paint()
                return
            timer.cancel()
            self.busy = False
            self.root.classes(remove="busy")
            view.show_answer()

        timer = ui.timer(0.2, look)

    async def _gone(self) -> None:
        """The tab was closed, or the line broke: wait a moment for it to come back, then free the engine."""
        await asyncio.sleep(RETURN_SECONDS)
        if not self.client.has_socket_connection:
            self.stop()

    def _announce(self, message: str) -> None:
        self.client.run_javascript(f"gristmill.announce({json.dumps(message)})")

    def _loading(self) -> None:
        with tag("div", "loading", role="status"):
            ui.html(icon("mark"), sanitize=False, tag="span").classes("mark turning")
            text("Loading the model …", name="p")

    def _ready_after(self, timer: ui.timer) -> None:
        if self.engine.state != "loading":
            timer.cancel()
            self._ready()

    def _ready(self) -> None:
        self.root.clear()
        with self.root:
            if self.engine.model is None:
                with tag("div", "loading", role="alert"):
                    text("The model could not be loaded; the server's log says why.", name="p")
                return
            options = self.conversation.options
            options.max_tokens = max(1, min(options.max_tokens, self._most_tokens // 2))
            with tag("div", "pane"):
                self._header()
                with tag("main", "scroll", id="scroll"):
                    self.welcome = tag("div", "welcome")
                    self.log = tag("div", "log", role="log", aria_live="polite", aria_label="Conversation")
                self._composer()
            self.panel = Panel(options, self._most_tokens)
            tag("div", "shade").on("click", js_handler="() => gristmill.panel(false)")
        self._show_welcome()
        with self.log:
            self.views = {id(turn): TurnView(self, turn) for turn in self.conversation.turns}
        for turn in self.conversation.turns[-1:]:
            if turn.reply.state in ("waiting", "writing"):
                self._follow(self.views[id(turn)])
        self.client.run_javascript("gristmill.start()")

    @property
    def _most_tokens(self) -> int:
        return max(1, min(self.settings.limits.max_tokens, self.engine.context))

    def _header(self) -> None:
        with tag("header", "bar"):
            with tag("div", "brand"):
                ui.html(icon("mark"), sanitize=False, tag="span").classes("mark")
                text("Gristmill", "name")
            with tag("div", "model", title=f"{self.engine.model.name}, {self._size()}"):
                text(str(self.engine.model.name), "model-name")
                text(self._size(), "model-size")
            with tag("div", "bar-actions"):
                button("New chat", "new", self.new_chat, classes="quiet", caption="New chat")
                button("Light or dark", "theme", js="() => gristmill.theme()", classes="quiet")
                button("Settings", "panel", js="() => gristmill.panel()", classes="quiet")

    def _composer(self) -> None:
        with tag("footer", "dock"):
            with tag("div", "composer"):
                area = tag("textarea", "", id="message", rows="1", aria_label="Your message", maxlength="200000",
                           placeholder="Ask something, or paste code", autofocus=True)
                area.on("keydown", self._asked, js_handler="(e) => gristmill.submitKey(e, emit)")
                button("Send", "send", self._asked, classes="send", js="() => gristmill.submit(emit)")
                button("Stop the answer", "stop", self.stop, classes="stop")
            with tag("p", "hint"):
                for key, meaning in (("Enter", "sends"), ("Shift + Enter", "new line"), ("Esc", "stops")):
                    with tag("span"):
                        text(key, name="kbd")
                        text(meaning)

    def _show_welcome(self) -> None:
        self.welcome.clear()
        if self.conversation.turns:
            return
        with self.welcome:
            ui.html(icon("mark"), sanitize=False, tag="span").classes("mark")
            text("What shall we write?", name="h1")
            text(f"{self.engine.model.name} runs on this server alone. It has {self._size()} and reads "
                 f"{self.engine.context} tokens at a time.", name="p")
            with tag("div", "examples"):
                for kind, title, code in EXAMPLES:
                    prompt = {"explain": EXPLAIN, "complete": COMPLETE}[kind][0].replace("{code}", code)
                    with tag("button", "example", type="button").on("click", lambda p=prompt: self.ask(p), args=[]):
                        text(title, "example-title")
                        text(code.split("\n")[0], "example-code")

    def _size(self) -> str:
        return f"{_quantity(_parameters(self.engine.model.model))} parameters"

    def _asked(self, event: events.GenericEventArguments) -> None:
        self.ask(str(event.args))

    def ask(self, question: str) -> None:
        """A new turn with `question`; nothing while an answer is being written."""
        if self.busy or not question.strip():
            return
        turn = Turn(question.strip())
        self.conversation.turns.append(turn)
        self._show_welcome()
        self._answer(turn)

    def edit(self, turn: Turn, question: str) -> None:
        """Ask `question` in place of `turn`; what came after is forgotten."""
        self._forget_from(turn)
        self.ask(question)

    def regenerate(self, turn: Turn) -> None:
        """Another answer to `turn`, beside the earlier ones; what came after is forgotten."""
        if self.busy:
            return
        later = self.conversation.turns[self.conversation.turns.index(turn) + 1:]
        if later:
            self._forget_from(later[0])
        self._answer(turn)

    def new_chat(self) -> None:
        """Forget everything; an answer under way is stopped."""
        self.stop()
        if self.conversation.turns:
            self._forget_from(self.conversation.turns[0])
        self.conversation.clear()
        self._show_welcome()
        self.client.run_javascript("gristmill.focusComposer()")

    def _forget_from(self, turn: Turn) -> None:
        for gone in self.conversation.turns[self.conversation.turns.index(turn):]:
            self.views.pop(id(gone)).root.delete()
        self.conversation.cut_from(turn)

    def stop(self) -> None:
        """End the answer under way; its slot in the engine is free before the next step."""
        self.stopping = self.busy
        if self.running is not None:
            self.running.cancel()

    def _answer(self, turn: Turn) -> None:
        reply = turn.ask_again()
        self.busy, self.stopping = True, False
        self.root.classes(add="busy")
        with self.log:
            view = self.views.get(id(turn))
            if view is None:
                view = self.views[id(turn)] = TurnView(self, turn)
            else:
                view.show_answer()
        self.client.run_javascript("gristmill.follow()")
        background_tasks.create(self._write(turn, reply, view), name="answer")

    async def _write(self, turn: Turn, reply: Reply, view: TurnView) -> None:
        try:
            await self._generate(turn, reply, view)
        except (ApiError, ValueError, GristmillError) as error:
            reply.state = "failed"
            reply.problem = getattr(error, "message", None) or getattr(error, "what", None) or str(error)
        except Exception:
            log.exception("an answer on the chat page failed")
            reply.state, reply.problem = "failed", "Something inside the server went wrong; its log says what."
        finally:
            self.running, self.busy = None, False
            if not self.client.is_deleted and turn in self.conversation.turns:
                with self.client:
                    view.show_answer()
            if not self.client.is_deleted:
                self.root.classes(remove="busy")

    async def _generate(self, turn: Turn, reply: Reply, view: TurnView) -> None:
        from gristmill.generation import Sampling

        options, tokenizer = self.conversation.options, self.engine.model.tokenizer

        def fit() -> Any:
            return self.conversation.fitted(
                turn, lambda messages: tokenizer.encode_chat(messages, add_generation_prompt=True), self.engine.context)

        reply.messages, prompt, reply.left_out = await tokenise("messages", fit)
        # Asking again with a fixed seed shall still give another answer: the variant's number joins the seed.
        again = len(turn.replies) - 1
        reply.seed = secrets.randbits(53) if options.seed is None else options.seed + again
        sampling = Sampling(
            max_tokens=min(options.max_tokens, self.engine.context - len(prompt), self.settings.limits.max_tokens),
            temperature=options.temperature, top_p=options.top_p, seed=reply.seed,
            stop_ids=tuple(sorted(tokenizer.stop_ids)),
        )
        reply.sampling = {"temperature": options.temperature, "top_p": options.top_p, "max_tokens": options.max_tokens}
        answer = self.engine.submit([(prompt, sampling, ())])[0]
        self.running = answer
        if self.stopping or self.client.is_deleted:
            answer.cancel()
        painted = 0.0
        async for piece in answer:
            reply.text += piece.text
            reply.state = "writing"
            now = time.monotonic()
            if piece.finish is None and now - painted >= PAINT_SECONDS and not self.client.is_deleted:
                painted = now
                view.paint()
            reply.finish = piece.finish or ""
        reply.tokens = answer.completion_tokens
        reply.first_token = answer.first_token or 0.0
        reply.seconds = (answer.seconds or 0.0) - reply.first_token
        reply.state = "stopped" if reply.finish == "cancelled" else "done"

    def rate(self, view: TurnView, rating: int) -> None:
        """Keep a thumb up or down with the whole conversation; the same thumb again takes it back."""
        reply = view.turn.reply
        reply.rating = 0 if reply.rating == rating else rating  # type: ignore[assignment]
        try:
            record(self.settings.feedback_file, Feedback(
                conversation_id=self.conversation.id, answer_id=reply.id, model=str(self.engine.model.name),
                rating=reply.rating, messages=reply.messages, answer=reply.text, sampling=reply.sampling,
                seed=reply.seed))
        except (GristmillError, OSError) as error:
            log.error("feedback could not be saved: %s", error)
            self._announce("The feedback could not be saved.")
            return
        self._announce("Thank you, saved." if reply.rating else "Taken back.")
        view.show_answer()


@lru_cache(maxsize=1)
def _head() -> str:
    here = Path(__file__).parent
    css, script = (here / "chat.css").read_text(encoding="utf-8"), (here / "chat.js").read_text(encoding="utf-8")
    return (f'<meta name="description" content="{json.dumps("Chat with your own model")[1:-1]}">'
            f"<style>{css}\n{highlight_css()}</style><script>{script}</script>")


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _quantity(number: float) -> str:
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.{1 if number < 100 * limit else 0}f} {letter}"
    return str(int(number))
