"""`gristmill plan goal`: a short interview, and an advice with a recipe."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gristmill.planning.interview import Question


def command(
    purpose: Annotated[str | None, typer.Option(help="chat, write, classify or learn.")] = None,
    domain: Annotated[str | None, typer.Option(
        help="general, special (a field with words of its own) or code.")] = None,
    languages: Annotated[str | None, typer.Option(help="ISO 639-1 codes, e.g. en,de.")] = None,
    quality: Annotated[str | None, typer.Option(help="try, good or best.")] = None,
    text_mb: Annotated[str | None, typer.Option(help="Raw text at hand, in megabytes; --texts measures it.")] = None,
    examples: Annotated[str | None, typer.Option(
        help="Questions with answers at hand, or labelled texts; --conversations counts them.")] = None,
    budget_usd: Annotated[str | None, typer.Option(help="US dollars for computing; 0: only this machine.")] = None,
    days: Annotated[str | None, typer.Option(help="Days until it must be ready.")] = None,
    privacy: Annotated[str | None, typer.Option(
        help="open, private (texts stay with you) or own (besides, nobody else's weights).")] = None,
    texts: Annotated[str | None, typer.Option(help="Folder, file or pattern of your text, for the recipe.")] = None,
    conversations: Annotated[str | None, typer.Option(help=".jsonl file of your examples, for the recipe.")] = None,
    model: Annotated[str | None, typer.Option(
        help="Folder or .gguf file of the public model, in place of its hub id.")] = None,
    out: Annotated[Path, typer.Option(help="Where the recipe is written.")] = Path("my-model.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over another file that lies there.")] = False,
    hardware: Annotated[str, typer.Option(help="Device that the money rents.")] = "h100-sxm",
    memory_gb: Annotated[str | None, typer.Option(help="Memory of this machine; default: what it has.")] = None,
    region: Annotated[str | None, typer.Option(help="Where the electricity comes from, e.g. FR.")] = None,
    hardware_file: Annotated[Path | None, typer.Option(help="Your own rows of the tables; they win.")] = None,
    questions: Annotated[bool, typer.Option(
        help="Ask for what no option says; without a terminal nothing is asked.")] = True,
    html: Annotated[Path | None, typer.Option(help="Write the advice as a page here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """From what you want to a way of getting it: a public model, fine-tuning, or training, with a recipe to run.

    Example:  gristmill plan goal --purpose chat --domain special --text-mb 300 --examples 500 --budget-usd 200
    """
    from gristmill.core.errors import UserError
    from gristmill.core.files import write_atomic
    from gristmill.planning.advice import advise
    from gristmill.planning.advice_recipe import Inputs
    from gristmill.planning.inputs import number
    from gristmill.planning.interview import interview, measured_examples, measured_text
    from gristmill.planning.tables import from_files

    name = out.stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or out.suffix not in (".yaml", ".yml"):
        raise UserError(f"{out.name!r} is no name for a recipe", where="--out",
                        fix="letters, digits, - and _, then .yaml")
    given = {"purpose": purpose, "domain": domain, "languages": languages, "quality": quality, "text_mb": text_mb,
             "examples": examples, "budget_usd": budget_usd, "days": days, "privacy": privacy}
    known = {}
    if texts is not None:
        known["text_mb"] = measured_text(texts)
    if conversations is not None:
        known["examples"] = measured_examples(conversations)
    asks = questions and not as_json and sys.stdin.isatty()
    goal, assumed = interview(given, known, _ask if asks else None)
    tables = from_files(*([hardware_file] if hardware_file else []))
    memory = _memory() if memory_gb is None else number(memory_gb, "--memory-gb") * 1e9
    advice = advise(goal, tables, inputs=Inputs(texts, conversations, model), name=name, hardware=hardware,
                    memory_bytes=memory, threads=os.cpu_count() or 1, region=region, assumed=assumed)
    recipe = advice.recipe.encode()
    if out.exists() and out.read_bytes() != recipe and not force:
        raise UserError("another file lies here", where=str(out), fix="name another with --out, or say --force")
    write_atomic(out, recipe)
    if html is not None:
        from gristmill.pipeline.report.goal_sections import goal_sections
        from gristmill.pipeline.report.plan_page import write_plan_page

        write_plan_page(html, "Advice", advice.title, goal_sections(advice, out))
    if as_json:
        typer.echo(json.dumps({**advice.as_json(), "recipe_path": str(out)}, ensure_ascii=False, allow_nan=False))
        return
    from gristmill.cli.goal_text import goal_text

    typer.echo(goal_text(advice, out))
    if html is not None:
        typer.echo(f"page: {html}")


def _ask(question: Question) -> str:
    """Ask until the answer is one; Enter takes the default."""
    from gristmill.core.errors import UserError

    while True:
        choices = f" ({', '.join(question.choices)})" if question.choices else ""
        answer: str = typer.prompt(f"{question.text}{choices}", default=question.default)
        try:
            question.read(answer)
        except UserError as error:
            typer.echo(str(error), err=True)
            continue
        return answer


def _memory() -> float:
    """Bytes of this machine; 16 GB where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return 16e9
