"""`gristmill serve MODEL`: an OpenAI-compatible API and a chat page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

LOOPBACK = "127.0.0.1"


def command(
    model: Annotated[str, typer.Argument(help="A model: recipe/stage@N, a path to an artifact, or a public folder.")],
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine only with a key.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 lets the system choose.")] = 8000,
    api_key: Annotated[list[str] | None, typer.Option(
        help="A key that clients must show; may be repeated. Better: the variable GRISTMILL_API_KEYS or --key-file, "
             "which no process list shows.",
    )] = None,
    key_file: Annotated[Path | None, typer.Option(help="A file with one API key a line.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer that a client may ask for.")] = 4096,
    max_concurrent: Annotated[int, typer.Option(min=1, max=1024, help="Answers in the engine at the same time.")] = 8,
    max_queue: Annotated[int, typer.Option(min=0, help="Answers that may wait; more are refused with 429.")] = 64,
    max_body: Annotated[int, typer.Option(min=1024, help="Longest request body in bytes.")] = 1_000_000,
    request_timeout: Annotated[float, typer.Option(min=1.0, help="Seconds that a request may take.")] = 300.0,
    drain_timeout: Annotated[float, typer.Option(min=0.0, help="Seconds for running answers after SIGTERM.")] = 30.0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="fp32 or bf16; default fp32.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of the engine; 0: all cores but one.")] = 0,
    system: Annotated[str, typer.Option(help="System prompt that the chat page starts with.")] = "",
    page: Annotated[bool, typer.Option(help="Serve the chat page.")] = True,
    runs_dir: Annotated[Path, typer.Option(
        help="Where runs lie; the manifest and the feedback go to its folder 'serving'.",
    )] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when the port is open.")] = False,
) -> None:
    """Serve MODEL: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics, and a chat page at /."""
    import logging

    from gristmill.core.errors import UserError
    from gristmill.serving.server import serve
    from gristmill.serving.settings import Limits, Settings, hash_keys

    path = model_folder(model, runs_dir)
    try:
        limits = Limits(max_tokens=max_tokens, concurrent=max_concurrent, queue=max_queue, body_bytes=max_body,
                        request_seconds=request_timeout)
        settings = Settings(host=host, port=port, key_digests=hash_keys(api_key or [], key_file), limits=limits,
                            page=page, state_dir=runs_dir / "serving", drain_seconds=drain_timeout, device=device,
                            dtype=dtype, threads=threads, system_prompt=system)
    except ValueError as error:
        raise UserError(str(error), where="serve") from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    serve(path, settings, announce=lambda url: announce(url, model, settings.page, bool(settings.key_digests), as_json))


def model_folder(model: str, runs_dir: Path) -> Path:
    """The folder that MODEL stands for."""
    from gristmill.pipeline.store import resolve_model

    return Path(resolve_model(model, runs_dir))


def announce(url: str, model: str, page: bool, keyed: bool, as_json: bool) -> None:
    """Say where the server is, and show one request that works."""
    chat_page = f"{url}/chat/" if page else None
    if as_json:
        typer.echo(json.dumps({"url": url, "api": f"{url}/v1", "page": chat_page, "model": model, "keys": keyed}))
        return
    typer.echo(f"Serving {model} at {url}/v1 (OpenAI-compatible)")
    if chat_page:
        typer.echo(f"Chat page:  {chat_page}")
    key = ' -H "Authorization: Bearer $KEY"' if keyed else ""
    typer.echo(f"Try it:     curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' "
               """-d '{"messages": [{"role": "user", "content": "Hello"}]}'""")
    typer.echo("Stop it:    Ctrl-C")
