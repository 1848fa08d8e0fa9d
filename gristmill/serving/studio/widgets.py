"""Plain HTML elements over NiceGUI: a button that is a `<button>`, an input that is an `<input>`."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from nicegui import ui

from gristmill.serving.studio.icons import icon


def tag(name: str, classes: str = "", **attributes: str | bool) -> ui.element:
    """An element with attributes; `aria_label="x"` becomes aria-label, True a bare attribute."""
    element = ui.element(name)
    if classes:
        element.classes(classes)
    for key, value in attributes.items():
        element.props[key.rstrip("_").replace("_", "-")] = value
    return element


def start_with(control: ui.element, value: str) -> None:
    """Give an `<input>` its first value; what the person enters then stays, whatever is drawn again around it.

    As an attribute (Vue's "^") it is a default only; as a property it would overwrite the entered value.
    """
    control.props["^value"] = value


def text_area(content: str, classes: str, **attributes: str | bool) -> ui.html:
    """A `<textarea>` that starts with `content`."""
    area = ui.html(html.escape(content), sanitize=False, tag="textarea").classes(classes)
    for key, value in attributes.items():
        area.props[key.rstrip("_").replace("_", "-")] = value
    return area


def text(content: str, classes: str = "", name: str = "span") -> ui.html:
    """An element with text in it, never markup."""
    return ui.html(html.escape(content), sanitize=False, tag=name).classes(classes)


def button(
    label: str, icon_name: str | None = None, on_click: Callable[..., Any] | None = None, *, classes: str = "",
    caption: str | None = None, js: str | None = None,
) -> ui.element:
    """A button named `label` for tooltips and screen readers, showing an icon, a caption, or both."""
    made = tag("button", classes, type="button", aria_label=label, title=label)
    with made:
        if icon_name:
            ui.html(icon(icon_name), sanitize=False, tag="span").classes("icon")
        if caption:
            text(caption)
    if js is not None:
        made.on("click", on_click, js_handler=js)
    elif on_click is not None:
        made.on("click", on_click, args=[])
    return made
