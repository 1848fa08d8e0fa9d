"""What a server is told: where it listens, who may use it, and how much it takes."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gristmill.core.config import require
from gristmill.core.errors import UserError

KEYS_VARIABLE = "GRISTMILL_API_KEYS"
"""Environment variable with API keys, separated by commas."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds that are checked before any memory is taken for a request."""

    body_bytes: int = 1_000_000
    """Longest request body; more is 413."""
    max_tokens: int = 4096
    """Most new tokens of one answer; a request for more is refused, not cut."""
    concurrent: int = 8
    """Answers that the engine works on at the same time (its slots)."""
    queue: int = 64
    """Answers that may wait for a slot; more is 429."""
    request_seconds: float = 300.0
    """Longest life of a request, waiting included; then it ends with what it has."""
    stop_strings: int = 4
    stop_length: int = 256
    """Characters of one stop string."""
    messages: int = 512
    prompts: int = 16
    """Prompts in one completions request."""
    choices: int = 8
    """Largest n."""
    logprobs: int = 20
    """Most alternatives a token."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            require(value > 0 or (name == "queue" and value == 0), name, "must be positive")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one server runs; keys are kept only as digests."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 lets the operating system choose."""
    key_digests: tuple[str, ...] = ()
    """SHA-256 of every API key; see `hash_keys`. Empty: no key needed, loopback only."""
    limits: Limits = field(default_factory=Limits)
    page: bool = True
    """Serve the chat page."""
    state_dir: Path = Path("runs/serving")
    """Where the deployment manifest and the feedback go."""
    drain_seconds: float = 30.0
    """After SIGTERM: how long running requests may take to finish."""
    device: str = "auto"
    dtype: str | None = None
    """Precision of the weights, fp32 or bf16; None is fp32, in which served text equals offline text."""
    threads: int = 0
    """CPU threads of the engine; 0 leaves one core to the event loop. With every core taken, each answer that goes out
    stalls all of the engine's threads at their next meeting point."""
    system_prompt: str = ""
    """Filled into the chat page's system prompt."""

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, "port", "must lie between 0 and 65535")
        require(self.dtype in (None, "fp32", "bf16"), "dtype", "must be fp32 or bf16")
        require(self.threads >= 0, "threads", "must not be negative")
        require(self.drain_seconds >= 0, "drain_seconds", "must not be negative")
        if not self.key_digests and not is_loopback(self.host):
            raise UserError(
                f"without an API key the server may only listen on this machine, not on {self.host!r}",
                where="host",
                fix=f"set {KEYS_VARIABLE}, pass --api-key or --key-file, or leave --host at 127.0.0.1",
            )

    @property
    def feedback_file(self) -> Path:
        return self.state_dir / "feedback.jsonl"

    def accepts(self, key: str) -> bool:
        """Whether `key` is one of ours; takes the same time for every wrong key."""
        offered = hash_key(key)
        found = False
        for known in self.key_digests:
            found |= hmac.compare_digest(offered, known)
        return found

    def public(self) -> dict[str, Any]:
        """The settings without anything about the keys, JSON-ready."""
        plain = asdict(self)
        plain.pop("key_digests")
        return plain | {"state_dir": str(self.state_dir), "keys": len(self.key_digests)}


def hash_key(key: str) -> str:
    """SHA-256 (hex) of a key; keys are long random texts, so no salt or stretching is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def hash_keys(keys: Iterable[str] = (), key_file: Path | None = None, environment: bool = True) -> tuple[str, ...]:
    """Digests of all keys: given, one a line in `key_file` (# starts a comment), and from the environment."""
    found = list(keys)
    if environment:
        found += os.environ.get(KEYS_VARIABLE, "").split(",")
    if key_file is not None:
        try:
            lines = key_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"the key file cannot be read ({error})", where=str(key_file)) from error
        lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not lines:
            raise UserError("the key file holds no key", where=str(key_file), fix="write one key a line")
        found += lines
    cleaned = [key.strip() for key in found if key.strip()]
    for key in cleaned:
        if len(key) < 8:
            raise UserError(
                "an API key is shorter than 8 characters", where="api key",
                fix='make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )
    return tuple(sorted({hash_key(key) for key in cleaned}))


def is_loopback(host: str) -> bool:
    """Whether `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
