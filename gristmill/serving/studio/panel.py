"""The side panel: system prompt and sampling."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import events, ui

from gristmill.serving.studio.conversation import Options
from gristmill.serving.studio.widgets import button, start_with, tag, text, text_area


class Panel:
    """Writes what the person chooses into `options` at once."""

    def __init__(self, options: Options, most_tokens: int) -> None:
        self.options, self.most_tokens = options, most_tokens
        self.defaults = Options(**vars(options))
        with tag("aside", "panel", id="panel", aria_label="Settings"):
            with tag("div", "panel-head"):
                text("Settings", name="h2")
                button("Close the settings", "close", js="() => gristmill.panel(false)", classes="quiet")
            self.body = tag("div", "panel-body")
        self.fill()

    def fill(self) -> None:
        """Draw the controls from `options`."""
        self.body.clear()
        with self.body:
            with tag("div", "field"):
                tag_label("system", "System prompt")
                area = text_area(self.options.system, "input", id="system", rows="4", maxlength="8000",
                                 placeholder="How the model should behave")
                area.on("input", self._system, js_handler="(e) => emit(e.target.value)", throttle=0.2)
            self._slider("temperature", "Temperature", 0, 2, 0.05, "0 takes the likeliest token; higher is bolder.")
            self._slider("top_p", "Top-p", 0.05, 1, 0.05, "Sample from the likeliest tokens that make up this share.")
            self._slider("max_tokens", "Longest answer", 1, self.most_tokens, 1, "In tokens.")
            with tag("div", "field"):
                tag_label("seed", "Seed")
                seed = tag("input", "input", id="seed", type="number", min="0", max=str(2**53 - 1), step="1",
                           placeholder="random", inputmode="numeric")
                start_with(seed, "" if self.options.seed is None else str(self.options.seed))
                seed.on("input", self._seed, js_handler="(e) => emit(e.target.value)", throttle=0.2)
                text("The same seed and settings give the same answer.", "help")
            button("Back to the defaults", on_click=self.reset, caption="Back to the defaults", classes="plain")

    def reset(self) -> None:
        vars(self.options).update(vars(self.defaults))
        self.fill()

    def _slider(self, name: str, label: str, low: float, high: float, step: float, help_text: str) -> None:
        with tag("div", "field"):
            with tag("div", "field-row"):
                tag_label(name, label)
                shown = tag("output", "value", for_=name)
                with shown:
                    value = text(_shown(getattr(self.options, name)))
            slider = tag("input", "slider", id=name, type="range", min=str(low), max=str(high), step=str(step))
            start_with(slider, str(getattr(self.options, name)))
            slider.on("input", self._setter(name, step, value), js_handler="(e) => emit(e.target.value)", throttle=0.05)
            text(help_text, "help")

    def _setter(self, name: str, step: float, value: ui.html) -> Callable[[events.GenericEventArguments], None]:
        low, high = {"temperature": (0.0, 2.0), "top_p": (0.05, 1.0), "max_tokens": (1, self.most_tokens)}[name]

        def change(event: events.GenericEventArguments) -> None:
            try:
                number = min(high, max(low, float(event.args)))
            except (TypeError, ValueError):
                return
            setattr(self.options, name, int(number) if step == 1 else round(number, 3))
            value.set_content(_shown(getattr(self.options, name)))

        return change

    def _system(self, event: events.GenericEventArguments) -> None:
        self.options.system = str(event.args)[:8000]

    def _seed(self, event: events.GenericEventArguments) -> None:
        digits = str(event.args).strip()
        self.options.seed = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 17 else None


def tag_label(target: str, caption: str) -> None:
    with tag("label", for_=target):
        text(caption)


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
