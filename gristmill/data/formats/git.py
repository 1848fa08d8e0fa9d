"""A git repository read by plumbing commands: no checkout, no hook, no command or network of its configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gristmill.core.errors import MachineError

SECONDS = 900
"""The longest that listing a repository may take."""
_SAFE = (
    "--no-pager", "--no-replace-objects", "--literal-pathspecs",
    *(part for setting in (
        "safe.directory=*",  # whoever owns the files, nothing of the repository is run
        "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.sshCommand=false", "core.alternateRefsCommand=true",
        "core.attributesFile=/dev/null", "protocol.allow=never", "credential.helper=", "gc.auto=0",
        "maintenance.auto=0", "extensions.partialClone=", "core.packedGitLimit=256m",
    ) for part in ("-c", setting)),
)


class GitError(Exception):
    """git could not read this repository; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A path of a revision: mode as git writes it (120000: link, 160000: submodule), blob id, bytes."""

    path: str
    mode: str
    blob: str
    size: int


def is_repository(folder: Path) -> bool:
    """Is this a work tree with its repository, or a bare repository?"""
    return (folder / ".git").exists() or (
        (folder / "HEAD").is_file() and (folder / "objects").is_dir() and (folder / "refs").is_dir())


def commit(folder: str, revision: str) -> tuple[str, str]:
    """The id of a revision's commit and its time (ISO 8601, UTC). Raises GitError if there is none."""
    head = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    name = head.decode().strip()
    when = _git(folder, "show", "-s", "--no-show-signature", "--format=%cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ",
                name)
    return name, when.decode().strip()


def entries(folder: str, commit_id: str) -> list[Entry]:
    """Every path of a commit, in git's order."""
    found = []
    for line in _git(folder, "ls-tree", "-r", "-z", "-l", "--full-tree", commit_id).split(b"\0"):
        if line:
            about, _, path = line.partition(b"\t")
            mode, _, blob, size = about.split()
            found.append(Entry(path.decode("utf-8", "backslashreplace"), mode.decode(), blob.decode(),
                               int(size) if size != b"-" else 0))
    return found


def blobs(folder: str, names: Sequence[str]) -> Iterator[bytes | None]:
    """The contents of blobs, one after another; None for one that is not there (a partial clone)."""
    with subprocess.Popen(_command(folder, "cat-file", "--batch"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, env=_environment()) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        try:
            for name in names:
                process.stdin.write(name.encode() + b"\n")
                process.stdin.flush()
                header = process.stdout.readline().split()
                if not header:
                    raise GitError("git ended while it was reading: the repository is damaged")
                if len(header) != 3:
                    yield None
                    continue
                data = process.stdout.read(int(header[2]))
                process.stdout.read(1)
                yield data
        except BrokenPipeError as error:
            raise GitError("git ended while it was reading: the repository is damaged") from error
        finally:
            process.kill()


def origin(folder: str) -> str | None:
    """The address that the repository was cloned from, without user name and password; None for a local one."""
    try:
        url = _git(folder, "config", "--local", "--no-includes", "--get", "remote.origin.url").decode().strip()
    except (GitError, UnicodeDecodeError):
        return None
    if url.startswith(("https://", "http://", "ssh://", "git://")):
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return None


def _command(folder: str, *arguments: str) -> list[str]:
    program = shutil.which("git")
    if program is None:
        raise MachineError("git is not installed", where=folder,
                           fix="install git, or check the files out and read the folder with `git: false`")
    inner = Path(folder, ".git")
    return [program, *_SAFE, f"--git-dir={inner if inner.exists() else folder}", *arguments]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "", "LC_ALL": "C", "TZ": "UTC"}


def _git(folder: str, *arguments: str) -> bytes:
    try:
        done = subprocess.run(_command(folder, *arguments), capture_output=True, env=_environment(), check=False,
                              timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git {arguments[0]} took longer than {SECONDS} seconds") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitError(said[-1] if said else f"git {arguments[0]} ended with status {done.returncode}")
    return done.stdout
