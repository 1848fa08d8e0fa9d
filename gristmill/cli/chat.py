"""`gristmill chat MODEL`: talk to a model in the terminal."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """\
/help             this list
/reset            forget the conversation
/system TEXT      set the system prompt (alone: show it)
/set NAME=VALUE   temperature, top_p, top_k, repetition_penalty, max_tokens, seed (alone: show them)
/again            answer the last question again
/quit             leave (so does Ctrl-D)
Ctrl-C stops an answer. A line that ends with a backslash goes on in the next."""


def command(
    model: Annotated[str, typer.Argument(help="A model: recipe/stage@N, a path to an artifact, or a public folder.")],
    once: Annotated[str | None, typer.Option(help="Answer this one question and leave.")] = None,
    system: Annotated[str, typer.Option(help="System prompt.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answers.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    runs_dir: Annotated[Path, typer.Option(help="Where runs lie.")] = Path("runs"),
) -> None:
    """Chat with MODEL; reads questions from a terminal or, a line each, from a pipe."""
    from gristmill.cli.serve import model_folder
    from gristmill.generation import LanguageModel

    path = model_folder(model, runs_dir)
    terminal = sys.stdin.isatty() and once is None
    if terminal:
        typer.secho(f"Loading {path.name} …", dim=True, err=True)
    language_model = LanguageModel.open(path, device=device)
    _ = language_model.engine  # a model that cannot answer is refused before the first question
    talk = Talk(language_model, system,
                Settings(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed))
    if once is not None:
        if not talk.ask(once):
            raise typer.Exit(1)
        return
    if terminal:
        typer.secho(f"Talking to {talk.model.name}. /help lists the commands, Ctrl-D leaves.", dim=True)
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (arrow keys and history in input())
    _loop(talk, terminal)


@dataclass(frozen=True)
class Settings:
    """What /set changes."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_tokens: int = 256
    seed: int | None = None

    def changed(self, assignment: str) -> Settings:
        """With NAME=VALUE applied; ValueError that lists the names or the range."""
        ranges: dict[str, tuple[type, float, float]] = {
            "temperature": (float, 0, 2), "top_p": (float, 0.01, 1), "top_k": (int, 0, 10**6),
            "repetition_penalty": (float, 0.1, 10), "max_tokens": (int, 1, 10**6), "seed": (int, 0, 2**63 - 1),
        }
        name, equals, value = (part.strip() for part in assignment.partition("="))
        if name not in ranges or not equals:
            raise ValueError(f"write /set NAME=VALUE with one of {', '.join(ranges)}")
        if name == "seed" and value in ("", "none", "random"):
            return replace(self, seed=None)
        kind, low, high = ranges[name]
        try:
            number = kind(value)
        except ValueError:
            raise ValueError(f"{name}: {value!r} is not a number") from None
        if not low <= number <= high:
            raise ValueError(f"{name}: {value} does not lie between {low:g} and {high:g}")
        return replace(self, **{name: number})


@dataclass
class Talk:
    """A conversation with a LanguageModel; answers are written as they come."""

    model: Any
    system: str
    settings: Settings
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str) -> bool:
        """Write the answer to stdout and remember both; False if there was no room for an answer."""
        messages = [*self.messages, {"role": "user", "content": question}]
        prompt = self._prompt(messages)
        if prompt is None:
            typer.secho("This question is longer than the model's context.", fg="red", err=True)
            return False
        answer = self._stream(prompt)
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        return True

    def again(self) -> None:
        """Answer the last question anew."""
        if len(self.messages) < 2:
            typer.secho("There is no question yet.", fg="red", err=True)
            return
        question = self.messages[-2]["content"]
        del self.messages[-2:]
        self.ask(question)

    def _prompt(self, messages: list[dict[str, str]]) -> list[int] | None:
        """Prompt ids; the oldest turns go first when the context is full. None if the question alone is too long."""
        context = int(self.model.engine.context)
        room = min(32, context // 4)
        for skip in range(0, len(messages), 2):
            system = [{"role": "system", "content": self.system}] if self.system else []
            ids = self.model.tokenizer.encode_chat(system + messages[skip:], add_generation_prompt=True)
            if len(ids) + room <= context:
                return list(ids)
        return None

    def _stream(self, prompt: list[int]) -> str:
        from gristmill.generation import Sampling, TextStream

        engine, tokenizer, text = self.model.engine, self.model.tokenizer, TextStream(self.model.tokenizer, [])
        values = vars(self.settings) | {"max_tokens": min(self.settings.max_tokens, engine.context - len(prompt))}
        shown, finish, request = "", None, None
        try:
            request = engine.submit(prompt, Sampling(**values, stop_ids=tuple(sorted(tokenizer.stop_ids))))
            while finish is None:
                for event in engine.step():
                    finish = event.finish
                    if finish != "stop":
                        shown += _write(text.push(event.token))
            shown += _write(text.flush())
        except KeyboardInterrupt:
            typer.secho(" [stopped]", dim=True, nl=False)
        finally:
            if finish is None and request is not None:
                engine.cancel(request)
        typer.echo()
        return shown


def _write(text: str) -> str:
    typer.echo(text, nl=False)
    sys.stdout.flush()
    return text


def _loop(talk: Talk, terminal: bool) -> None:
    while True:
        try:
            line = _read("you > " if terminal else "")
        except EOFError:
            if terminal:
                typer.echo()
            return
        except KeyboardInterrupt:
            typer.secho("\n/quit leaves", dim=True)
            continue
        if not line.strip():
            continue
        name, _, rest = line.strip().partition(" ")
        if not name.startswith("/"):
            try:
                if terminal:
                    typer.secho("bot > ", fg="yellow", nl=False)
                talk.ask(line.strip())
            except KeyboardInterrupt:  # before the first token; `ask` itself keeps what was already written
                typer.secho("[stopped]", dim=True)
        elif name in ("/quit", "/exit"):
            return
        else:
            _obey(talk, name, rest.strip())


def _read(prompt: str) -> str:
    lines = [input(prompt)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("... " if prompt else ""))
    return "\n".join(lines)


def _obey(talk: Talk, name: str, rest: str) -> None:
    if name == "/help":
        typer.echo(HELP)
    elif name == "/reset":
        talk.messages.clear()
        typer.secho("Forgotten.", dim=True)
    elif name == "/again":
        talk.again()
    elif name == "/system":
        if rest:
            talk.system = rest
        typer.echo(talk.system or "(no system prompt)")
    elif name == "/set":
        try:
            talk.settings = talk.settings.changed(rest) if rest else talk.settings
            typer.echo(", ".join(f"{key}={value}" for key, value in vars(talk.settings).items()))
        except ValueError as error:
            typer.secho(str(error), fg="red", err=True)
    else:
        typer.secho(f"There is no {name}; /help lists the commands.", fg="red", err=True)
