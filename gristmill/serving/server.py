"""One serving process: the port, the signals, the manifest, and uvicorn around the app."""

from __future__ import annotations

import errno
import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from gristmill.core.artifact import RECORD, Artifact
from gristmill.core.errors import GristmillError, InternalError, MachineError, UserError
from gristmill.core.files import disk_errors, read_json, write_json
from gristmill.serving.access import MOST_HEADER_BYTES
from gristmill.serving.api import create_app
from gristmill.serving.engine_thread import EngineThread
from gristmill.serving.settings import Settings

log = logging.getLogger("gristmill.serving")

LIBRARIES = ("torch", "tokenizers", "safetensors", "fastapi", "uvicorn", "nicegui")


def serve(
    model_path: Path | str, settings: Settings, *, announce: Callable[[str], None] | None = None,
    open_model: Callable[[], Any] | None = None, make_engine: Callable[[Any, int], Any] | None = None,
) -> None:
    """Serve the model in `model_path` until SIGTERM or Ctrl-C; returns when the last answer is out.

    announce: called with the base URL once the port is ours (the model may still load). open_model, make_engine:
    what opens the LanguageModel and makes its engine, see EngineThread; given by tests.
    Raises MachineError if the port is in use, UserError if the folder is no model.
    """
    model_path = Path(model_path)
    if open_model is None and not model_path.is_dir():
        raise UserError("there is no model folder here", where=str(model_path),
                        fix="name a folder with config.json and model.safetensors, or an artifact recipe/stage@N")
    record = read_json(model_path / RECORD) if (model_path / RECORD).is_file() else {}
    listener = bind(settings.host, settings.port)
    try:
        port = listener.getsockname()[1]
        manifest = settings.state_dir / f"deployment-{port}.json"
        with disk_errors(settings.state_dir):
            settings.state_dir.mkdir(parents=True, exist_ok=True)
        server: Server | None = None

        def failed(error: BaseException) -> None:
            if server is not None:
                server.should_exit = True

        engine = EngineThread(open_model or _opener(model_path, settings), settings.limits, on_failed=failed,
                              make_engine=make_engine)
        app = create_app(engine, settings, record.get("digest", ""))
        if settings.page:
            from gristmill.serving.studio.page import mount

            mount(app, engine, settings)
        server = Server(app, engine, settings)
        server.on_ready = lambda: write_json(manifest, _manifest(engine.model, record, model_path, settings, port))
        if announce:
            announce(base_url(settings.host, port))
        server.run(sockets=[listener])
        engine.close(timeout=0.0 if engine.state == "loading" else 10.0)
        if manifest.exists():
            write_json(manifest, read_json(manifest) | {"stopped": _now()})
    finally:
        listener.close()
    if engine.failure is not None:
        if isinstance(engine.failure, GristmillError):
            raise engine.failure
        raise InternalError(
            f"the model could not be loaded ({engine.failure})", where=str(model_path)
        ) from engine.failure


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, taken before the model is loaded; MachineError if the port is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise MachineError(f"the host {host!r} is not known ({error})", where="host",
                           fix="use 127.0.0.1 or one of this machine's addresses") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening now, not when uvicorn starts: of two servers that start together, one must fail here.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise MachineError(f"port {port} on {host} is in use by another program", where="port",
                               fix=f"stop that program, or choose another port: --port {port % 65535 + 1} "
                                   "(--port 0 lets the system choose)") from error
        if error.errno == errno.EACCES:
            raise MachineError(f"port {port} may not be used without more rights", where="port",
                               fix="choose a port above 1023") from error
        raise MachineError(f"cannot listen on {host}:{port} ({error.strerror})", where="host") from error
    return listener


class Server(uvicorn.Server):
    """uvicorn that drains on SIGTERM: /health says so at once, running answers finish or are cut, exit code 0."""

    def __init__(self, app: FastAPI, engine: EngineThread, settings: Settings) -> None:
        super().__init__(uvicorn.Config(
            app, host=settings.host, log_level="warning", access_log=False, server_header=False, http="h11",
            h11_max_incomplete_event_size=MOST_HEADER_BYTES, timeout_graceful_shutdown=5, ws_max_size=1_000_000,
            timeout_keep_alive=30, lifespan="on",
        ))
        self.engine, self.settings = engine, settings
        self.on_ready: Callable[[], None] = lambda: None
        self._told = False
        self._drain_until: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer first, load then: the imports and weights of a model keep the interpreter busy for seconds."""
        await super().startup(sockets)
        self.engine.start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: leave now. Not recorded, so uvicorn does not die of it again: exit code 0."""
        if self._drain_until is not None or self.engine.state in ("loading", "failed"):
            self.should_exit = True
            return
        self._drain_until = time.monotonic() + self.settings.drain_seconds
        self.engine.drain()
        log.warning("draining: %d answers under way, at most %.0f s (%s)", self.engine.running + self.engine.waiting,
                    self.settings.drain_seconds, signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this ten times a second."""
        if not self._told and self.engine.state in ("ready", "draining"):
            self._told = True
            self.on_ready()
        if self._drain_until is not None and not self.should_exit:
            idle = self.engine.running + self.engine.waiting == 0
            if not idle and time.monotonic() >= self._drain_until:
                self.engine.cut_all()
            elif idle:
                self.should_exit = True
        return await super().on_tick(counter)


def base_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _opener(model_path: Path, settings: Settings) -> Callable[[], Any]:
    def open_model() -> Any:
        import torch

        from gristmill.generation import LanguageModel

        torch.set_num_threads(settings.threads or max(1, len(os.sched_getaffinity(0)) - 1))
        model = LanguageModel.open(model_path, device=settings.device, dtype=settings.dtype)
        if (model_path / RECORD).is_file():
            model.name = Artifact.open(model_path).name
        return model

    return open_model


def _manifest(model: Any, record: dict[str, Any], path: Path, settings: Settings, port: int) -> dict[str, Any]:
    """What runs here, for whoever has to answer for it: model, versions, settings; never a key."""
    return {
        "kind": "deployment", "model": {"name": str(model.name), "digest": record.get("digest"), "path": str(path)},
        "url": base_url(settings.host, port), "settings": settings.public(), "process": os.getpid(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "started": _now(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
