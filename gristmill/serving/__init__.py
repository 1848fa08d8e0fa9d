"""Serving: a model behind an OpenAI-compatible API and a chat page.

In: a model folder (anything `LanguageModel.open` reads) and `Settings`. Out: a running server, a deployment
manifest and a feedback file under the state folder. One engine thread drives the same engine that offline
generation uses, so served text equals offline text. May call the rooms before it (generation, tokenizer, models)
and core; only the command line calls it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill.serving.settings import Limits, Settings

if TYPE_CHECKING:
    from gristmill.serving.api import create_app
    from gristmill.serving.server import serve

__all__ = ["Limits", "Settings", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    """`serve` and `create_app` on first use: they need FastAPI and torch, importing the room must not."""
    if name == "serve":
        from gristmill.serving.server import serve

        return serve
    if name == "create_app":
        from gristmill.serving.api import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
